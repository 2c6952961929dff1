"""Rows 18 to 20: text-to-image by a small Stable Diffusion, 4 x 16 x 16 latents and a context of 77 x 128, against
diffusers with the same weights, which are imported from its folder as ``scripts/import.py`` does.

Row 18: a training step of the U-Net on latents and contexts that are there already: noise, loss, gradient, clipping and
AdamW, which the peer constructs as its train_text_to_image.py does, and no average. Row 19: one image of a new prompt
in 20 steps of DDIM with guidance, text encoder and decoder included. Row 20: the step of row 18 on captions whose
encodings are kept, dropped with the conditioner's probability, against the step on random contexts.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import diffusion
from benchmarks.harness import Row, counts, race, ratio
from benchmarks.importing import SCHEDULER, import_folder
from diffusion.model import DiffusionModel
from diffusion.objective.regression import RegressionObjective
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.objective.weighting.constant import ConstantWeighting
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.training.clip import clip_by_norm
from diffusion.training.flat import FlatAdam
from diffusion.types import Cond

SIZE, TOKENS, WIDTH, STEPS, SCALE = 16, 77, 128, 20, 7.5
UNET = {
    "sample_size": SIZE, "block_out_channels": (64, 128, 128), "cross_attention_dim": WIDTH, "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
VAE = {
    "block_out_channels": (16, 32, 64, 64), "down_block_types": ("DownEncoderBlock2D",) * 4, "layers_per_block": 2,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "norm_num_groups": 8, "latent_channels": 4, "sample_size": 8 * SIZE,
}  # fmt: skip
ADAMW = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 1e-2, "eps": 1e-8}
"""What train_text_to_image.py gives to torch.optim.AdamW where its flags are left alone; the norm is clipped at 1."""


def rows(budget: float = 240.0, batch: int = 4) -> list[Row]:
    """Rows 18, 19 and 20; row 19 may take half of the time."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline, model = both(Path(folder))
    what = f"U-Net of {sum(p.numel() for p in pipeline.unet.parameters()) / 1e6:.1f}M with cross-attention"
    step = f"training step, {what}, batch {batch}, float32: time"
    return [
        _training(step, pipeline, model, batch, budget / 4),
        _image(f"an image in {STEPS} steps of DDIM with guidance, {what}: time", pipeline, model, budget / 2),
        _kept(f"{step}, captions' encodings kept", model, batch, budget / 4),
    ]


def both(folder: Path) -> tuple[Any, DiffusionModel]:
    """A pipeline of diffusers with random weights, and the run that it is imported as.

    Raises:
        RuntimeError: the networks differ.
    """
    import diffusers
    import transformers

    letters = [chr(code) + end for code in range(ord("a"), ord("z") + 1) for end in ("", "</w>")]
    vocabulary = {word: row for row, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    text = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4,
        num_attention_heads=2, max_position_embeddings=TOKENS, bos_token_id=len(letters), eos_token_id=len(letters) + 1,
        pad_token_id=len(letters) + 1,
    )  # fmt: skip
    scheduler = {name: value for name, value in SCHEDULER.items() if not name.startswith("_")}
    pipeline = diffusers.StableDiffusionPipeline(
        unet=diffusers.UNet2DConditionModel(**UNET), vae=diffusers.AutoencoderKL(**VAE).eval(),
        text_encoder=transformers.CLIPTextModel(text).eval(),
        tokenizer=transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS),
        scheduler=diffusers.DDIMScheduler(**scheduler), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "published")
    model: DiffusionModel = diffusion.load(import_folder(folder / "published", folder / "outputs", "text"))
    x, t, context = torch.randn(2, 4, SIZE, SIZE), torch.tensor([10.0, 900.0]), torch.randn(2, TOKENS, WIDTH)
    with torch.no_grad():
        due = pipeline.unet.eval()(x, t, context).sample
        if not torch.allclose(model.denoiser.network(x, t, Cond(tokens=context)), due, atol=1e-4):
            raise RuntimeError("the imported U-Net does not give what diffusers' gives")
    return pipeline, model


def _training(what: str, pipeline: Any, model: DiffusionModel, batch: int, budget: float) -> Row:
    x0, context = torch.randn(batch, 4, SIZE, SIZE), torch.randn(batch, TOKENS, WIDTH)
    runs = {
        "ours": training_step(model, x0, lambda randomness: Cond(tokens=context)),
        "theirs": _their_step(pipeline, x0, context),
    }
    timings = race(runs, budget)
    return Row("18", what, "diffusers UNet2DConditionModel", ratio(timings, "ours", "theirs"), 1.0, 0.9, True,
               counts(timings, "ours", "theirs"))  # fmt: skip


def _image(what: str, pipeline: Any, model: DiffusionModel, budget: float) -> Row:
    number = count()

    def prompt() -> str:
        """A new one at each call, so that no encoding of it is kept."""
        digits = str(next(number))
        return "a red house on a hill " + "".join(chr(ord("a") + int(digit)) for digit in digits)

    def ours() -> Tensor:
        return model.sample(1, text=prompt(), steps=STEPS, batch_size=1)

    def theirs() -> Any:
        return pipeline(prompt(), num_inference_steps=STEPS, guidance_scale=SCALE, output_type="np")

    timings = race({"ours": ours, "theirs": theirs}, budget)
    return Row("19", what, "diffusers StableDiffusionPipeline", ratio(timings, "ours", "theirs"), 0.9, 0.75, True,
               counts(timings, "ours", "theirs"))  # fmt: skip


def _kept(what: str, model: DiffusionModel, batch: int, budget: float) -> Row:
    x0, materials = torch.randn(batch, 4, SIZE, SIZE), ("wood", "stone", "straw", "glass")
    captions = {"text": [f"a house of {materials[i % 4]}" for i in range(batch)]}

    def kept(randomness: KeyedRandomness) -> Cond:
        return model.conditioner.drop_parts(model.condition(captions), randomness)

    def random(randomness: KeyedRandomness) -> Cond:
        return Cond(tokens=torch.randn(batch, TOKENS, WIDTH))

    runs = {name: training_step(model, x0, cond) for name, cond in (("kept", kept), ("random", random))}
    timings = race(runs, budget)
    return Row("20", what, "random contexts", ratio(timings, "kept", "random"), 1.02, 1.01, True,
               counts(timings, "kept", "random"))  # fmt: skip


def training_step(model: DiffusionModel, x0: Tensor, cond: Callable[[KeyedRandomness], Cond]) -> Callable[[], None]:
    """What training does with a batch of latents, by conf/optimizer/adamw.yaml and on a copy of the denoiser."""
    denoiser = copy.deepcopy(model.denoiser).requires_grad_(True).train()
    objective = RegressionObjective(ConstantWeighting(), UniformTimeDistribution())
    parameters = list(denoiser.parameters())
    optimizer: Any = torch.optim.AdamW(parameters, fused=True, **ADAMW)
    optimizer = FlatAdam(optimizer) if FlatAdam.suits(optimizer) else optimizer
    number = count()

    def step() -> None:
        drawn = KeyedRandomness(range(len(x0)), seed=0, stream=TRAINING, step=next(number))
        objective(denoiser, x0, cond(drawn), randomness=drawn).total.mean().backward()
        clip_by_norm(optimizer, parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _their_step(pipeline: Any, x0: Tensor, context: Tensor) -> Callable[[], None]:
    """The loop of train_text_to_image.py from the encoded batch on."""
    from diffusers import DDPMScheduler

    unet, scheduler = copy.deepcopy(pipeline.unet).train(), DDPMScheduler.from_config(pipeline.scheduler.config)
    optimizer = torch.optim.AdamW(unet.parameters(), **ADAMW)

    def step() -> None:
        noise = torch.randn_like(x0)
        t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x0),))
        output = unet(scheduler.add_noise(x0, noise, t), t, context, return_dict=False)[0]
        F.mse_loss(output.float(), noise.float(), reduction="mean").backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
