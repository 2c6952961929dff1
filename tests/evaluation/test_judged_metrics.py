"""Metrics with a CLIP as their judge: CLIP score against transformers, R-precision by brute force, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixed_images import Fixed, noise
from model_folders import run_folder
from tiny_clip import save_clip

from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.judge import Judge
from diffusion.evaluation.metrics.clip_score import ClipScoreMetric


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP of this project, untrained, of 8 x 8 images."""
    small = ["module.model.image.widths=[8]", "text_encoder.dim=8", "text_encoder.vocabulary=50"]
    return str(run_folder(tmp_path_factory.mktemp("runs"), "clip", "module=contrastive", "data.channels=3", *small))


def test_clip_score_is_the_mean_cosine_of_images_and_captions(clip: str) -> None:
    from transformers import CLIPModel, CLIPProcessor

    data = Fixed(3, 16, 10, texts=tuple("abcdefghij"))
    images = data.split("test").images
    texts = data.split("test").texts
    result = Evaluator("efficientnet-lite0", ["clip_score"], 10, 4, clip=clip).evaluate(images, data, texts=texts)
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    with torch.no_grad():
        inputs = processor(text=list("abcdefghij"), images=list(images), return_tensors="pt", padding=True)
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    expected = 100 * float(logits.diagonal().clamp(min=0).mean())
    assert (
        result.real_baseline
        == result.metrics
        == {"clip_score_efficientnet-lite0_10": pytest.approx(expected, rel=1e-4)}
    )


def test_clip_score_needs_a_model_and_captions(clip: str) -> None:
    with pytest.raises(ValueError, match=r"set evaluation\.clip"):
        Evaluator(metrics=["clip_score"])
    with pytest.raises(ValueError, match="needs captions"):
        Evaluator(metrics=["clip_score"], num_samples=10, clip=clip).evaluate(noise(10, 3, 16), Fixed(3, 16))


def test_r_precision_in_an_evaluation_is_that_of_brute_force(run: str) -> None:
    """With as many candidates as there are captions nothing is left to chance."""
    from diffusion.evaluation.metrics.r_precision import RPrecisionMetric

    texts = tuple(f"caption {i % 11}" for i in range(24))
    data = Fixed(3, 8, 24, texts=texts)
    images = data.split("test").images
    own = {"r_precision": RPrecisionMetric(run, candidates=11)}
    result = Evaluator("digits-cnn-v1", [], 24, 7, metric=own).evaluate(images, data, texts=texts)
    judge = Judge(run)
    judge.load()
    cosines = judge.clip.image(images) @ judge.clip.text([f"caption {i}" for i in range(11)]).T
    found = sum(int(cosines[i].argmax()) == i % 11 for i in range(24)) / 24
    assert result.metrics == {"r_precision_digits-cnn-v1_24": pytest.approx(found)}
    described = result.fingerprint["own_metrics"]["r_precision"]
    assert (described["candidates"], described["judge"]["sha256"]) == (11, judge.clip.sha256)


def test_one_judge_is_read_once_and_a_metric_by_its_file_is_the_shipped_one(clip: str, run: str) -> None:
    evaluator = Evaluator(metrics=[], clip=clip, num_samples=100, metric={"clip_score": ClipScoreMetric(clip)})
    assert evaluator.metrics["clip_score"].judge is evaluator.clip
    assert evaluator.own == {}
    other = Evaluator(metrics=["r_precision"], clip=clip, num_samples=100, metric={"clip_score": ClipScoreMetric(run)})
    assert {*other.own} == {"clip_score"}


def test_what_a_judge_cannot_judge_is_refused(clip: str, run: str, tmp_path: Path) -> None:
    for name in ("clip_score", "r_precision"):
        with pytest.raises(
            ValueError, match=rf"{name} is judged by a CLIP, and none is named; set evaluation\.clip\.run"
        ):
            Evaluator(metrics=[name], num_samples=100)
    with pytest.raises(ValueError, match=r"both evaluation\.clip\.run and evaluation\.clip\.pretrained are set"):
        Judge(run=run, pretrained=clip)
    with pytest.raises(ValueError, match=r"with 99 others, and there are 20 samples; set evaluation\.num_samples"):
        Evaluator(metrics=["r_precision"], num_samples=20, clip=clip)
    images, texts = noise(120, 3, 16), tuple(f"number {i}" for i in range(120))
    few = [f"number {i % 7}" for i in range(120)]
    with pytest.raises(ValueError, match="these samples have 7 distinct ones"):
        Evaluator(metrics=["r_precision"], num_samples=120, clip=clip).evaluate(images, Fixed(3, 16, 120), texts=few)
    for name in ("clip_score", "r_precision"):
        with pytest.raises(ValueError, match=r"reads images of shape \(3, 8, 8\) .*, got \(3, 16, 16\)"):
            Evaluator(metrics=[name], num_samples=120, clip=run).evaluate(images, Fixed(3, 16, 120), texts=texts)
    with pytest.raises(ValueError, match=r"holds no model.safetensors; set evaluation\.clip\.pretrained"):
        Evaluator(metrics=["clip_score"], clip=str(tmp_path)).evaluate(images, Fixed(3, 16, 120), texts=texts)
