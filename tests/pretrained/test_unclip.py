"""unCLIP's models of diffusers (Karlo's layout) with random weights, against diffusers' own networks and pipeline."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from scripts_in_process import run_script
from tiny_unclip import unclip_pipeline

import diffusion
from diffusion.errors import ConfigError
from diffusion.network.prior import PriorTransformer
from diffusion.network.unet import UNet
from diffusion.pretrained import formats
from diffusion.pretrained.base import NETWORK
from diffusion.pretrained.diffusers_unet import unet2d_links
from diffusion.pretrained.unclip import decoder, decoder_links, prior, prior_links, upsampler

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
PROMPTS = ["a red heart", "two stars"]
STAGES = ("prior", "decoder", "super_res", "super_res_last")


@pytest.fixture(scope="module")
def karlo(tmp_path_factory):
    """diffusers' pipeline, and the folder of the run folders that were made of it."""
    folder = tmp_path_factory.mktemp("karlo")
    pipe = unclip_pipeline(folder)
    pipe.save_pretrained(folder / "pipe")
    run_script(f"scripts/import.py format=diffusers path={folder / 'pipe'} name=karlo paths.outputs={folder}")
    return pipe, folder / "imported" / "karlo"


@pytest.fixture(scope="module")
def stages(karlo):
    return {name: diffusion.load(karlo[1] / name) for name in STAGES}


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def same(found, due, tolerance=1e-5):
    assert found.shape == due.shape
    assert float((found - due).abs().max()) <= tolerance * max(1.0, float(due.abs().max()))


@torch.no_grad()
def test_every_network_gives_what_diffusers_gives(karlo, stages):
    pipe, t = karlo[0], torch.tensor([3, 870])
    embeds, tokens, mask = pipe._encode_prompt(PROMPTS, "cpu", 1, False)
    x, embedding = normal(2, 16), normal(3, 16)[1:]
    cond = stages["prior"].condition({"text": PROMPTS})
    due = pipe.prior(x, t, embeds, tokens, mask).predicted_image_embedding
    same(stages["prior"].denoiser.network(x, t.float(), cond), due)
    same(stages["prior"].decode(x), pipe.prior.post_process_latents(x))

    columns = {"text": PROMPTS, "image_embedding": embedding}
    context, added = pipe.text_proj(
        image_embeddings=embedding,
        prompt_embeds=embeds,
        text_encoder_hidden_states=tokens,
        do_classifier_free_guidance=False,
    )
    whole = torch.nn.functional.pad(mask, (4, 0), value=True)
    x = normal(2, 3, 8, 8)
    due = pipe.decoder(x, t, context, class_labels=added, attention_mask=whole).sample
    same(stages["decoder"].denoiser.network(x, t.float(), stages["decoder"].condition(columns)), due)

    x, low = normal(2, 3, 16, 16), normal(2, 3, 8, 8).clamp(-1, 1)
    large = torch.nn.functional.interpolate(low, (16, 16), mode="bicubic", antialias=True)
    for name, theirs in (("super_res", pipe.super_res_first), ("super_res_last", pipe.super_res_last)):
        own = stages[name]
        due = theirs(torch.cat((x, large), 1), t).sample
        same(own.denoiser.network(x, t.float(), own.condition({"low_resolution": low})), due)


def in_float64(scheduler):
    """The same table without the rounding of float32, which is a thousandth of 1 - alpha at its first index."""
    alpha_bar = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    betas = torch.tensor([min(1 - b / a, 0.999) for a, b in pairwise(alpha_bar)], dtype=torch.float64)
    torch.testing.assert_close(betas.float(), scheduler.betas, rtol=1e-3, atol=1e-7)
    scheduler.betas, scheduler.alphas = betas, 1 - betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)


@torch.no_grad()
def test_stages_draw_what_the_pipeline_draws(karlo, stages, monkeypatch):
    pipe = karlo[0]
    for name in ("prior", "decoder", "super_res"):
        in_float64(getattr(pipe, f"{name}_scheduler"))
    noise = {"prior": normal(2, 16), "decoder": normal(2, 3, 8, 8), "super_res": normal(2, 3, 16, 16)}
    random = torch.Generator()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_unclip.randn_tensor",
        lambda shape, **keys: torch.randn(tuple(shape), generator=random),
    )

    def theirs(scale=1.0):
        random.manual_seed(0)
        latents = {f"{name}_latents": scale * value for name, value in noise.items()}
        steps = dict.fromkeys(("prior_num_inference_steps", "decoder_num_inference_steps"), 5)
        found = pipe(PROMPTS, **latents, **steps, super_res_num_inference_steps=4, output_type="np").images
        return torch.from_numpy(found).permute(0, 3, 1, 2)

    def ours():
        random.manual_seed(0)
        columns, drawn, names = {"text": PROMPTS}, None, {"decoder": "image_embedding", "super_res": "low_resolution"}
        for name, steps in (("prior", 5), ("decoder", 5), ("super_res", 4)):
            own = stages[name]
            columns |= {names[name]: drawn} if name in names else {}
            cond, sampler = own.condition(columns), own.sampler.with_steps(steps)
            fresh = {"randn_like": lambda x: torch.randn(x.shape, generator=random)}
            drawn = own.decode(sampler(own.guided(), noise[name], cond, **fresh))
            drawn = drawn if name == "prior" else drawn.clamp(-1, 1)
        return drawn * 0.5 + 0.5

    due = theirs()
    sensitivity = float((theirs(1 + 1e-7) - due).abs().max())
    assert float((ours() - due).abs().max()) < max(1e-4, 10 * sensitivity)


def test_published_sizes_and_every_name():
    """The configs that Karlo publishes, on the meta device."""
    plain, crossed = ["ResnetDownsampleBlock2D"], ["SimpleCrossAttnDownBlock2D"] * 3
    sizes = {
        "block_out_channels": [320, 640, 960, 1280], "layers_per_block": 3, "resnet_time_scale_shift": "scale_shift",
    }  # fmt: skip
    with torch.device("meta"):
        theirs = diffusers.PriorTransformer()
        own = prior(theirs.config)
        keys = {key.partition(".")[2]: value for key, value in own.items() if "." in key}
        network = PriorTransformer(cond_dim=768, token_dim=768, **keys)
        expect(theirs, network, prior_links(network), 1022, {"clip_mean", "clip_std"})

        theirs = diffusers.UNet2DConditionModel(
            sample_size=64, in_channels=3, out_channels=6, attention_head_dim=64, class_embed_type="identity",
            cross_attention_dim=1536, down_block_types=plain + crossed, mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"], **sizes,
        )  # fmt: skip
        own = decoder(theirs.config)
        keys = {key.partition(".")[2]: value for key, value in own.items() if key.startswith("network.")}
        network = UNet(3, 64, learned_variance=True, **keys)
        links = [x for x in decoder_links({}, 1536, 4)(network) if x.ours.startswith(NETWORK)]
        expect(theirs, network, links, 885)

        theirs = diffusers.UNet2DModel(
            sample_size=256, in_channels=6, out_channels=3, down_block_types=plain * 4, add_attention=False,
            up_block_types=["ResnetUpsampleBlock2D"] * 4, **sizes,
        )  # fmt: skip
        own = upsampler(theirs.config, 64)
        keys = {key.partition(".")[2]: value for key, value in own.items() if key.startswith("network.")}
        network = UNet(3, 256, image_channels=3, **keys)
        expect(theirs, network, unet2d_links(network, {}), 730)


def expect(theirs, network, links, millions, dropped=frozenset()):
    """Every tensor of one has its place in the other, with as many numbers; and so many parameters are published."""
    links, their, own = list(links), theirs.state_dict(), network.state_dict()
    assert {name for link in links for name in link.theirs} | {*dropped} == their.keys()
    assert {link.ours.removeprefix(NETWORK) for link in links} == own.keys()
    for link in links:
        assert sum(their[name].numel() for name in link.theirs) == own[link.ours.removeprefix(NETWORK)].numel()
    assert round(sum(p.numel() for p in theirs.parameters()) / 1e6) == millions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": ["diffusers", "UNet2DModel"]}, "decoder is UNet2DModel, and only UNet2DConditionModel"),
        ({"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}, "a pipeline with image_encoder"),
    ],
)
def test_other_pipelines_are_refused(karlo, tmp_path, change, message):
    index = json.loads((karlo[1].parents[1] / "pipe" / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(ConfigError, match=message):
        formats.read("diffusers", tmp_path, None)


@pytest.mark.parametrize(
    ("read", "config", "message"),
    [
        (prior, {"added_emb_type": None}, "added_emb_type=None, and only prd"),
        (prior, {"new_field": 1}, "not supported here: new_field"),
        (decoder, {"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]},
         "has the blocks DownBlock2D"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(read, config, message):
    with pytest.raises(ConfigError, match=message):
        read(config)


def test_an_upsampler_of_other_sizes_is_refused(karlo):
    with pytest.raises(ConfigError, match="to 16 pixels does not follow a decoder of 12"):
        upsampler(karlo[0].super_res_first.config, 12)
