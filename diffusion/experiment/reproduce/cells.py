"""Runs what is missing of a table and reads what is there: trainings shared by cells and tables, then the statistics
that a sampler needs of a trained model, then evaluations.

A training lies in ``<outputs>/reproduce/<identity>``, named by its content like any cell of a sweep, so that tables
share it and nothing runs twice; a cell's score lies in the ``evaluation`` folder of its run.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.config import resolvers, validate
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.config.module_rules import SCORERS
from diffusion.experiment.config.overrides import quote
from diffusion.experiment.config.session import session
from diffusion.experiment.reproduce import pipelines, published
from diffusion.experiment.run.needs import compose, needs_overrides, seconds, state, with_needs
from diffusion.experiment.run.saved_config import MODEL_STATISTICS, RESOLVED, overridable_overrides, with_run
from diffusion.experiment.run.status import read_status
from diffusion.experiment.sweep import run as sweep
from diffusion.experiment.sweep.plan import Cell, Layout
from diffusion.experiment.task.evaluate_config import score_overrides, whole
from diffusion.reporting.ablation import Measured, Row
from diffusion.reporting.table import SECONDS, TRAINING, cost

log = logging.getLogger(__name__)

FOLDER = "reproduce"
Launch = Callable[[list[Cell]], int]


@dataclass(frozen=True)
class Settings:
    """seeds: of training and samples. train, evaluate: more overrides of all trainings and evaluations. hydra: the
    launcher's. outputs: folder of the runs. code: rerun or keep what other code made."""

    seeds: Sequence[int]
    train: Sequence[str] = ()
    evaluate: Sequence[str] = ()
    hydra: Sequence[str] = ()
    outputs: str = "outputs"
    code: str = "rerun"


def run(cells: Sequence[Row], settings: Settings) -> int:
    """Trains and scores what is not there yet, through the launcher of ``settings.hydra``.

    Returns: 0, 1 if any failed, more where it was stopped by a signal. What did not finish training is not scored.
    """
    failed = 0
    published.provide(cells, settings.outputs, settings.train)
    with _entry("train", train_task, settings) as (layout, launch):
        trainings = list(_trainings([cell for cell in cells if cell.weights is None], settings, layout).values())
        if any(training.status.get("status") != "finished" for training in trainings):
            failed = launch(list({training.identity: training for training in trainings}.values()))
    if failed > 1:
        return failed
    requested = {folder: cell.statistics for cell, folder, _ in _runs(cells, settings) if cell.statistics is not None}
    with _entry("model_statistics", statistics_task, settings) as (layout, launch):
        missing = [
            layout.cell(overridable_overrides([_run(folder), *lines]), ["statistics", folder.name])
            for folder, lines in requested.items()
            if _trained(folder) and not (folder / MODEL_STATISTICS).is_file()
        ]
        failed = max(failed, launch(missing)) if missing else failed
    if failed > 1:
        return failed
    with _entry("evaluate", evaluate_task, settings) as (layout, launch):
        missing = []
        for cell, folder, seed in _runs(cells, settings):
            if _trained(folder) and _score(cell, folder, seed, settings, layout) is None:
                missing.append(layout.cell(_scoring(cell, folder, seed, settings), [cell.name, f"seed={seed}"]))
        return max(failed, launch(missing)) if missing else failed


def measured(cells: Sequence[Row], settings: Settings) -> list[Measured]:
    """What is there of each cell, whoever made it."""
    found: dict[str, dict[int, dict[str, Any]]] = {cell.name: {} for cell in cells}
    runs = list(_runs(cells, settings))
    with _entry("evaluate", evaluate_task, settings) as (layout, _):
        for cell, folder, seed in runs:
            if _trained(folder) and (record := _score(cell, folder, seed, settings, layout)):
                found[cell.name][seed] = {**record, "trained": None if cell.weights else seconds(folder)}
    return [_measured(cell, found[cell.name]) for cell in cells]


def configs(cells: Sequence[Row], settings: Settings) -> Iterator[tuple[Row, DictConfig, str]]:
    """Each cell with the config that would score it, checked, and the identity of its training; nothing is run."""
    together = [pipelines.is_pipeline(cell.evaluate) for cell in cells]
    with TemporaryDirectory() as place:
        with _entry("train", train_task, settings) as (layout, _):
            trainings = _trainings(cells, replace(settings, seeds=settings.seeds[:1]), layout)
            for training in {t.identity: t for t in trainings.values()}.values():
                cfg = layout.compose(training.overrides)
                pipelines.write_run(Path(place) / training.identity, cfg, any(together))
        with _entry("evaluate", evaluate_task, settings) as (layout, _):
            for cell in cells:
                name = trainings[_key(cell, settings.seeds[0])].identity
                overrides = _scoring(cell, Path(place) / name, settings.seeds[0], settings)
                cfg = layout.compose(overrides)
                validate.check(cfg)
                cfg.trainer = OmegaConf.load(Path(place) / name / RESOLVED).trainer
                yield cell, cfg, name


def needed(cells: Sequence[Row], settings: Settings) -> dict[str, DictConfig]:
    """The trainings that those of the cells need first, by identity, without what is finished; nothing is run."""
    found: dict[str, DictConfig] = {}

    def add(cfg: DictConfig) -> None:
        for role, need in (cfg.get("needs") or {}).items():
            if need.identity not in found and state(Path(need.run)) != "finished":
                found[need.identity] = compose(cfg, str(role))[0]
                add(found[need.identity])

    trained = [cell for cell in cells if cell.weights is None]
    with _entry("train", train_task, settings) as (layout, _):
        for training in _trainings(trained, settings, layout).values():
            add(with_needs(layout.compose(training.overrides)))
    return found


def train_task(cfg: DictConfig) -> Any:
    """A training, as a launcher runs it."""
    resolvers.register()
    return sweep.job(_train, cfg)


train_task.finish = with_needs  # type: ignore[attr-defined]


def evaluate_task(cfg: DictConfig) -> Any:
    """An evaluation, as a launcher runs it."""
    resolvers.register()
    return sweep.job(_evaluate, cfg)


evaluate_task.finish = whole  # type: ignore[attr-defined]


def statistics_task(cfg: DictConfig) -> Any:
    """A measurement of a run's model, as a launcher runs it."""
    resolvers.register()
    return sweep.job(_measure, cfg)


statistics_task.finish = with_run  # type: ignore[attr-defined]


def _train(cfg: DictConfig) -> None:
    from diffusion.experiment.task.train import train

    train(cfg)


def _evaluate(cfg: DictConfig) -> None:
    from diffusion.experiment.task.evaluate import evaluate

    evaluate(whole(cfg))


def _measure(cfg: DictConfig) -> None:
    from diffusion.experiment.task.model_statistics import write

    write(with_run(cfg))


@contextmanager
def _entry(name: str, task: Any, settings: Settings) -> Iterator[tuple[Layout, Launch]]:
    """Hydra as ``scripts/<name>.py -m`` has it, and how cells are run; what the caller's Hydra knew comes back."""
    resolvers.register()
    root = f"{settings.outputs}/{FOLDER}"
    own = [f"hydra.sweep.dir={quote(root)}", *settings.hydra]
    own += [f"name={FOLDER}", f"paths.outputs={quote(settings.outputs)}"] if name == "train" else []
    own += [f"paths.outputs={quote(settings.outputs)}", f"run={quote(root)}"] if name != "train" else []
    with session(CONF, name) as inner:
        config = inner.compose_config(config_name=name, overrides=own, run_mode=RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
        context = sweep.remembering(HydraContext(config_loader=inner.config_loader, callbacks=Callbacks()))
        yield Layout(context, task, config), lambda cells: sweep.Sweep(context, task, config, cells).run()


def _key(cell: Row, seed: int) -> tuple[str, ...]:
    return (*cell.train, f"seed={seed}")


def _trainings(cells: Sequence[Row], settings: Settings, layout: Layout) -> dict[tuple[str, ...], Cell]:
    """Each training once, by what makes it."""
    out: dict[tuple[str, ...], Cell] = {}
    same: dict[str, Cell] = {}
    for cell in cells:
        for seed in settings.seeds:
            key = _key(cell, seed)
            if key not in out:
                mine = needs_overrides([*key, "evaluation=none", *settings.train])
                place = [f"name={FOLDER}", f"paths.outputs={quote(settings.outputs)}"]
                whole_line = [*mine, *place, f"code={settings.code}"]
                training = layout.cell(whole_line, list(key))
                out[key] = same.setdefault(training.identity, training)
    return out


def _runs(cells: Sequence[Row], settings: Settings) -> Iterator[tuple[Row, Path, int]]:
    with _entry("train", train_task, settings) as (layout, _):
        trainings = _trainings([cell for cell in cells if cell.weights is None], settings, layout)
    for cell in cells:
        for seed in settings.seeds:
            place = None if cell.weights is None else published.folder(cell, settings.outputs, settings.train)
            yield cell, place or trainings[_key(cell, seed)].folder, seed


def _run(folder: Path) -> str:
    return f"run={quote(os.path.abspath(folder))}"


def _scoring(cell: Row, folder: Path, seed: int, settings: Settings) -> list[str]:
    lines = [*cell.evaluate, *settings.evaluate, f"paths.outputs={quote(settings.outputs)}", f"code={settings.code}"]
    undrawn = any(f"evaluation={scorer}" in lines for scorer in SCORERS.values())  # and nothing has a seed
    lines = pipelines.scored(lines, folder)
    return score_overrides([*lines, f"seed={seed}", *([] if undrawn else [f"evaluation.seed={seed}"])])


def _score(cell: Row, folder: Path, seed: int, settings: Settings, layout: Layout) -> dict[str, Any] | None:
    """The record of a finished evaluation, ``None`` where it is not there."""
    from diffusion.experiment.task.score_folder import stale, target

    cfg = layout.compose(_scoring(cell, folder, seed, settings))
    path = target(cfg) / "metrics.json"
    if stale(cfg):
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        return None
    except ValueError:
        raise ConfigError(f"{path} is damaged; remove it, and the cell is scored again") from None


def _trained(folder: Path) -> bool:
    return (read_status(folder) or {}).get("status") == "finished"


def _measured(cell: Row, records: dict[int, dict[str, Any]]) -> Measured:
    names = dict.fromkeys(name for record in records.values() for name in record["metrics"])
    values = {name: [r["metrics"][name] for r in records.values() if name in r["metrics"]] for name in names}
    paid = [cost(record["fingerprint"]) for record in records.values()]
    values[SECONDS] = [part[SECONDS].mean for part in paid if SECONDS in part]
    values[TRAINING] = [record["trained"] for record in records.values() if record["trained"] is not None]
    nfe = [(r["fingerprint"].get("cost") or {}).get("nfe_per_sample") for r in records.values()]
    floor = next(iter(records.values()), {}).get("floor") or {}
    fingerprints = [record["fingerprint"] for record in records.values()]
    ways = {name: way for record in records.values() for name, way in (record.get("better") or {}).items()}
    return Measured(cell, values, nfe[0] if nfe else None, list(records), floor, fingerprints, ways)
