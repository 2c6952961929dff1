"""Peak memory of a training step of Stable Diffusion 1.5 at its real size: 860M parameters, latents of 4 x 64 x 64.

    python -m benchmarks.step_memory                         # batch 1, bf16, checkpointing
    python -m benchmarks.step_memory network.channels=64     # a try, or any other override

``experiment=sd15`` as ``scripts/train.py`` runs it, one step on images of noise: weights, gradients, Adam's moments and
the averaged weights in float32, the frozen autoencoder (83.65M) and text encoder (CLIP ViT-L/14's, 123M) with random
weights. What is printed is the largest resident set of the training's process, torch and its imports included.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = Path(__file__).parents[1]
WIDTHS = (128, 256, 512, 512)
WORDS = ("<|startoftext|>", "<|endoftext|>", *(f"{letter}</w>" for letter in "abc"), *"abc")
STEP = (
    "experiment=sd15", "~needs.start", "initial.run=null", "name=step", "trainer=cpu", "trainer.precision=bf16-mixed",
    "trainer.max_steps=1", "data=image_folder", "~data.shards", "data.resolution=512", "data.batch_size=1",
    "data.num_workers=0", "network.checkpointing=true", "callbacks=[]", "logger=csv", "lr_scheduler.warmup=0",
)  # fmt: skip


def inputs(folder: Path) -> list[str]:
    """Images with captions, an autoencoder and a text encoder of random weights -> the settings that name them."""
    random = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir()
    for name in range(16):
        Image.fromarray(random.integers(0, 256, (512, 512, 3), dtype=np.uint8)).save(images / f"{name}.png")
        (images / f"{name}.txt").write_text("a b c")
    sizes = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    AutoencoderKL(block_out_channels=WIDTHS, layers_per_block=2, latent_channels=4, **sizes).save_pretrained(
        folder / "autoencoder"
    )
    text = folder / "text"
    text.mkdir()
    (text / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (text / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(vocab=str(text / "vocab.json"), merges=str(text / "merges.txt")).save_pretrained(text)
    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    CLIPTextModelWithProjection(config).save_pretrained(text)
    return [
        f"data.root={images}", "data.test_fraction=0.5", f"autoencoder.pretrained={folder / 'autoencoder'}",
        f"text_encoder.pretrained={text}", f"paths.outputs={folder / 'outputs'}", f"paths.data={folder}",
    ]  # fmt: skip


def main(overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        torch.manual_seed(0)
        words = [*STEP, *inputs(Path(name)), *overrides]
        script = ROOT / "scripts" / "train.py"
        subprocess.run([sys.executable, str(script), *words], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"peak of the training's process: {peak / 1e9:.2f} GB ({peak / 2**30:.2f} GiB)")


if __name__ == "__main__":
    main(sys.argv[1:])
