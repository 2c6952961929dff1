"""Another run's model in guidance: a classifier that learns, a weaker model from its folder, post-hoc averages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_folders import run_folder
from omegaconf import OmegaConf

from diffusion.denoiser import NetworkDenoiser
from diffusion.errors import ConfigError
from diffusion.experiment.build.load import load
from diffusion.experiment.config.rules import second_models
from diffusion.experiment.task import posthoc_ema
from diffusion.guidance.auto import AutoGuidance
from diffusion.guidance.base import guide
from diffusion.guidance.classifier import ClassifierGuidance as ClassifierGuidance
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.network.classifier import Classifier
from diffusion.objective.classification import ClassificationObjective
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.randomness import SAMPLING, TRAINING, KeyedRandomness
from diffusion.schedule.cosine import CosineSchedule
from diffusion.training.callbacks.posthoc import FOLDER
from diffusion.types import Cond


def test_a_weaker_run_guides_with_its_own_condition(tmp_path: Path) -> None:
    """The main model's vector means nothing to the weak one; labels do, and their absence does."""
    main = load(str(run_folder(tmp_path, "main", "conditioner=label", "seed=1")))
    weak = load(str(run_folder(tmp_path, "weak", "conditioner=label", "seed=2", "conditioner.dim=16")))
    plain = load(str(run_folder(tmp_path, "plain", "seed=3")))
    x, label = torch.randn(3, 1, 8, 8), torch.tensor([1, 5, 9])
    cond = main.conditioner({"label": label})
    own = weak.denoiser(x, 0.5, weak.conditioner({"label": label}))
    torch.testing.assert_close(weak(x, 0.5, cond).x0, own.x0)
    null = weak.denoiser(x, 0.5, weak.conditioner({"label": label}).drop())
    torch.testing.assert_close(weak(x, 0.5, cond.drop()).x0, null.x0)
    assert (own.x0 - null.x0).abs().max() > 1e-4
    for second in (weak, plain):
        at_0 = AutoGuidance(main.denoiser, second, 0.0)(x, 0.5, cond)  # what lies between is a closed form elsewhere
        alone = second.denoiser(x, 0.5, second.conditioner({"label": label}))
        torch.testing.assert_close(at_0.x0, alone.x0, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in weak.parameters())
    assert not weak.training


def test_a_classifiers_run_guides_and_refuses_other_data(tmp_path: Path) -> None:
    overrides = ["network=classifier_digits", "objective=classification", "conditioner=label"]
    classifier = load(str(run_folder(tmp_path, "classifier", *overrides)))
    main = load(str(run_folder(tmp_path, "main", "conditioner=label")))
    x = torch.randn(3, 1, 8, 8)
    cond = main.conditioner({"label": torch.tensor([1, 5, 9])})
    guided = guide(
        main.denoiser,
        [
            lambda d: ClassifierFreeGuidance(d, 2.0),
            lambda d: ClassifierGuidance(d, classifier, 3.0, interval=[0.1, 10.0]),
        ],
    )
    with torch.no_grad():
        said, plain = guided(x, 0.5, cond), ClassifierFreeGuidance(main.denoiser, 2.0)(x, 0.5, cond)
    level = main.schedule.level(0.5)
    leaf = x.clone().requires_grad_()
    log_p = classifier.output(leaf, 0.5).log_softmax(1)[torch.arange(3), cond.class_label].sum()
    (gradient,) = torch.autograd.grad(log_p, leaf)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(said.eps, plain.eps - 3.0 * level.sigma * gradient, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="another data set"):
        ClassifierGuidance(main.denoiser, classifier)(torch.randn(3, 1, 16, 16), 0.5, cond)


def test_a_model_without_labels_is_guided_to_the_classes_of_a_classifier(tmp_path: Path) -> None:
    """Labels by index, for the classifier alone; the samples are those of the sampler with these labels by hand."""
    overrides = ["network=classifier_digits", "objective=classification", "conditioner=label"]
    classifier = load(str(run_folder(tmp_path, "classifier", *overrides)))
    main = load(str(run_folder(tmp_path, "main", "sampler=ddim", "sampler.steps=3")))
    guidance = {"classifier": lambda denoiser: ClassifierGuidance(denoiser, classifier, 50.0)}
    pipeline, index = main.pipeline(guidance=guidance, labels=[3, 7]), torch.arange(4)
    assert pipeline.num_classes == pipeline.describe()["num_classes"] == 10
    random = KeyedRandomness(index, seed=0, stream=SAMPLING)
    noise = random.randn_like(torch.empty(4, *main.latent_shape))
    cond = Cond(class_label=torch.tensor([3, 7, 3, 7]))
    by_hand = main.sampler(guidance["classifier"](main.denoiser), noise, cond, randn_like=random.randn_like)
    torch.testing.assert_close(pipeline.state(index, 0), by_hand)
    plain = main.pipeline()
    assert plain.num_classes == 0
    assert (plain.state(index, 0) - by_hand).abs().max() > 1e-3
    with pytest.raises(ValueError, match="classes below 10"):
        main.pipeline(guidance=guidance, labels=10)


def test_a_classifier_knows_the_labels_of_data_that_a_model_reads_without_them(tmp_path: Path) -> None:
    classifier = run_folder(tmp_path, "classifier", "network=classifier_digits", "objective=classification")
    cfg = OmegaConf.to_container(OmegaConf.load(run_folder(tmp_path, "main") / "config.yaml"))
    cfg["guidance"] = {"classifier": {"classifier": {"run": str(classifier)}}}
    cfg["data"]["num_classes"] = 0
    assert second_models(cfg) is None
    cfg["data"]["num_classes"] = 7
    assert "its data have num_classes 10 instead of 7" in second_models(cfg)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        load(str(tmp_path))


def test_a_classifier_learns_what_can_be_told_apart() -> None:
    """Two classes, light and dark: nearly certain without noise, guessing in pure noise."""
    torch.manual_seed(0)
    network = Classifier(1, 4, 2, channels=16, channel_mult=(1,), num_res_blocks=1, attention=(), head_channels=None)
    denoiser = NetworkDenoiser(network, CosineSchedule(), EpsilonParameterization())
    objective, optimizer = (
        ClassificationObjective(UniformTimeDistribution()),
        torch.optim.Adam(network.parameters(), lr=3e-3),
    )
    label = torch.arange(64) % 2
    x0 = (label * 1.6 - 0.8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    for step in range(80):
        randomness = KeyedRandomness(range(64), seed=0, stream=TRAINING, step=step)
        loss = objective(denoiser, x0, Cond(class_label=label), randomness=randomness)
        optimizer.zero_grad()
        loss.total.mean().backward()
        optimizer.step()
    assert loss.logs["accuracy"].mean() > 0.8
    with torch.no_grad():
        clean = denoiser.output(x0 + 0.1 * torch.randn(x0.shape), 0.05).softmax(1)[torch.arange(64), label]
        noise = denoiser.output(torch.randn(256, 1, 4, 4), 1.0).softmax(1)
    assert clean.min() > 0.9
    assert noise.amax(1).mean() < 0.75


def test_classification_says_what_it_lacks() -> None:
    network = Classifier(1, 4, 2, channels=16, channel_mult=(1,), num_res_blocks=1, attention=(), head_channels=None)
    denoiser, objective = (
        NetworkDenoiser(network, CosineSchedule(), EpsilonParameterization()),
        ClassificationObjective(UniformTimeDistribution()),
    )
    with pytest.raises(ValueError, match="conditioner=label"):
        objective(denoiser, torch.zeros(2, 1, 4, 4), Cond())
    with pytest.raises(ValueError, match="another data set"):
        denoiser.output(torch.zeros(2, 1, 8, 8), 0.5)
    with pytest.raises(ValueError, match="two classes or more"):
        Classifier(1, 4, 0)


def test_a_post_hoc_average_is_a_checkpoint_of_its_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "run")
    model = load(folder, weights="raw")
    (folder / FOLDER).mkdir()
    names = {f"average.denoiser.{n}": p for n, p in model.denoiser.named_parameters()}
    for step in (10, 20):
        averages = [{name: p.detach() * 0 + step + i for name, p in names.items()} for i in range(2)]
        torch.save({"step": step, "stds": [0.05, 0.1], "averages": averages}, folder / FOLDER / f"step_{step:07d}.pt")
    cfg = OmegaConf.create({"run": str(folder), "std": 0.1, "step": None})
    assert posthoc_ema.write(cfg).stem == "ema_0.100"
    averaged = load(str(folder), "ema_0.100")
    for parameter in averaged.denoiser.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, 21.0), rtol=1e-3, atol=0)
    with pytest.raises(ConfigError, match=r"ema\.std"):
        posthoc_ema.write(OmegaConf.create({"run": str(folder), "std": 0.5, "step": None}))
