"""The style of samples, by a classifier against a column of the data; their concept, by a CLIP without style words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_folders import run_folder
from pipelines import pipeline
from torch import Tensor

import diffusion
from diffusion.data.emoji import Emoji
from diffusion.errors import ConfigError
from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.judge import Judge
from diffusion.evaluation.metrics.concept import ConceptMetric
from diffusion.evaluation.metrics.style import StyleMetric
from diffusion.pipeline.single import SinglePipeline
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Untrained, its biases such that it says each class of some images."""
    folder = run_folder(tmp_path_factory.mktemp("classifier"), "run", "experiment=emoji_style_classifier")
    with torch.no_grad():
        logits = diffusion.load(folder).output(Emoji().split("test").images[:100].float() / 127.5 - 1, 0.001)
    path = folder / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    for name, weight in saved["state_dict"].items():
        if name.endswith("network.pool.out.bias"):
            weight -= logits.mean(0)
    torch.save(saved, path)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    small = ["module.model.image.widths=[8,8,8]", "text_encoder.dim=8", "text_encoder.vocabulary=500"]
    folder = tmp_path_factory.mktemp("clip")
    return str(run_folder(folder, "run", "module=contrastive", "data=emoji", "data.num_classes=0", *small))


class Drawing(SinglePipeline):
    """Draws the held-out images themselves, one place further for every ``shift``."""

    shift = 0

    def values(self, index: Tensor, seed: int, request: object = None) -> Tensor:
        images: Tensor = self.columns["shown"][(index + self.shift) % len(self.columns["shown"])]
        return images / 127.5 - 1

    def draw(self, index: Tensor, seed: int, request: object = None) -> Tensor:
        return self.columns["shown"][(index + self.shift) % len(self.columns["shown"])]


def drawing(data: Emoji, shift: int = 0) -> Drawing:
    from diffusion.denoiser import GaussianDenoiser

    shape = (3, 32, 32)
    exact = GaussianDenoiser(CosineSchedule(), torch.zeros(shape), torch.ones(shape))
    split = data.split("test")
    columns = {**split.requests_for(["text"]), "shown": split.images}
    made = pipeline(exact, DDIMSampler(1), shape, Drawing, columns=columns, batch_size=10)
    assert isinstance(made, Drawing)
    made.shift = shift
    return made


@pytest.fixture(scope="module")
def pairs() -> Emoji:
    return Emoji(held_out="pairs")


def test_style_is_the_share_that_a_classifier_sees_so(classifier: str, pairs: Emoji) -> None:
    split = pairs.split("test")
    model = diffusion.load(classifier)
    alpha = float(model.schedule.alpha(torch.tensor(0.001, dtype=torch.float64)))
    with torch.no_grad():
        logits = model.output(alpha * (split.images.float() / 127.5 - 1), 0.001)
    said, asked = logits.argmax(1), split.more["style"]
    assert len(said.unique()) > 1, "a classifier that says more than one thing"
    evaluator = Evaluator("digits-cnn-v1", [], 97, 40, metric={"style": StyleMetric(classifier)})
    for shift in (0, 5):
        result = evaluator.evaluate(drawing(pairs, shift), pairs)
        due = float((said.roll(-shift) == asked).double().mean())
        assert result.metrics == {"style_digits-cnn-v1_97": pytest.approx(due)}
        assert result.better == {"style_digits-cnn-v1_97": "higher"}
        real = float((said == asked).double().mean())
        assert result.real_baseline == {"style_digits-cnn-v1_97": pytest.approx(real)}
    described = result.fingerprint["own_metrics"]["style"]
    assert described["sha256"] == model.identity.sha256
    with pytest.raises(ValueError, match="compares images with the column style of the data, which these samples lack"):
        evaluator.evaluate(split.images, pairs)


def test_concepts_are_judged_without_the_words_of_a_style(clip: str, pairs: Emoji) -> None:
    """As R-precision is by brute force, whether a caption names the style or not."""
    split = pairs.split("test")
    bare = [text.split(", ", 1)[1] for text in split.texts]
    judge = Judge(clip)
    judge.load()
    vectors = judge.clip.text(sorted(set(bare)))
    nearest = (judge.clip.image(split.images) @ vectors.T).argmax(1)
    due = sum(sorted(set(bare))[i] == text for i, text in zip(nearest.tolist(), bare, strict=True)) / len(bare)
    evaluator = Evaluator("digits-cnn-v1", [], 97, 40, metric={"concept": ConceptMetric(clip, len(set(bare)))})
    for texts in (split.texts, bare):
        result = evaluator.evaluate(split.images, pairs, texts=texts)
        assert result.metrics == {"concept_digits-cnn-v1_97": pytest.approx(due)}
    with pytest.raises(ValueError, match="concept compares the caption of an image with 89 others"):
        Evaluator(metrics=["concept"], num_samples=50, clip=clip)


def test_what_cannot_judge_is_refused(classifier: str, clip: str, tmp_path: Path, pairs: Emoji) -> None:
    with pytest.raises(ValueError, match=r"none is named; set evaluation\.metric\.style\.run"):
        StyleMetric()
    with pytest.raises(ValueError, match=r"evaluation\.metric\.style\.time lies between 0 and 1"):
        StyleMetric(classifier, time=0.0)
    with pytest.raises(ConfigError, match="what is due here is a run of module=diffusion"):
        StyleMetric(clip).load(torch.device("cpu"))
    other = run_folder(tmp_path, "other", "network=unet_tiny")
    with pytest.raises(ValueError, match="is no classifier; name a run of objective=classification"):
        StyleMetric(str(other)).load(torch.device("cpu"))
    metric = StyleMetric(classifier)
    metric.load(torch.device("cpu"))
    with pytest.raises(ValueError, match=r"reads images of shape \(3, 32, 32\), got \(3, 8, 8\)"):
        metric.rows(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2))
