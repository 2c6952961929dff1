"""Search: Optuna proposes, our sweeps run. The study is a file in the sweep's folder and is written as it goes.

A trial that diverges (NaN) or fails is a failed one to the study and the search goes on. The same command again
finishes what was interrupted, then adds what is missing; it repeats no trial.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from rich.console import Console
from rich.table import Table

from diffusion.errors import ConfigError
from diffusion.experiment.config import validate
from diffusion.experiment.config.overrides import quote
from diffusion.experiment.sweep.measures import names, refuse_unknown
from diffusion.experiment.sweep.plan import Cell, Layout
from diffusion.experiment.sweep.run import Sweep, refuse_ranks, remembering

log = logging.getLogger(__name__)

JOURNAL = "study.journal"


def search(sweeper: Any, arguments: list[str]) -> None:
    """Runs the trials of a study that are missing. Ends the process with the exit code."""
    try:
        refuse_ranks()
        code = Search(sweeper, arguments).run()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if code:
        sys.exit(code)


class Search:
    """One study.

    Raises:
        ConfigError: nothing to search; a metric or a report that no trial will have; parts that do not fit; a study
            over another space in the same folder.
    """

    def __init__(self, sweeper: Any, arguments: list[str]) -> None:
        self.s = sweeper
        parsed = OverridesParser.create(config_loader=sweeper.context.config_loader).parse_overrides(arguments)
        self.fixed = [
            f"{o.get_key_element()}={o.get_value_element_as_str()}" for o in parsed if not o.is_sweep_override()
        ]
        self.space = {o.get_key_element(): distribution(o) for o in parsed if o.is_sweep_override()}
        if not self.space:
            raise ConfigError(
                "a search needs something to vary, and no override gives a choice; "
                "write for example optimizer.lr='tag(log,interval(1e-5,1e-2))'"
            )
        self.context = remembering(sweeper.context)
        self.layout = Layout(self.context, sweeper.task, sweeper.config)
        choices = {key: getattr(space, "choices", None) or [space.low] for key, space in self.space.items()}
        report = None if sweeper.pruner == "none" else str(sweeper.report)
        refuse_unknown(self.layout.glance, self.fixed, choices, str(sweeper.metric), report)
        first = [f"{key}={space.choices[0]}" for key, space in self.space.items() if hasattr(space, "choices")]
        self.folder = Path(str(sweeper.config.hydra.sweep.dir))
        place = f"paths.run={quote(str(self.folder))}"
        validate.check(self.layout.glance([*self.fixed, *first, place]))  # of the parts, which imports them
        self.study = self._open()

    def run(self) -> int:
        """The exit code: 0, 1 where no trial gave a number, 143 after SIGTERM."""
        import optuna

        running = [t for t in self.study.trials if t.state == optuna.trial.TrialState.RUNNING]
        while running or self._missing() > 0:
            if running:  # what a killed search left behind
                trials = [optuna.trial.Trial(self.study, t._trial_id) for t in running[: self.s.n_jobs]]
                running = running[self.s.n_jobs :]
            else:
                trials = [self.study.ask(self.space) for _ in range(min(self.s.n_jobs, self._missing()))]
            code = self._batch(trials)
            if code > 1:
                return code
        self._show()
        return int(not self._complete())

    def _missing(self) -> int:
        begun = [t for t in self.study.trials if t.state.name != "WAITING"]  # not what was enqueued from elsewhere
        return int(self.s.n_trials) - len(begun)

    def _batch(self, trials: list[Any]) -> int:
        cells: list[tuple[Any, Cell]] = []
        for trial in trials:
            swept = [f"{key}={trial.params[key]}" for key in self.space]
            try:
                cell = self.layout.cell([*self.fixed, *swept], swept)
            except ConfigError as error:
                log.warning("trial %d cannot be run: %s", trial.number, error)
                self._tell(trial, None, str(error))
                continue
            cell.extra = self._pruning(trial)
            cells.append((trial, cell))
        if not cells:
            return 0
        code = Sweep(self.context, self.s.task, self.s.config, [cell for _, cell in cells]).run(quiet=True)
        if code > 1:
            return code  # stopped by a signal: the trials stay running, and the next call finishes them
        for trial, cell in cells:
            value = result(cell.folder, self.s.metric)
            self._tell(trial, value, str(cell.status.get("reason", "")), pruned=bool(cell.status.get("pruned")))
        return code

    def _tell(self, trial: Any, value: float | None, why: str, *, pruned: bool = False) -> None:
        from optuna.trial import TrialState

        poor = value is None or not math.isfinite(value)
        why = why or (f"{self.s.metric} is {'missing' if value is None else value}" if poor else "")
        trial.set_user_attr("why", why)
        if pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif poor:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, value)
        log.info("trial %d: %s", trial.number, "pruned" if pruned else why or f"{self.s.metric} {value}")

    def _pruning(self, trial: Any) -> list[str]:
        if self.s.pruner == "none":
            return []
        journal = self.folder.resolve() / JOURNAL
        arguments = (
            f"journal: '{journal}', trial: {trial._trial_id}, metric: '{self.s.report}', pruner: {self.s.pruner}"
        )
        node = f"{{_target_: diffusion.experiment.sweep.pruning.Pruning, {arguments}}}"
        return [f"++callbacks.pruning={node}"]

    def _open(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        journal = self.folder / JOURNAL
        _mend(journal)
        study = optuna.create_study(
            storage=storage(journal),
            study_name="search",
            direction=self.s.direction,
            pruner=pruner(self.s.pruner),
            load_if_exists=True,
        )
        done = len(study.trials)
        study.sampler = sampler(self.s.sampler, int(self.s.seed) + done, int(self.s.startup))
        space = {key: repr(value) for key, value in self.space.items()}
        known = study.user_attrs.get("space", space)
        if known != space:
            raise ConfigError(
                f"{self.folder} holds a search over {', '.join(f'{k} in {v}' for k, v in known.items())}; "
                "give this one a name=... of its own"
            )
        study.set_user_attr("space", space)
        return study

    def _complete(self) -> list[Any]:
        return [t for t in self.study.trials if t.state.name == "COMPLETE"]

    def _show(self) -> None:
        """All trials, the best first."""
        sign = 1 if self.s.direction == "minimize" else -1
        trials = sorted(self.study.trials, key=lambda t: (t.value is None, sign * (t.value or 0.0)))
        shown = Table(title=f"{len(trials)} trials, best first")
        for name in ("trial", *self.space, self.s.metric, "state", "why"):
            shown.add_column(name, overflow="fold")
        for t in trials:
            value = "" if t.value is None else f"{t.value:.6g}"
            cells = [_short(t.params.get(key)) for key in self.space]
            shown.add_row(str(t.number), *cells, value, t.state.name.lower(), str(t.user_attrs.get("why", "")))
        Console(stderr=True).print(shown)


def distribution(override: Override) -> Any:
    """What an override's sweep means to Optuna: choices, a range with steps, or an interval (``tag(log, ...)``)."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, ChoiceSweep | RangeSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    if isinstance(value, IntervalSweep):
        low, high, log_scale = value.start, value.end, "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log_scale)
        return FloatDistribution(float(low), float(high), log=log_scale)  # type: ignore[arg-type]
    raise ConfigError(f"{override.input_line} cannot be searched; give choices a,b,c or interval(low,high)")


def storage(journal: Path) -> Any:
    """A study in one file that several processes may append to."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(journal)))


def _mend(journal: Path) -> None:
    """Drops what a killed writer left of its last line, which would spoil the next one.

    Raises:
        ConfigError: it is not a study's file.
    """
    text = journal.read_bytes() if journal.is_file() else b""
    whole = text[: text.rfind(b"\n") + 1]
    try:
        good = all("op_code" in json.loads(line) for line in whole.splitlines())
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{journal} is damaged, or no study of Optuna; move it away to begin a new one")
    if whole != text:
        with journal.open("r+b") as file:
            file.truncate(len(whole))


def sampler(name: str, seed: int, startup: int) -> Any:
    """By name. Raises ConfigError for another name."""
    from optuna import samplers

    if name == "tpe":
        return samplers.TPESampler(seed=seed, n_startup_trials=startup)
    if name == "random":
        return samplers.RandomSampler(seed=seed)
    if name == "cmaes":
        return samplers.CmaEsSampler(seed=seed, n_startup_trials=startup)
    raise ConfigError(f"hydra.sweeper.sampler is tpe, random or cmaes, got {name!r}; set one of them")


def pruner(name: str) -> Any:
    """By name. Raises ConfigError for another name."""
    from optuna import pruners

    if name == "none":
        return pruners.NopPruner()
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0)
    if name == "halving":
        return pruners.SuccessiveHalvingPruner()
    raise ConfigError(f"hydra.sweeper.pruner is none, median or halving, got {name!r}; set one of them")


def result(folder: Path, metric: str) -> float | None:
    """A run's number: of its newest evaluation, or the last in its ``metrics.csv``; ``None`` where it has none."""
    scored = sorted(folder.glob("evaluation/*/metrics.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(scored):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        except (ValueError, KeyError):
            continue
        # names carry the extractor and the number of samples: fd is fd_digits-cnn-v1_897
        named = [k for k in metrics if names(metric, k)]
        if named:
            return float(metrics[named[0]])
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            values = [row[metric] for row in csv.DictReader(file) if row.get(metric)]
    except OSError:
        return None
    return float(values[-1]) if values else None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
