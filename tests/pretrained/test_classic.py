"""DDIM and score SDE, against what their codes computed."""

import json
import math

import numpy as np
import pytest
import torch
from published import FIXTURES, Expected, imported, model

from diffusion.errors import ConfigError
from diffusion.pretrained.formats import score_sde
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.geometric import GeometricSchedule
from diffusion.spacing.indices import IndicesSpacing


@pytest.fixture(scope="module")
def ddim(tmp_path_factory):
    return imported("ddim_ckpt_list", "ddim", tmp_path_factory.mktemp("ddim"))


@torch.no_grad()
def test_ddim_gives_what_its_code_gives(ddim):
    expected = Expected("ddim_ckpt_list")
    for weights, key in (("raw", "raw_model_output"), ("ema", "model_output")):
        network = model(ddim, weights).denoiser.network
        expected.check(key, network(expected["x"], expected["timesteps"].float()))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["uniform", "quad"])
def test_ddim_samples_as_its_code_samples(ddim, kind):
    expected = Expected("ddim_ckpt_list")
    indices = range(0, 1000, 200) if kind == "uniform" else [int(s) for s in np.linspace(0, 800**0.5, 5) ** 2]
    sampler = DDIMSampler(5, IndicesSpacing(list(indices)[::-1]))
    expected.check(f"ddim5_{kind}_sample", sampler(model(ddim, "ema").denoiser, expected["noise"]))


@pytest.fixture(scope="module")
def ncsnpp(tmp_path_factory):
    return imported("score_sde_ncsnpp_ve", "score_sde", tmp_path_factory.mktemp("ncsnpp"))


@torch.no_grad()
def test_ncsnpp_gives_what_its_code_gives(ncsnpp):
    """x in [0, 1] is 2 x - 1 here, in twice the noise, and its score half as large."""
    expected = Expected("score_sde_ncsnpp_ve")
    sigma = 0.01 * (50 / 0.01) ** expected["t"]  # in float32, as there: features turn by hundreds of periods
    for weights, key in (("raw", "raw_model_output"), ("ema", "model_output"), ("ema", "score")):
        denoiser = model(ncsnpp, weights).denoiser
        eps = denoiser.network(2 * expected["x"] - 1, sigma.log())
        expected.check(key, eps / sigma[:, None, None, None] * -1)
    t = expected["t"].double()
    torch.testing.assert_close(denoiser.c_noise(t), sigma.double().log(), rtol=0, atol=1e-6)


@torch.no_grad()
def test_ncsnpp_follows_the_probability_flow_as_its_code_does(ncsnpp):
    """Reverse diffusion without its noise: five steps of x - (sigma^2 - sigma'^2) score / 2, the last one denoised."""
    expected = Expected("score_sde_ncsnpp_ve")
    denoiser = model(ncsnpp, "ema").denoiser
    x = 50 * expected["noise"]
    times = torch.linspace(1, 1e-5, 5).double()
    table = 0.01 * 5000 ** torch.linspace(0, 1, 5).double()
    for t in times:
        here = int(t * 4)
        below = table[here - 1] if here else 0.0
        score = -denoiser(2 * x - 1, t).eps / (0.01 * 5000**t)
        x = x + ((table[here] ** 2 - below**2) * score / 2).float()
    expected.check("pf_sample", x)


def score_sde_overrides(folder, sde, continuous, sampling=None, **model):
    """Of the config of a fixture with other settings, over a file of one tensor."""
    config = json.loads((FIXTURES / "score_sde_ncsnpp_ve" / "config.json").read_text(encoding="utf-8"))
    config["training"] |= {"sde": sde, "continuous": continuous}
    config["model"] |= model
    config["sampling"] = sampling or {}
    config["data"]["centered"] = sde != "vesde"
    weight = torch.ones(1)
    torch.save({"model": {"module.a": weight}, "ema": {"shadow_params": [weight]}}, folder / "checkpoint_1.pth")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return score_sde.read(folder, None).overrides


def test_score_sde_has_its_processes(tmp_path):
    positional = {"embedding_type": "positional", "scale_by_sigma": False, "fir": False, "progressive_input": "none"}
    found = score_sde_overrides(tmp_path, "vpsde", True, **positional)
    assert (found["schedule"], found["schedule.beta_max"], found["network.taps"]) == ("vp", 20.0, None)
    assert score_sde_overrides(tmp_path, "subvpsde", True, **positional)["schedule"] == "sub_vp"
    found = score_sde_overrides(tmp_path, "vpsde", False, **positional)
    assert (found["schedule"], found["schedule.beta_start"], found["schedule.beta_end"]) == ("linear", 1e-4, 0.02)
    found = score_sde_overrides(tmp_path, "vesde", False, embedding_type="positional")
    schedule = GeometricSchedule(found["schedule.sigma_min"], found["schedule.sigma_max"])
    scale, shift = (found[f"module.model.denoiser.time_{name}"] for name in ("scale", "shift"))
    noise = 2 * torch.linspace(math.log(50), math.log(0.01), 1000, dtype=torch.float64).exp()
    times = torch.tensor([schedule.time(float(level)) for level in noise], dtype=torch.float64)
    torch.testing.assert_close(
        scale * schedule.c_noise(times) + shift, torch.arange(1000.0).double(), atol=1e-6, rtol=0
    )


def test_score_sde_has_its_samplers(tmp_path):
    """As the configs of its repository have them: VE of images of 256 pixels, and VP."""
    pc = {"method": "pc", "noise_removal": True, "probability_flow": False}
    ve = {**pc, "predictor": "reverse_diffusion", "corrector": "langevin", "n_steps_each": 1, "snr": 0.075}
    found = score_sde_overrides(tmp_path, "vesde", True, ve)
    assert (found["sampler"], found["sampler.corrections"], found["sampler.snr"]) == ("predictor_corrector", 1, 0.075)
    assert score_sde_overrides(tmp_path, "vesde", True, {**ve, "corrector": "none"})["sampler.corrections"] == 0
    vp = {**pc, "predictor": "euler_maruyama", "corrector": "none", "n_steps_each": 1, "snr": 0.16}
    positional = {"embedding_type": "positional", "scale_by_sigma": False, "fir": False, "progressive_input": "none"}
    assert score_sde_overrides(tmp_path, "vpsde", True, vp, **positional)["sampler"] == "euler_maruyama"
    for wrong in ({"method": "ode"}, {"predictor": "ancestral_sampling"}, {"corrector": "ald"}):
        with pytest.raises(ConfigError, match=f"sampling.{next(iter(wrong))}="):
            score_sde_overrides(tmp_path, "vesde", True, {**ve, **wrong})


def test_score_sde_refuses_what_it_has_not(tmp_path):
    for wrong in ({"progressive": "residual"}, {"resblock_type": "ddpm"}, {"unheard": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            score_sde_overrides(tmp_path, "vesde", True, **wrong)
    for wrong in ({"fir": False}, {"progressive_combine": "cat"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            score_sde_overrides(tmp_path, "vesde", True, progressive_input="input_skip", **wrong)
