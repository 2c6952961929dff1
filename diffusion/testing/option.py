"""Every file of conf/ trees found by itself, composed, and held to the contract of its kind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion.editing.base import Edit
from diffusion.experiment.build.build import build, build_module
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.config.options import composed, options
from diffusion.experiment.config.validate import check
from diffusion.operator.base import Operator
from diffusion.operator.gray import GrayOperator
from diffusion.pipeline.staged import MADE
from diffusion.randomness import SAMPLING, KeyedRandomness
from diffusion.testing.conditioner import check_conditioner, small_batch
from diffusion.testing.data import check_data
from diffusion.testing.edit import check_edit
from diffusion.testing.guidance import check_guidance, check_operator
from diffusion.testing.levels import check_parameterization, check_schedule, check_spacing, check_weighting
from diffusion.testing.network import check_network
from diffusion.testing.sampler import check_sampler
from diffusion.training.module.diffusion import DiffusionModule

__all__ = ["CHECKS", "check_option", "check_training", "options"]


def check_option(
    group: str, name: str, folders: Sequence[str | Path], folder: Path, overrides: Sequence[str] = ()
) -> None:
    """``conf/<group>/<name>.yaml`` of one of ``folders`` composes with this project's configs, fits together, and
    what it describes keeps the contract of its kind; a group without one is composed and checked.

    Args:
        folders: of configs, beside this project's own.
        folder: an empty one for the test's files.
        overrides: what the option needs beside its name, such as a mandatory key.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    files = [path for root in (*folders, CONF) if (path := Path(root) / group / f"{name}.yaml").is_file()]
    assert files, f"there is no {group}/{name}.yaml in {', '.join(map(str, folders))}"
    assert files[0].read_text(encoding="utf-8").lstrip().startswith("# "), (
        f"{files[0]} does not say what it is: begin it with a comment"
    )
    entry = ENTRIES.get(group, "train")
    cfg = composed(entry, CONF, folders, [f"paths.run={folder}", *chosen_with(group, name, folder), *overrides])
    if group not in ("ablation", "hydra"):
        check(cfg)
    if (contract := CHECKS.get(group)) is not None:
        contract(cfg, name)


def check_training(cfg: Any, images: int = 4) -> None:
    """A step of training with finite losses and weights that change, on images of noise.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    module = build_module(cfg)
    denoises = isinstance(module, DiffusionModule)
    shape = (cfg.data.channels, cfg.data.resolution, cfg.data.resolution)
    batch = small_batch(module.model.conditioner.columns if denoises else (), images, shape=shape)
    if denoises:  # what the model makes of images itself fits it
        bare = {name: column for name, column in batch.items() if name not in MADE}
        batch |= module.model.conditioner.completed(bare)
    made = module.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    loss = module.loss(batch, KeyedRandomness(range(images), seed=0, stream=SAMPLING)).total
    what = type(module.objective).__name__
    assert loss.shape == (images,), f"{what} gives losses of {list(loss.shape)} for {images} samples: one a sample"
    assert torch.isfinite(loss).all(), f"{what} gives a loss that is not finite: {loss.tolist()}"
    trained = module.core(module.model)
    before = [p.detach().clone() for p in trained.parameters()]
    loss.mean().backward()
    optimizer.step()
    changed = (not torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True))
    assert any(changed), (
        f"a step of {type(optimizer).__name__} on {what} changes no weight of the {type(trained).__name__}"
    )


def chosen_with(group: str, name: str, folder: Path) -> list[str]:
    """The option itself, and what its group needs beside it."""
    quiet = ["evaluation=none", "logger=csv"]
    images = ["data=image_folder", f"data.root={folder}"]
    place = {"operator": "operator@guidance.dps.operator"}.get(group, group)
    if group in ("operator", "guidance", "edit"):
        np.save(folder / "y.npy", np.linspace(-1, 1, 64).reshape(1, 8, 8))
    consistent = ["parameterization=velocity"]
    jumps = ["objective=mean_flow", "network=mlp", "network.numbers=[to]", "schedule=flow", "parameterization=flow"]
    more = {
        "ablation": [],
        "edit": [f"run={folder}", f"image={folder / 'y.npy'}", "choices=null", "spacing=trailing"],
        "data": ["network=mlp", *quiet],
        "guidance": ["conditioner=label", *quiet],
        "network": [*images, *quiet, *(["autoencoder=embedding", "guidance=none"] if "prior" in name else [])],
        "objective/metric": ["objective=consistency_training", *consistent, *quiet],
        "objective/pairs": ["objective=consistency_training", *consistent, *quiet],
        "objective/pairs/draws": [*jumps, *quiet],
        "objective/solve": ["objective=consistency_distillation", *consistent, *quiet],
        "operator": ["guidance=dps", f"guidance.dps.measurement={folder / 'y.npy'}", *quiet],
        "schedule": ["parameterization=velocity", *quiet],  # defined at every noisy end
        "text_encoder": ["conditioner=text", *quiet],
    }
    kind = group.split("/")[0]
    rest = more.get(f"{group}/{name}") or more.get(group, [line for line in quiet if line.split("=")[0] != kind])
    return [f"{place}={name}", *rest]


def _network(cfg: Any, name: str) -> None:
    """Built on the meta device, with and without a learned variance."""
    shape: tuple[int, ...] = (cfg.data.channels, cfg.data.resolution, cfg.data.resolution)
    if str(cfg.autoencoder._target_).endswith("EmbeddingAutoencoder"):
        shape = (cfg.autoencoder.channels,)
    classes = cfg.network.get("num_classes")
    for learned in (False,) if classes else (False, True):
        chosen = copy.deepcopy(cfg)
        if not classes:
            chosen.parameterization.learned_variance = learned
        with torch.device("meta"):
            network = build(chosen.network)
        groups = int(cfg.network.get("outputs", 1)) + learned
        check_network(network, shape, (classes,) if classes else groups * shape[0])


def _guidance(cfg: Any, name: str) -> None:
    for wrap in build(cfg.guidance).values():
        check_guidance(wrap)


def _operator(operator: Operator) -> None:
    check_operator(operator, (operator.channels, 8, 8) if isinstance(operator, GrayOperator) else (1, 8, 8))


def _edit(cfg: Any, name: str) -> None:
    edit: Edit = build(cfg.edit)
    for masked in {"none": (False,), "optional": (False, True), "needed": (True,)}[edit.mask]:
        if masked or name not in ("outpaint", "background"):
            check_edit(edit, masked)


def _then_trained(contract: Callable[[Any], None]) -> Callable[[Any, str], None]:
    def checked(cfg: Any, name: str) -> None:
        contract(cfg)
        check_training(cfg)

    return checked


_trained = _then_trained(lambda cfg: None)

ENTRIES = {"ablation": "reproduce", "edit": "edit"}
"""The script whose config a group is of, where that is not the training's."""
CHECKS: dict[str, Callable[[Any, str], None]] = {
    "augmentation": _trained,
    "conditioner": _then_trained(lambda cfg: check_conditioner(build(cfg.conditioner))),
    "edit": _edit,
    "data": lambda cfg, name: check_data(build(cfg.data)),
    "guidance": _guidance,
    "network": _network,
    "objective": _trained,
    "objective/metric": _trained,
    "objective/pairs": _trained,
    "objective/solve": _trained,
    "objective/time_distribution": _trained,
    "objective/weighting": _then_trained(lambda cfg: check_weighting(build(cfg.objective.weighting))),
    "operator": lambda cfg, name: _operator(build(cfg.guidance.dps.operator)),
    "optimizer": _trained,
    "parameterization": _then_trained(lambda cfg: check_parameterization(build(cfg.parameterization))),
    "sampler": lambda cfg, name: check_sampler(build(cfg.sampler), build(cfg.schedule)),
    "schedule": lambda cfg, name: check_schedule(build(cfg.schedule)),
    "spacing": lambda cfg, name: check_spacing(build(cfg.spacing), build(cfg.schedule), cfg.sampler.steps),
}
"""The contract of each group: (config, name of the option) -> nothing, or an AssertionError."""
