"""DALL-E 2's chain, small: a CLIP by its need, a prior, a decoder and an upsampler on it, samples and scores of all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts_in_process import run_script

import diffusion
from diffusion.data.emoji import SHEETS
from diffusion.pipeline.base import Request
from diffusion.pipeline.unclip import UnclipPipeline

DATA = "data.styles=[twemoji],data.batch_size=8"
CLIP = (
    f"experiment=emoji_clip,{DATA},data.num_classes=1,trainer.max_steps=2,module.model.image.widths=[8,8],module.model.dim=6,"
    "text_encoder.dim=8,text_encoder.pooled_dim=8,text_encoder.depth=1,text_encoder.vocabulary=64,evaluation=none,logger=csv"
)
SMALL = f"{DATA.replace(',', ' ')} logger=csv callbacks.samples.num_samples=2 trainer.max_steps=2 sampler.steps=2"
WORDS = f"needs.clip=[{CLIP}] text_encoder.dim=8 text_encoder.pooled_dim=6"
CODER = (
    f"experiment=emoji_autoencoder,{DATA},trainer.max_steps=2,autoencoder.widths=[8,8,8],autoencoder.groups=2,"
    "evaluation=none,logger=csv"
)
STAGES = {
    "prior": f"{WORDS} autoencoder.channels=6 network.width=8 network.depth=1 network.heads=1",
    "decoder": (
        f"{WORDS} needs.autoencoder=[{CODER}] conditioner.parts.image.embedding_dim=6 conditioner.parts.image.dim=32 "
        "conditioner.parts.image.token_dim=8 network.channels=8 network.channel_mult=[1,1,1] network.attention=[8] "
        "network.heads=1"
    ),
    "upsampler": "network.channels=8 network.channel_mult=[1,2] data.resolution=64",
}
TEXTS = ["a red heart", "a blue pizza", "a cat", "a tree"]


def train(place: Path, name: str, more: str = "") -> Path:
    folder = place / name
    run_script(f"scripts/train.py {more} hydra.run.dir={folder} paths.outputs={place / 'outputs'}")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every stage, its needs trained with it; the sheet of 64 pixels is that of 32, enlarged."""
    place = tmp_path_factory.mktemp("unclip")
    with Image.open(SHEETS / "twemoji_32.webp") as sheet:
        sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(place / "twemoji_64.webp")
    stages = dict(STAGES, upsampler=f"{STAGES['upsampler']} data.root={place}")
    made = {name: train(place, name, f"experiment=emoji_{name} {SMALL} {own}") for name, own in stages.items()}
    return {**made, "place": place}


def unclip(runs: dict[str, Path], batch_size: int = 4) -> UnclipPipeline:
    prior, decoder, upsampler = (
        diffusion.load(runs[name], weights="raw").pipeline(batch_size=batch_size) for name in STAGES
    )
    return UnclipPipeline(prior, decoder, {"x2": upsampler}, batch_size=batch_size)


@pytest.mark.slow
def test_the_chain_trains_through_its_needs_and_draws(runs: dict[str, Path]) -> None:
    (clip,) = (runs["place"] / "outputs" / "emoji_clip").iterdir()  # of the prior and of the decoder
    (coder,) = (runs["place"] / "outputs" / "emoji_autoencoder").iterdir()
    sha256 = diffusion.load(clip).sha256
    prior, decoder = (diffusion.load(runs[name]) for name in ("prior", "decoder"))
    image = decoder.conditioner.parts["image"]
    assert prior.autoencoder.clip == image.clip == decoder.conditioner.parts["text"].encoder.sha256 == sha256
    parts = torch.load(runs["decoder"] / "checkpoints" / "last.ckpt", weights_only=True)["parts"]
    assert {role: part["run"] for role, part in parts.items()} == {
        "autoencoder": str(coder),
        "text_encoder": str(clip),
        "conditioner.parts.image": str(clip),
    }

    pipeline, request = unclip(runs), Request(text=TEXTS)
    whole = pipeline.draw(torch.arange(4), 3, request)
    assert whole.shape == (4, 3, 64, 64)
    alone = pipeline.draw(torch.tensor([2]), 3, Request(text=[TEXTS[2]]))
    assert torch.equal(alone[0], whole[2]), "sample 2 is a function of its number and its text"
    other = unclip(runs, batch_size=3).draw(torch.arange(4), 3, request)
    assert (other.int() - whole.int()).abs().max() <= 1, "kernels of another batch may round otherwise, and no more"
    assert not torch.equal(pipeline.draw(torch.arange(4), 4, request), whole)


@pytest.mark.slow
def test_the_scripts_draw_and_score_it_and_refuse_another_clip(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = runs["place"]
    stages = (
        f"pipeline=unclip pipeline.prior.run={runs['prior']} pipeline.decoder.run={runs['decoder']} "
        f"paths.outputs={place / 'outputs'}"
    )
    large = f"pipeline.upsamplers.x2.run={runs['upsampler']}"
    run_script(f"scripts/sample.py {stages} {large} text='[{','.join(TEXTS)}]' num_samples=4 output={place / 'drawn'}")
    assert np.load(place / "drawn" / "samples.npz")["arr_0"].shape == (4, 64, 64, 3)
    assert (place / "drawn" / "grid" / "grid.png").is_file()

    seeded = STAGES["prior"].replace("logger=csv]", "logger=csv,seed=1]")
    other = train(place, "other", f"experiment=emoji_prior {SMALL} {seeded}")
    clip = torch.load(runs["prior"] / "checkpoints" / "last.ckpt", weights_only=True)["parts"]["autoencoder"]["run"]
    (judge,) = {*(place / "outputs" / "emoji_clip").iterdir()} - {Path(clip)}
    few = "evaluation=emoji evaluation.metrics=[clip_score] evaluation.num_samples=4 evaluation.batch_size=4"
    run_script(f"scripts/evaluate.py {stages} {few} evaluation.clip.run={judge}")
    (record,) = (place / "outputs" / "pipelines").glob("*/evaluation/*/metrics.json")
    assert 0 <= json.loads(record.read_text())["metrics"]["clip_score_efficientnet-lite0_4"] <= 100

    stages = stages.replace(str(runs["prior"]), str(other))
    with pytest.raises(pytest.fail.Exception):
        run_script(f"scripts/sample.py {stages} text=x output={place / 'refused'}")
    assert "reads those of" in capsys.readouterr().err
