"""EDM's pickles with random weights, against its equations written out."""

import math

import numpy as np
import pytest
import torch
from edm_networks import Net
from nvidia_files import nested, save
from published import model
from scripts_in_process import run_script

from diffusion.errors import ConfigError
from diffusion.pretrained.formats import edm

SIZES = {"img_resolution": 16, "in_channels": 3, "out_channels": 3, "label_dim": 0, "augment_dim": 9}
SONG = {
    **SIZES,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.13,
}
NCSNPP = {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1],
          "channel_mult_noise": 2}  # fmt: skip
ADM = SONG | {"model_channels": 64, "channel_mult": [1, 2], "label_dim": 3}


def pickled(folder, net, name, precond, **state):
    """A snapshot of the network in its preconditioning."""
    inner = nested(net.w | {"enc.16x16_conv.resample_filter": torch.ones(1)}, name, net.c, ("freqs", "resample_filter"))
    whole = nested({}, precond, {})
    whole.state |= {"_modules": {"model": inner}, "sigma_min": np.float64(0.02), "img_resolution": 16, **state}
    return save({"ema": whole, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {}}, folder / "it.pkl")


def run_of(folder, *args, **state):
    file = pickled(folder, *args, **state)
    run_script(f"scripts/import.py format=edm path={file} name=it paths.outputs={folder}")
    return model(folder / "imported" / "it", "ema")


@torch.no_grad()
def check(loaded, net, denoise, sigmas, label=None):
    """D(x, sigma) of the paper's table 1 is E[x_0] here."""
    one_hot = None if label is None else torch.nn.functional.one_hot(label, net.c["label_dim"]).float()
    cond = loaded.condition({} if label is None else {"label": label})
    for sigma in sigmas:
        y = torch.randn(2, 3, 16, 16) * math.hypot(sigma, 0.5)
        t = loaded.schedule.time(sigma)
        level = loaded.schedule.level(t)
        assert level.noise == pytest.approx(sigma, rel=1e-6)
        due = denoise(lambda x, c: net(x, torch.full((2,), float(c)), one_hot), y, sigma)
        found = loaded.denoiser(level.alpha * y, t, cond).x0
        torch.testing.assert_close(found, due, rtol=1e-4, atol=1e-4 * float(due.abs().max()))


def test_edm_precond_of_ddpmpp_with_classes(tmp_path):
    net = Net(True, SONG | {"label_dim": 3})
    loaded = run_of(tmp_path, net, "SongUNet", "EDMPrecond", sigma_data=0.5, sigma_max=math.inf)

    def denoise(f, y, s):
        skip, out, r = 0.25 / (s**2 + 0.25), s * 0.5 / math.hypot(s, 0.5), math.hypot(s, 0.5)
        return skip * y + out * f(y / r, math.log(s) / 4)

    check(loaded, net, denoise, (0.02, 1.0, 40.0), torch.tensor([0, 2]))
    null = loaded.conditioner.embedding.weight[-1]
    torch.testing.assert_close(null, net.w["map_label.bias"])  # zeros for the one-hot label


def test_vp_precond_of_ddpmpp(tmp_path):
    net = Net(True, SONG)
    loaded = run_of(tmp_path, net, "SongUNet", "VPPrecond", beta_d=19.9, beta_min=0.1, M=1000, epsilon_t=1e-5)

    def denoise(f, y, s):
        t = (math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + s**2)) - 0.1) / 19.9
        return y - s * f(y / math.sqrt(s**2 + 1), 999 * t)

    check(loaded, net, denoise, (0.1, 1.0, 20.0))


def test_ve_precond_of_ncsnpp(tmp_path):
    net = Net(True, SONG | NCSNPP)
    loaded = run_of(tmp_path, net, "SongUNet", "VEPrecond", sigma_max=100.0)
    check(loaded, net, lambda f, y, s: y + s * f(y, math.log(s / 2)), (0.05, 1.0, 30.0))


def test_iddpm_precond_of_adm_with_classes(tmp_path):
    net = Net(False, ADM | {"out_channels": 6})
    loaded = run_of(tmp_path, net, "DhariwalUNet", "iDDPMPrecond", M=1000, C_1=0.001, C_2=0.008)
    bar = [math.sin(math.pi / 2 * j / 1000 / 1.008) ** 2 for j in range(1001)]
    u = [0.0] * 1001
    for j in range(1000, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(bar[j - 1] / bar[j], 0.001) - 1)

    def denoise(f, y, s):
        index = min(range(1001), key=lambda j: abs(u[j] - s))
        return y - s * f(y / math.sqrt(s**2 + 1), 999 - index)[:, :3]

    check(loaded, net, denoise, (u[900], u[500], u[100]), torch.tensor([1, 2]))


def test_what_edm_has_not_is_refused(tmp_path):
    net = Net(True, SONG)
    for key, value in (("decoder_type", "skip"), ("encoder_type", "skip"), ("unheard", 1)):
        net.c = SONG | {key: value}
        with pytest.raises(ConfigError, match=key):
            edm.read(pickled(tmp_path, net, "SongUNet", "EDMPrecond"), None)
    net.c = SONG
    with pytest.raises(ConfigError, match="is a UnetPrecond"):
        edm.read(pickled(tmp_path, net, "SongUNet", "UnetPrecond"), None)
    with pytest.raises(ConfigError, match="only SongUNet and DhariwalUNet"):
        edm.read(pickled(tmp_path, net, "OtherUNet", "EDMPrecond"), None)
