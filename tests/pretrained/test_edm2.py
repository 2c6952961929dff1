"""EDM2's pickles with random weights, against its equations written out."""

import math

import pytest
import torch
from edm2_network import Net
from nvidia_files import EasyDict, Persistent, nested, save
from published import model
from scripts_in_process import run_script

from diffusion.errors import ConfigError
from diffusion.pretrained.formats import edm2

SIZES = {"img_resolution": 16, "img_channels": 3, "label_dim": 4, "model_channels": 16, "channel_mult": [1, 2],
         "num_blocks": 1, "attn_resolutions": [8], "channels_per_head": 16}  # fmt: skip


def pickled(folder, net, encoder=None, name="Precond"):
    unet = nested(net.w, "UNet", net.c, ("freqs", "phases"))
    logvar = nested({"weight": torch.ones(1, 8)}, "MPConv", {})
    whole = Persistent(name, {}, {"unet": unet, "logvar_linear": logvar}, sigma_data=0.5, use_fp16=True)
    return save({"ema": whole, "encoder": encoder}, folder / "it.pkl")


@torch.no_grad()
def test_edm2(tmp_path):
    net = Net(SIZES)
    rgb = Persistent("StandardRGBEncoder", {}, {}, _init_kwargs=EasyDict())
    run_script(f"scripts/import.py format=edm2 path={pickled(tmp_path, net, rgb)} name=it paths.outputs={tmp_path}")
    loaded = model(tmp_path / "imported" / "it", "ema")
    label = torch.tensor([0, 3])
    cond = loaded.condition({"label": label})
    for sigma in (0.01, 1.0, 60.0):
        y = torch.randn(2, 3, 16, 16) * math.hypot(sigma, 0.5)
        t, r = loaded.schedule.time(sigma), math.hypot(sigma, 0.5)
        one_hot = torch.nn.functional.one_hot(label, 4).float()
        F = net(y / r, torch.full((2,), math.log(sigma) / 4), one_hot)
        due = 0.25 / r**2 * y + sigma * 0.5 / r * F
        torch.testing.assert_close(loaded.denoiser(y, t, cond).x0, due, rtol=1e-4, atol=1e-4 * float(due.abs().max()))
    null = net(y / r, torch.full((2,), math.log(sigma) / 4), torch.zeros(2, 4))
    found = loaded.denoiser.network(y / r, torch.full((2,), math.log(sigma) / 4), cond.drop())
    torch.testing.assert_close(found, null, rtol=1e-4, atol=1e-4)


def test_latents_of_edm2_have_a_mean_and_a_spread_for_each_channel(tmp_path):
    net = Net(SIZES | {"img_channels": 4})
    vae = Persistent("StabilityVAEEncoder", {}, {}, _init_kwargs=EasyDict(batch_size=8))
    found = edm2.read(pickled(tmp_path, net, vae), None).overrides
    assert (found["data.resolution"], found["autoencoder.pretrained"]) == (128, "stabilityai/sd-vae-ft-mse")
    assert found["autoencoder.shift"] == [5.81, 3.25, 0.12, -2.15]
    assert found["autoencoder.scale"][0] == pytest.approx(0.5 / 4.17)


def test_what_edm2_has_not_is_refused(tmp_path):
    net = Net(SIZES)
    net.c = SIZES | {"res_balance": 0.5}
    with pytest.raises(ConfigError, match=r"res_balance=0\.5"):
        edm2.read(pickled(tmp_path, net), None)
    net.c = SIZES
    with pytest.raises(ConfigError, match="format=edm"):
        edm2.read(pickled(tmp_path, net, name="EDMPrecond"), None)
    with pytest.raises(ConfigError, match="OtherEncoder"):
        edm2.read(pickled(tmp_path, net, Persistent("OtherEncoder", {}, {})), None)
