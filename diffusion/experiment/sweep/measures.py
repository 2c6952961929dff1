"""What a run will have measured, told from its config alone.

A search that looks for anything else is refused before a training is paid for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError
from diffusion.evaluation import naming
from diffusion.experiment.config.errors import nearest

log = logging.getLogger(__name__)

LOGS: Mapping[str, tuple[str, ...]] = {
    "RegressionObjective": ("mse",),
    "MatchingObjective": ("mse",),
    "GuidanceDistillationObjective": ("mse",),
    "ProgressiveObjective": ("mse",),
    "MeanFlowObjective": ("mse",),
    "ShortcutObjective": ("mse",),
    "ConsistencyDistillationObjective": ("distance",),
    "ConsistencyTrainingObjective": ("distance",),
    "ContinuousConsistencyObjective": ("tangent",),
    "ContinuousDistillationObjective": ("tangent",),
    "ReflowObjective": ("distance",),
    "DistributionMatchingObjective": ("match", "rival"),
    "ScoreIdentityObjective": ("match", "rival"),
    "HybridObjective": ("mse", "vb"),
    "VLBObjective": ("mse", "vb"),
    "ClassificationObjective": ("accuracy",),
}
"""Parts of an objective's loss, which the monitor logs as ``train/<part>``."""
UNWEIGHTED = (
    "RegressionObjective",
    "MatchingObjective",
    "HybridObjective",
    "GuidanceDistillationObjective",
    "ProgressiveObjective",
    "MeanFlowObjective",
    "ShortcutObjective",
)
"""Objectives with an unweighted loss."""
SILENT = ("Checkpoint", "LatentCache", "PostHocEMA", "Profile", "Pruning", "SampleGrid", "TrainingProgress")
"""Callbacks that log no number."""


@dataclass(frozen=True)
class Measures:
    """scores: of the evaluation. whole: names of scores whose number of images only the data know. columns: of
    ``metrics.csv``. monitored: what a pruner can see. unknown: parts whose names cannot be told beforehand, so that any
    other name may be theirs."""

    scores: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    monitored: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = field(default=())

    def __or__(self, other: Measures) -> Measures:
        return Measures(
            self.scores | other.scores,
            self.whole | other.whole,
            self.columns | other.columns,
            self.monitored | other.monitored,
            tuple(dict.fromkeys((*self.unknown, *other.unknown))),
        )

    def refuse(self, key: str, value: str) -> str | None:
        """The sentence for a ``metric`` or ``report`` that no run will have, ``None`` where one may.

        key: which of the two.
        """
        if key == "report":
            known, found = sorted(self.monitored), value in self.monitored
        else:
            short = {name for name in naming.BETTER if any(names(name, score) for score in self.scores)}
            known = [*sorted(short), *sorted(self.columns), *sorted(self.scores)]
            found = value in self.columns or any(names(value, score) for score in self.scores)
            found = found or value.removeprefix("evaluation/").startswith(tuple(f"{score}_" for score in self.whole))
        if found:
            return None
        if self.unknown:
            log.warning("%s=%s is not known beforehand; %s may measure it", key, value, " or ".join(self.unknown))
            return None
        return _sentence(f"hydra.sweeper.{key}", value, known)


def refuse_unknown(
    compose: Callable[[list[str]], DictConfig],
    fixed: list[str],
    space: Mapping[str, Sequence[Any]],
    metric: str,
    report: str | None,
) -> None:
    """Composes a trial of each choice, and looks whether any will have the metric.

    compose: overrides -> a trial's config. fixed: overrides of every trial. space: values of what is searched. report:
    ``None`` without a pruner.

    Raises:
        ConfigError: a metric or a report that no trial will have.
    """
    first = {key: values[0] for key, values in space.items()}
    trials = [first, *({**first, key: value} for key, values in space.items() for value in values[1:])]
    known: Measures | None = None
    for trial in trials:
        try:
            found = measures(compose([*fixed, *(f"{key}={value}" for key, value in trial.items())]))
        except ConfigError:  # such a trial fails, as it would in the search, and others may not
            continue
        if found is None:
            return
        known = found if known is None else known | found
    wanted = {"metric": metric, **({} if report is None else {"report": report})}
    for key, value in wanted.items():
        if known is not None and (sentence := known.refuse(key, value)) is not None:
            raise ConfigError(sentence)


def names(metric: str, score: str) -> bool:
    """Is ``score`` (``fd_digits-cnn-v1_897``) what is meant by ``metric`` (``fd``, or all of it)?"""
    return score == metric or (score.startswith(f"{metric}_") and not score.startswith(f"{metric}_std"))


def measures(cfg: DictConfig) -> Measures | None:
    """Of the runs of a config; ``None`` of a script that neither trains nor scores."""
    if cfg.get("module") is None and cfg.get("evaluation") is None:
        return None
    rooms = ("callbacks", "data", "evaluation", "logger", "objective")
    callbacks, data, evaluation, logger, objective = (_plain(cfg, room) for room in rooms)
    scored = _scores(evaluation, data.get("num_classes") or 0)
    if cfg.get("run") is not None:  # scored, not trained
        return scored
    logged, monitored, open_parts = _logged(callbacks, objective)
    columns = logged | monitored | {f"evaluation/{name}" for name in scored.scores - scored.whole}
    kept = any(_class(part) == "MetricsCSV" for part in logger.values())
    return scored | Measures(columns=columns if kept else frozenset(), monitored=monitored, unknown=open_parts)


def _scores(evaluation: Mapping[str, Any], classes: int) -> Measures:
    """Names in ``metrics.json``, and metrics whose names are their own."""
    found: set[str] = set()
    whole: set[str] = set()
    extractor, count = evaluation.get("extractor"), evaluation.get("num_samples")
    own = tuple(f"evaluation.metric.{name}" for name in evaluation.get("metric") or () if name not in naming.OUTPUTS)
    if extractor is not None and isinstance(count, int):
        listed = [*(evaluation.get("metrics") or ()), *(evaluation.get("metric") or ())]
        outputs = [out for metric in map(naming.plain, listed) for out in naming.OUTPUTS.get(metric, ())]
        if "fd_class" in outputs:
            outputs += [f"fd_class_{k}" for k in range(classes)]
        found = {naming.name(output, str(extractor), count) for output in outputs}
        if (evaluation.get("repeats") or 1) > 1:
            found |= {f"{name}_{what}" for name in found for what in ("std", "min")}
    if (kind := _class(evaluation.get("likelihood"))) in ("FlowLikelihood", "VariationalLikelihood"):
        name = f"bits_per_dim_{kind.removesuffix('Likelihood').lower()}"
        images = evaluation["likelihood"].get("num_samples")
        both = {name, f"{name}_std"}
        whole, found = (set(), found | {naming.counted(one, images) for one in both}) if images else (both, found)
    elif kind:
        own += ("evaluation.likelihood",)
    return Measures(frozenset(found | whole), frozenset(whole), unknown=own)


def _logged(
    callbacks: Mapping[str, Any], objective: Mapping[str, Any]
) -> tuple[frozenset[str], frozenset[str], tuple[str, ...]]:
    """Columns of callbacks but the monitor, those of the monitor, and parts whose names are their own."""
    logged: set[str] = set()
    monitored: set[str] = set()
    unknown = []
    for name, part in callbacks.items():
        kind = _class(part)
        if kind == "Monitor":
            monitored |= set(_monitored(part, objective))
            if _class(objective) not in LOGS:
                unknown.append("objective")
        elif kind == "TrendScore":
            steps = (part.get("sampler") or {}).get("steps")
            logged.add(f"trend/fd_{part.get('extractor')}_{part.get('num_samples')}x{steps}_trend")
        elif kind not in SILENT:
            unknown.append(f"callbacks.{name}")
    return frozenset(logged), frozenset(monitored), tuple(unknown)


def _monitored(monitor: Mapping[str, Any], objective: Mapping[str, Any]) -> Iterator[str]:
    kind, bins = _class(objective), int(monitor.get("bins") or 10)
    yield from (f"train/{name}" for name in ("images_per_s", "tflops", "mfu", "lr", *LOGS.get(kind, ())))
    yield from (f"val/{name}" for name in LOGS.get(kind, ()))
    for loss in ("loss", *(["unweighted_loss"] if kind in UNWEIGHTED else [])):
        for part in ("train", "val"):
            yield f"{part}/{loss}"
            yield from (f"{part}/{loss}_t/{i / bins:g}-{(i + 1) / bins:g}" for i in range(bins))


def _sentence(key: str, value: str, known: list[str]) -> str:
    what = f"{key}={value} is measured by no run of this search"
    if not known:
        return f"{what}, nor is anything else; choose an evaluation, callbacks=default or logger=csv"
    near = nearest(value, known)
    some = [name for name in known if "_t/" not in name and not name.startswith("evaluation/")]
    return f"{what}; " + (f"did you mean {key}={near}?" if near else f"set it to one of {', '.join(some)}")


def _plain(cfg: DictConfig, room: str) -> dict[str, Any]:
    node = cfg.get(room)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else {}  # type: ignore[return-value]


def _class(part: Any) -> str:
    return str(part.get("_target_", "")).rpartition(".")[2] if isinstance(part, Mapping) else ""
