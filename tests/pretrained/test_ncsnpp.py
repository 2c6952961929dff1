"""NCSN++ of diffusers with random weights: the same outputs and the same samples from the same noise."""

import json
import math
from itertools import zip_longest

import pytest
import torch
from diffusers import DDPMScheduler, ScoreSdeVeScheduler, UNet2DModel
from published import FIXTURES
from safetensors.torch import load_file, save_file
from scripts_in_process import run_script

import diffusion
from diffusion.errors import ConfigError
from diffusion.network.song_unet import SongUNet
from diffusion.pretrained import formats
from diffusion.pretrained.base import NETWORK, converted
from diffusion.pretrained.diffusers_ncsnpp import ncsnpp

DOWN, UP = ("SkipDownBlock2D", "AttnSkipDownBlock2D"), ("SkipUpBlock2D", "AttnSkipUpBlock2D")
SHAPES = {
    "narrow, heads of eight": {},
    "one head, centred input": {"attention_head_dim": None, "center_input_sample": True, "layers_per_block": 2},
    "groups of their own": {"attends": (1, 0, 1), "norm_num_groups": 16, "norm_eps": 1e-5},
    "odd widths": {"block_out_channels": (32, 96, 64), "sample_size": 32},
}


def saved(folder, attends=(0, 1, 0), **options):
    """A folder of a network with random weights and its scheduler -> the network."""
    settings = {
        "sample_size": 16, "block_out_channels": (32, 64, 64), "layers_per_block": 1, "norm_eps": 1e-6,
        "time_embedding_type": "fourier", "mid_block_scale_factor": 1.41421356237, "norm_num_groups": None,
        "down_block_types": [DOWN[there] for there in attends],
        "up_block_types": [UP[there] for there in reversed(attends)],
    }  # fmt: skip
    torch.manual_seed(0)
    unet = UNet2DModel(**settings | options).eval()
    for name, parameter in unet.named_parameters():
        if not name.startswith("time_proj"):
            torch.nn.init.normal_(parameter, std=0.2)
    unet.save_pretrained(folder / "unet")
    ScoreSdeVeScheduler(sigma_max=40.0, snr=0.2).save_pretrained(folder / "scheduler")
    return unet


def imported(folder, name):
    run_script(f"scripts/import.py format=diffusers path={folder / 'm'} name={name} paths.outputs={folder}")
    return diffusion.load(folder / "imported" / name)


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_of_this_shape_gives_the_same(shape, tmp_path):
    """Its output there is a score of images in [0, 1]; here it is the noise, of images in [-1, 1]."""
    unet = saved(tmp_path, **SHAPES[shape])
    sigma, size = torch.tensor([0.03, 17.0]), unet.config.sample_size
    u = torch.rand(2, 3, size, size) + sigma[:, None, None, None] * torch.randn(2, 3, size, size)
    theirs = unet(u, sigma).sample * -sigma[:, None, None, None]
    ours = network_of(formats.read("diffusers", tmp_path, None))(2 * u - 1, sigma.log())
    assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def network_of(published):
    """The network, every tensor of the file used."""
    keys = {key.partition(".")[2]: value for key, value in published.overrides.items() if key.startswith("network.")}
    network = SongUNet(3, published.overrides["data.resolution"], **keys).eval()
    state, dropped = converted(published, network)
    network.load_state_dict({name.removeprefix(NETWORK): value for name, value in state["ema"].items()})
    assert not dropped
    return network


@torch.no_grad()
def test_a_checkpoint_of_score_sde_with_skips_gives_the_same(tmp_path):
    """Of 128 channels, so that norms have 32 groups in both codes; modules are numbered as they run."""
    widths = {"block_out_channels": (128, 128), "attends": (0, 1), "attention_head_dim": None, "sample_size": 8}
    unet = saved(tmp_path / "m", **widths, center_input_sample=True)
    model = {"module.all_modules.0.W": unet.time_proj.weight}
    for number, (module, inner) in enumerate(as_they_run(unet), start=1):
        for name, value in module.state_dict().items():
            layer, _, kind = name.rpartition(".")
            there = NAMES.get(layer, layer)
            if there.startswith("NIN"):  # matrices that multiply from the right
                kind, value = ("W", value.T) if kind == "weight" else ("b", value)
            model[".".join(word for word in (f"module.all_modules.{number}", inner, there, kind) if word)] = value
    trained = [value for name, value in model.items() if not name.endswith(".0.W")]
    torch.save({"model": model, "ema": {"shadow_params": trained}}, tmp_path / "checkpoint_1.pth")
    config = json.loads((FIXTURES / "score_sde_ncsnpp_ve" / "config.json").read_text())
    config["data"]["image_size"] = 8
    config["model"] |= {"nf": 128, "ch_mult": [1, 1], "attn_resolutions": [4], "progressive": "output_skip",
                        "progressive_input": "input_skip"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = network_of(formats.read("score_sde", tmp_path, None))
    u, sigma = torch.rand(2, 3, 8, 8), torch.tensor([0.3, 2.0])
    theirs = unet(u, sigma).sample * -sigma[:, None, None, None]
    ours = network(2 * u - 1, sigma.log())
    assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def as_they_run(unet):
    """The modules with parameters, each with the name that its layer has inside a module of score SDE."""
    yield from ((module, "") for module in (unet.time_embedding.linear_1, unet.time_embedding.linear_2, unet.conv_in))
    for way, blocks in (("down", unet.down_blocks), ("middle", [unet.mid_block]), ("up", unet.up_blocks)):
        for block in blocks:
            parts = dict(block.named_children())
            attends = list(parts.get("attentions", ()))
            if way == "up":  # attention follows the last block of a level
                ordered = [*parts["resnets"], *attends]
            else:
                ordered = [x for pair in zip_longest(parts["resnets"], attends) for x in pair if x is not None]
            yield from ((module, "") for module in ordered)
            for name in ("resnet_down", "skip_conv") if way == "down" else ("skip_norm", "skip_conv", "resnet_up"):
                if name in parts:
                    yield parts[name], "Conv_0" if (way, name) == ("down", "skip_conv") else ""
    yield from ((unet.conv_norm_out, ""), (unet.conv_out, ""))


NAMES = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "time_emb_proj": "Dense_0", "norm2": "GroupNorm_1",
         "conv2": "Conv_1", "conv_shortcut": "Conv_2", "group_norm": "GroupNorm_0", "to_q": "NIN_0", "to_k": "NIN_1",
         "to_v": "NIN_2", "to_out.0": "NIN_3"}  # fmt: skip
"""diffusers' names inside a module, and score SDE's."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a pipeline's scheduler, its network, and what is made of it here."""
    folder = tmp_path_factory.mktemp("ncsnpp")
    unet = saved(folder / "m")
    ScoreSdeVeScheduler(200, 0.2, 0.02, 40.0, 1e-4, correct_steps=2).save_pretrained(folder / "m" / "scheduler")
    return folder, unet, imported(folder, "x")


@torch.no_grad()
def test_five_steps_end_where_those_of_diffusers_end(run):
    """The loop of its pipeline, for one image: there norms of a correction are means over the batch."""
    folder, unet, loaded = run
    assert (loaded.sampler.steps, loaded.sampler.snr, loaded.sampler.corrections) == (200, 0.2, 2)
    scheduler = ScoreSdeVeScheduler.from_pretrained(folder / "m" / "scheduler")
    there, here = (torch.Generator().manual_seed(3) for _ in range(2))
    scheduler.set_timesteps(5)
    scheduler.set_sigmas(5)
    start = scheduler.init_noise_sigma * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    u, last = start, start
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=True):
        for _ in range(scheduler.config.correct_steps):
            u = scheduler.step_correct(unet(u, sigma[None]).sample, u, generator=there).prev_sample
        step = scheduler.step_pred(unet(u, sigma[None]).sample, t, u, generator=there)
        u, last = step.prev_sample, step.prev_sample_mean
    sampler = loaded.sampler.with_steps(5)
    std = sampler.prior_std(loaded.schedule, loaded.schedule.level(1.0))
    noise, randn_like = (2 * start - 1) / std, lambda x: torch.randn(x.shape, generator=here)
    ours = (sampler(loaded.guided(), noise, loaded.condition({}), randn_like=randn_like) + 1) / 2
    assert float((ours - last).abs().max()) <= 1e-4 * max(1.0, float(last.abs().max()))


def test_the_network_reads_the_logarithm_of_their_sigma(run):
    denoiser, t = run[2].denoiser, torch.linspace(0, 1, 7, dtype=torch.float64)[1:]
    theirs = math.log(0.02) + t * math.log(40.0 / 0.02)
    torch.testing.assert_close(denoiser.c_noise(t), theirs, rtol=0, atol=1e-9)
    torch.testing.assert_close(denoiser.schedule.sigma(t), 2 * theirs.exp())


def test_a_file_of_the_first_version_is_the_same(run):
    """Attention by its old names, and the frequencies a second time; a pipeline with its index."""
    folder, _, loaded = run
    file = folder / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        tensors = {name.replace(f".{new}.", f".{old}."): value for name, value in tensors.items()}
    file.unlink()  # of which the run folder keeps its own
    save_file({**tensors, "time_proj.W": tensors["time_proj.weight"].clone()}, file)
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "ScoreSdeVeScheduler"]}
    (folder / "m" / "model_index.json").write_text(json.dumps({"_class_name": "ScoreSdeVePipeline", **parts}))
    before, after = loaded.state_dict(), imported(folder, "old").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    origin = json.loads((folder / "imported" / "old" / "origin.json").read_text())
    assert list(origin["dropped"]) == ["time_proj.W"]


def test_it_is_not_written_for_diffusers(run, capsys):
    folder = run[0]
    with pytest.raises(pytest.fail.Exception):
        run_script(f"scripts/export.py run={folder / 'imported' / 'x'} output={folder / 'out'}")
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "no counterpart of SongUNet that is written here; use format=safetensors" in sentence
    assert not (folder / "out").exists()


CONFIG = {
    "sample_size": 16, "block_out_channels": [32, 64], "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
    "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"], "time_embedding_type": "fourier",
    "mid_block_scale_factor": math.sqrt(2),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"time_embedding_type": "positional"}, "time_embedding_type='positional', and only fourier"),
        ({"mid_block_scale_factor": 1}, "mid_block_scale_factor=1, and only 1.41421"),
        ({"in_channels": 4}, "in_channels=4, and only 3"),
        ({"num_class_embeds": 10}, "num_class_embeds=10, and only None"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift='scale_shift', and only default"),
        ({"add_attention": False}, "add_attention=False, and only True"),
        ({"attn_norm_num_groups": 8}, "attn_norm_num_groups=8, and only None or 32"),
        ({"sample_size": [16, 32]}, r"sample_size=\[16, 32\], and only squares"),
        ({"down_block_types": ["DownBlock2D", "AttnSkipDownBlock2D"]}, "DownBlock2D in down_block_types"),
        ({"up_block_types": ["SkipUpBlock2D", "AttnSkipUpBlock2D"]}, "does not mirror"),
        ({"block_out_channels": [32, 16], "down_block_types": ["AttnSkipDownBlock2D", "SkipDownBlock2D"],
          "up_block_types": ["SkipUpBlock2D", "AttnSkipUpBlock2D"]}, r"block_out_channels=\[32, 16\]"),
        ({"invented": 1}, "not supported here: invented"),
    ],
)  # fmt: skip
def test_fields_that_are_not_honoured(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ncsnpp({**CONFIG, **change})
    ncsnpp(CONFIG)


def test_a_scheduler_of_another_process_is_refused(tmp_path):
    saved(tmp_path / "score")
    DDPMScheduler().save_pretrained(tmp_path / "score" / "scheduler")
    plain = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": (8,)}
    UNet2DModel(layers_per_block=1, norm_num_groups=4, **plain).save_pretrained(tmp_path / "noise" / "unet")
    ScoreSdeVeScheduler().save_pretrained(tmp_path / "noise" / "scheduler")
    for folder, scheduler in (("score", "DDPMScheduler"), ("noise", "ScoreSdeVeScheduler")):
        with pytest.raises(ConfigError, match=f"has the scheduler {scheduler}; .* go with each other"):
            formats.read("diffusers", tmp_path / folder, None)
