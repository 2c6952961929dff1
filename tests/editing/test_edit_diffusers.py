"""Edits beside the pipelines of diffusers: the same weights, latents, masks and noise, in float64.

What differs in the end, 1e-6 and less, comes of their tables and embeddings of time, which are float32.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img, pipeline_stable_diffusion_inpaint
from diffusers.schedulers import scheduling_repaint
from random_pipelines import stable_diffusion
from scripts_in_process import run_script
from torch import Tensor

import diffusion
from diffusion.denoiser import NetworkDenoiser
from diffusion.editing import DiffEdit, InpaintEdit, InvertEdit, RestyleEdit
from diffusion.editing import pipeline as editing
from diffusion.editing.base import Edit, Subject
from diffusion.editing.diffedit import difference
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.guidance.repaint import RePaintGuidance
from diffusion.model import DiffusionModel
from diffusion.operator.mask import MaskOperator
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.pipeline.base import Request
from diffusion.randomness import SAMPLING, KeyedRandomness
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.linear import LinearSchedule
from diffusion.spacing.uniform import UniformSpacing
from diffusion.types import Cond

STEPS, SCALE, TOLERANCE = 10, 3.0, 1e-5
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
             "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip
"""Stable Diffusion's; what it ends at keeps the noise of the table's first level."""
DIFFEDIT = "diffusers.pipelines.deprecated.stable_diffusion_diffedit.pipeline_stable_diffusion_diffedit"


class Both:
    """One set of weights: the pipelines of diffusers around it, and the run that it was imported as."""

    def __init__(self, folder: Path, fills: bool = False) -> None:
        base = stable_diffusion(folder / "words", diffusers.DDIMScheduler(**SCHEDULER), fills)
        base.save_pretrained(folder / "there")
        run_script(f"scripts/import.py format=diffusers path={folder / 'there'} name=sd paths.outputs={folder}")
        self.model: DiffusionModel = diffusion.load(folder / "imported" / "sd").double()
        self.parts = {k: v for k, v in base.to(torch.float64).components.items() if k != "image_encoder"}

    def pipeline(self, kind: str, **more: Any) -> Any:
        made = getattr(diffusers, kind)(**{**self.parts, **more}, requires_safety_checker=False)
        made.set_progress_bar_config(disable=True)
        return made


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("sd"))


class Watched:
    """An edit that keeps what it was given, and what it made before that is decoded."""

    def __init__(self, edit: Edit) -> None:
        self.edit = edit

    def __getattr__(self, name: str) -> Any:
        return getattr(self.edit, name)

    def __call__(self, subject: Subject) -> Tensor:
        self.subject, self.made = subject, self.edit(subject)
        return self.made


def edited(both: Both, edit: Edit, mask: Tensor | None = None, scale: float = SCALE) -> Watched:
    """Two images, each under its prompt, through the whole of our pipeline."""
    watched: Any = Watched(edit)
    image = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pipeline = editing.EditPipeline(
        both.model,
        watched,
        sampler=DDIMSampler(STEPS, UniformSpacing(1), final="first"),
        guidance={"classifier_free": lambda d: ClassifierFreeGuidance(d, scale)},
        batch_size=2,
    )
    pipeline.images(torch.arange(2), 0, Request(text=["a red heart", "two stars"], image=image, mask=mask))
    return watched


def words(subject: Subject) -> dict[str, Any]:
    """The tokens of a subject's prompts, as keywords of a pipeline."""
    assert subject.cond.null is not None
    return {
        "prompt_embeds": subject.cond.tokens.double(),
        "negative_prompt_embeds": subject.cond.null.tokens.double().expand_as(subject.cond.tokens),
        "guidance_scale": SCALE,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }


def told(noise: Tensor) -> Any:
    """diffusers' source of noise, which gives this."""
    return lambda shape, **keywords: noise.reshape(shape)


@torch.no_grad()
def close(found: Tensor, due: Tensor) -> None:
    error = float((found - due).abs().max() / due.abs().max())
    print(f"differs by {error:.1e}")
    assert due.std() > 0.01
    assert error < TOLERANCE


@pytest.mark.parametrize("strength", [0.35, 0.8, 1.0])
def test_restyle_is_image_to_image(strength: float, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs takes the last int(strength N) of N steps, and begins at the first of their levels: at or below the time
    that ours begins at, which is the same where the strength is that of the level."""
    theirs = both.pipeline("StableDiffusionImg2ImgPipeline")
    theirs.scheduler.set_timesteps(STEPS)
    first = theirs.scheduler.timesteps[STEPS - int(STEPS * strength)]
    watched = edited(both, RestyleEdit((int(first) + 1) / 1000))
    monkeypatch.setattr(pipeline_stable_diffusion_img2img, "randn_tensor", told(watched.subject.noise))
    due = theirs(image=watched.subject.x0, strength=strength, **words(watched.subject)).images
    close(watched.made, due)


def hidden() -> Tensor:
    """A mask of pixels (2, 1, 16, 16), 1 where they may change; along the edges of latents."""
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, 4:12, 2:10] = mask[1, :, :6, :] = 1
    return mask


class OneNoise(KeyedRandomness):
    """The first draw, again and again."""

    def randn_like(self, x: Tensor) -> Tensor:
        assert self.index is not None
        return KeyedRandomness(torch.from_numpy(self.index), seed=0, stream=SAMPLING).randn_like(x)


@pytest.mark.parametrize("strength", [0.8, 1.0])
def test_inpaint_is_inpainting_with_a_plain_model(strength: float, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs keeps the part that is seen in the noise that sampling began with; ours draws it anew after each step, and
    is given that one here."""
    theirs = both.pipeline("StableDiffusionInpaintPipeline")
    theirs.scheduler.set_timesteps(STEPS)
    first = theirs.scheduler.timesteps[STEPS - int(STEPS * strength)]
    monkeypatch.setattr(editing, "KeyedRandomness", OneNoise)
    watched = edited(both, InpaintEdit(1.0 if strength == 1 else (int(first) + 1) / 1000), hidden())
    x0, noise = watched.subject.x0, watched.subject.noise
    monkeypatch.setattr(pipeline_stable_diffusion_inpaint, "randn_tensor", told(noise))
    rest = {"masked_image_latents": torch.zeros_like(x0), "height": 16, "width": 16}
    due = theirs(image=x0, mask_image=hidden(), strength=strength, **rest, **words(watched.subject)).images
    close(watched.made, due)
    kept = watched.subject.mask.expand_as(x0) == 0
    assert torch.equal(watched.made[kept], x0[kept])


def test_a_model_that_fills_what_a_mask_hides_draws_what_theirs_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine channels: what is denoised, the mask, and the latents of the rest, which guidance keeps in both predictions.
    Theirs draws those of the encoder's posterior, and is given ours."""
    filling = Both(tmp_path, fills=True)
    assert filling.model.guidance["classifier_free"].keywords["scale"] == {"text": 7.5}
    guidance = {"classifier_free": lambda d: ClassifierFreeGuidance(d, {"text": SCALE})}
    sampler = DDIMSampler(STEPS, UniformSpacing(1), final="first")
    pipeline = filling.model.pipeline(sampler=sampler, guidance=guidance, batch_size=2)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    request = Request(text=["a red heart", "two stars"], image=pixels.double() / 127.5 - 1, mask=hidden())
    found = pipeline.state(torch.arange(2), 0, request)
    cond = pipeline.cond(torch.arange(2), 0, request)
    noise = KeyedRandomness(torch.arange(2), seed=0, stream=SAMPLING).randn_like(found)
    theirs = filling.pipeline("StableDiffusionInpaintPipeline")
    monkeypatch.setattr(pipeline_stable_diffusion_inpaint, "randn_tensor", told(noise))
    due = theirs(
        image=pixels / 255, mask_image=hidden(), masked_image_latents=cond.image[:, 1:], height=16, width=16,
        strength=1.0, prompt_embeds=cond.tokens.double(), guidance_scale=SCALE, num_inference_steps=STEPS,
        negative_prompt_embeds=cond.null.tokens.double().expand_as(cond.tokens), output_type="latent",
    ).images  # fmt: skip
    close(found, due)
    rest = (1 - hidden()) * (pixels / 127.5 - 1)
    posterior = filling.parts["vae"].encode(rest.double()).latent_dist
    close(cond.image[:, 1:], 0.13 * posterior.mode())
    watched = edited(filling, InpaintEdit(), hidden())  # through the edit, too, with what is seen put back
    kept = watched.subject.mask.expand_as(found) == 0
    assert torch.equal(watched.made[kept], watched.subject.x0[kept])


def diffedit(both: Both) -> Any:
    inverse = diffusers.DDIMInverseScheduler(**SCHEDULER)
    return both.pipeline("StableDiffusionDiffEditPipeline", inverse_scheduler=inverse)


def described(subject: Subject, **more: Any) -> dict[str, Any]:
    """Keywords for what the images show, without guidance."""
    return {
        "prompt_embeds": subject.source.tokens.double(),
        "guidance_scale": 1.0,
        "num_inference_steps": STEPS,
        **more,
    }


@torch.no_grad()
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_inversion_is_theirs_at_every_level_and_so_is_what_is_drawn_from_it(share: float, both: Both) -> None:
    theirs, to = diffedit(both), 1.0 if share == 1 else 0.402
    watched = edited(both, InvertEdit("a cat", to))
    subject, path = watched.subject, []
    subject.sampler.invert(
        subject.plain, subject.x0, subject.source, to=to, on_step=lambda number, level, x, x0: path.append(x)
    )
    due = theirs.invert(image=subject.x0, inpaint_strength=share, **described(subject)).latents
    assert due.shape[1] == len(path) == int(share * STEPS)
    for found, there in zip(reversed(path), due.unbind(1), strict=True):
        close(found, there)
    everywhere = torch.ones(2, 1, 8, 8)
    drawn = theirs(mask_image=everywhere, image_latents=due, inpaint_strength=share, **words(subject)).images
    close(watched.made, drawn)


@torch.no_grad()
def test_what_diffedit_keeps_follows_the_inverse(both: Both) -> None:
    """The steps of their scheduler with the latents of the level that is reached (Couairon et al. 2023, section 3.2,
    step 3); their pipeline mixes in those of the level before."""
    theirs = diffedit(both)
    watched = edited(both, DiffEdit("a cat", to=0.402), hidden())
    subject, mask = watched.subject, watched.subject.mask
    due = theirs.invert(image=subject.x0, inpaint_strength=0.5, **described(subject)).latents
    theirs.scheduler.set_timesteps(STEPS)
    tokens = words(subject)
    given = torch.cat([tokens["negative_prompt_embeds"], tokens["prompt_embeds"]])
    x = due[:, 0]
    for t, there in zip(theirs.scheduler.timesteps[-5:], [*due.unbind(1)[1:], subject.x0], strict=True):
        away, towards = theirs.unet(torch.cat([x, x]), t, encoder_hidden_states=given).sample.chunk(2)
        x = theirs.scheduler.step(away + SCALE * (towards - away), t, x).prev_sample
        x = mask * x + (1 - mask) * there
    close(watched.made, x)


@torch.no_grad()
@pytest.mark.parametrize("row", [0, 1])
def test_the_mask_of_diffedit_is_a_level_of_theirs(row: int, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the difference d, theirs is d > r mean(d) / 2 with r = 3 by default; ours halves the way from the least d to
    the greatest that is not above 3 mean(d), which is another r."""
    theirs = diffedit(both)
    draws = [torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    source = iter(draws)
    subject = replace(edited(both, DiffEdit("a cat")).subject, randn_like=lambda x: next(source))
    found = difference(subject, subject.cond, subject.source, 0.402, len(draws), 0.5)[row, 0]

    noise = torch.stack([draw[row] for draw in draws])
    x = theirs.scheduler.add_noise(subject.x0[row].expand(4, -1, -1, -1), noise, torch.tensor([401]))
    new, old = (tokens[row].double().expand(4, -1, -1) for tokens in (subject.cond.tokens, subject.source.tokens))
    d = (theirs.unet(x, 401, new).sample - theirs.unet(x, 401, old).sample).abs().mean((0, 1))
    cut = d.clamp(max=3 * d.mean())
    ratio = float((cut.min() + cut.max()) / d.mean())

    monkeypatch.setattr(DIFFEDIT + ".randn_tensor", told(noise))
    null = subject.cond.null.tokens[:1].double()
    due = theirs.generate_mask(
        image=subject.x0[row : row + 1],
        target_prompt_embeds=subject.cond.tokens[row : row + 1].double(),
        source_prompt_embeds=subject.source.tokens[row : row + 1].double(),
        target_negative_prompt_embeds=null,
        source_negative_prompt_embeds=null,
        num_maps_per_mask=4,
        mask_encode_strength=0.5,
        mask_thresholding_ratio=ratio,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,  # of both predictions, which leaves the mask as it is
    )
    assert 0.05 < found.mean() < 0.95
    assert torch.equal(found, torch.from_numpy(due)[0].to(found))


@torch.no_grad()
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_repaint_takes_the_steps_of_their_scheduler(eta: float, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps down and up in the order of the paper's code, where a stretch is repeated from the level it reaches on;
    their pipeline repeats it a step later. They go up step by step, and we at once by the sum of their noises. One
    noise serves what is seen and what is hidden, which have no pixel in common."""
    steps, jump, repeats = 12, 4, 3
    table = {"num_train_timesteps": steps, "beta_start": 0.01, "beta_end": 0.3, "clip_sample": False}
    theirs = diffusers.RePaintScheduler(**table, eta=eta)
    theirs.set_timesteps(steps, jump_length=jump, jump_n_sample=repeats)
    generator, last, ours = torch.Generator().manual_seed(0), torch.empty(0), []

    def drawn(shape: Any, **keywords: Any) -> Tensor:
        nonlocal last
        last = torch.randn(shape, generator=generator, dtype=torch.float64)
        return last

    monkeypatch.setattr(scheduling_repaint, "randn_tensor", drawn)
    subject = edited(both, InpaintEdit(), hidden()).subject
    tokens, seen, x, low = subject.cond.tokens, 1 - subject.mask, subject.noise, None
    for here, there in pairwise([*theirs.timesteps.tolist(), -1]):
        if there < here:
            eps = theirs_unet(both, x, here, tokens)
            x = theirs.step(eps, here, x, subject.x0, seen).prev_sample
            ours += [last] * (2 if eta else 1)
            low = None
        else:
            low = (here, x) if low is None else low
            x = theirs.undo_step(x, there)
            if there == low[0] + jump:
                ratio = float(theirs.alphas_cumprod[there] / theirs.alphas_cumprod[low[0]])
                ours.append((x - ratio**0.5 * low[1]) / (1 - ratio) ** 0.5)

    denoiser = NetworkDenoiser(both.model.denoiser.network, LinearSchedule(steps, 0.01, 0.3), EpsilonParameterization())
    guided = RePaintGuidance(
        denoiser, MaskOperator(seen=seen), subject.x0, simulate=False, repeats=repeats, jump_length=jump
    )
    source = iter(ours)
    sampler = DDIMSampler(steps, UniformSpacing(), eta)
    close(sampler(guided, subject.noise, Cond(tokens=tokens), randn_like=lambda x: next(source)), x)


def theirs_unet(both: Both, x: Tensor, t: int, tokens: Tensor) -> Tensor:
    return both.parts["unet"](x, t, encoder_hidden_states=tokens.double()).sample
