"""A run's record of itself: its resolved config, its environment, and what became of it.

    outputs/<name>/<run id>/
        .hydra/           Hydra's own: the composed config, the overrides
        config.yaml       the config with every reference followed
        environment.json  code, packages, device, command
        code.json         the modules that the parts are made of, by their content
        status.json       running, finished, failed with the reason, preempted
        traceback.txt     of a failure; also in the run's log

SIGTERM ends a run as preempted with exit code 143, Ctrl-C with 130. Training stops after its step and saves first
(:class:`diffusion.experiment.run.preemption.Preemption`); anything else stops at once.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError, DiskError, Preempted, PrunedError, RankFailedError, UserError
from diffusion.experiment.config.config_hash import AUTO, identity
from diffusion.experiment.config.validate import resolved
from diffusion.experiment.process.ranks import rank
from diffusion.experiment.run import environment, held_log, signals
from diffusion.experiment.run.code import changed, code_of, files_of, write_code
from diffusion.experiment.run.history import HISTORY, lasting, read_history
from diffusion.experiment.run.resume import Continued
from diffusion.experiment.run.saved_config import COMPOSED, OVERRIDES, RESOLVED
from diffusion.experiment.run.status import now, process, read_status, write_status
from diffusion.files import newest, write_atomic

log = logging.getLogger(__name__)


class Record:
    """The life of a run as a context: running on entry, then finished, failed or preempted. Records may be nested.

    Where ranks were started together, the first one keeps the record.

    Args:
        folder: the run folder; made where missing.
        cfg: the run's config, its needs resolved; ``None`` leaves ``config.yaml`` as it is.
        overrides: the command line's, kept in ``status.json`` for tables.
        continued: the run that is continued; the folder stays as it is until :meth:`begin`.

    Raises:
        ConfigError: another living process is writing to this folder.
    """

    def __init__(
        self,
        folder: Path,
        cfg: DictConfig | None = None,
        overrides: Sequence[str] = (),
        continued: Continued | None = None,
    ) -> None:
        self.folder, self.cfg, self.continued = folder, cfg, continued
        self.status: dict[str, Any] = {"status": "running", "overrides": list(overrides)}
        self._clock = 0.0
        self._facts: dict[str, Any] = {}
        self._follower, self._begun = rank() > 0, False

    def __enter__(self) -> Record:
        self._signals = signals.begin()
        try:
            if not self._follower:
                self._expect_free()
            if self.continued is None:
                self.begin()
            return self
        except BaseException:
            signals.end(self._signals)
            raise

    def _expect_free(self) -> dict[str, Any]:
        before = read_status(self.folder)
        if before is not None and before["status"] == "running" and before.get("pid") != os.getpid():
            raise ConfigError(
                f"{self.folder} is being written by process {before.get('pid')} since {before.get('started')}; "
                "wait for it, stop it, or give another folder"
            )
        return before or {}

    def begin(self) -> None:
        """Writes that the run is running, once."""
        held_log.release()
        if self._begun or self._follower:
            return
        before = self._expect_free()
        self._begun = True
        segment = 1 + int(before.get("segments", 0))
        if not self._clock:
            self.start_clock()
        self.status |= {"started": now(), "segments": segment, **process()}
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.continued is not None:
            self.continued.write(self.folder, segment)
            self._compare_code()
        elif self.cfg is not None and self.cfg.get("resume") is None:
            self._start_config(self.cfg)
        self.status["identity"] = self._identity(before)
        write_status(self.folder, self.status)
        self._environment = self.folder / ("environment.json" if segment == 1 else f"environment-{segment}.json")
        self._write_environment()

    def _start_config(self, cfg: DictConfig) -> None:
        """Of a run that starts from its beginning; what an earlier one in this folder was continued with is gone."""
        write_atomic(self.folder / RESOLVED, OmegaConf.to_yaml(cfg, resolve=True))
        for name in (RESOLVED, COMPOSED, OVERRIDES):
            while (later := newest(self.folder / name)) != self.folder / name:
                later.unlink()
        (self.folder / HISTORY).unlink(missing_ok=True)
        write_code(self.folder, code_of(resolved(cfg)))

    def _compare_code(self) -> None:
        if self.cfg is not None and (files := changed(self.folder, code_of(resolved(self.cfg)))):
            log.warning("the run goes on with other code than it began with: %s", files_of(files))

    def start_clock(self) -> None:
        """``seconds`` count from here: those before were other runs'."""
        self._clock = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        signum = signals.stop_requested() or signal.SIGTERM
        signals.end(self._signals)
        if self._follower:
            return False
        if not self._begun and error is None:
            self.begin()
        if not self._begun:
            return self._refused(error)
        ended = {"ended": now(), "seconds": round(time.monotonic() - self._clock, 3)}
        preempted = isinstance(error, Preempted) or _is_sigterm(error)
        if not self.folder.is_dir():  # its disk is gone: it is not made again on another one
            log.error("%s is gone, and the record of the run with it", self.folder)
            return False
        with suppress(DiskError):
            self._write_environment()
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0) and not preempted):
            write_status(self.folder, self.status | ended | {"status": "finished"})
            return False
        if isinstance(error, PrunedError):
            pruned = {"status": "finished", "pruned": True, "reason": str(error)}
            write_status(self.folder, self.status | ended | pruned)
            return True
        if preempted or isinstance(error, KeyboardInterrupt):
            signum = signal.SIGINT if isinstance(error, KeyboardInterrupt) else _signum(error) or signum
            reason = "SIGTERM" if signum == signal.SIGTERM else "interrupted at the keyboard"
            write_status(self.folder, self.status | ended | {"status": "preempted", "reason": reason})
            saved = (self.folder / "checkpoints" / "last.ckpt").is_file()
            how = f"resume={self.folder} continues it" if saved else "it has no checkpoint yet, start it again"
            log.warning("%s: the run stops here; %s", reason, how)
            raise Preempted(signum) from None
        text = "".join(traceback.format_exception(kind, error, trace))
        with suppress(DiskError):
            write_atomic(self.folder / "traceback.txt", text)
        sentence = " ".join(str(error).split()) if isinstance(error, UserError) else None
        log.error("the run failed: see traceback.txt" if sentence else f"the run failed\n{text}")
        error.recorded = True  # type: ignore[attr-defined]
        failed = {"status": "failed", "reason": sentence or _reason(error), "traceback": "traceback.txt"}
        with suppress(DiskError):  # the run's own error is the one to be seen
            write_status(self.folder, self.status | ended | failed)
        return False

    def _refused(self, error: BaseException | None) -> bool:
        """The run was not continued: its folder is as it was."""
        if isinstance(error, Preempted | KeyboardInterrupt) or _is_sigterm(error):
            log.warning("stopped before the run was continued; %s is as it was", self.folder)
            raise Preempted(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM) from None
        return False

    def note(self, **facts: Any) -> None:
        """Plain values that ``environment.json`` holds from now on."""
        self._facts |= facts
        if self._begun:
            self._write_environment()

    def _write_environment(self) -> None:
        """Again at the end, when torch is there to say what it ran on."""
        needs = (self.cfg.get("needs") if self.cfg is not None else None) or {}
        built_on = {"needs": {str(role): {"run": n.run, "identity": n.identity} for role, n in needs.items()}}
        write_atomic(self._environment, json.dumps(environment.environment() | built_on | self._facts, indent=2) + "\n")

    def _identity(self, before: Mapping[str, Any]) -> str | None:
        """Of the config; a run that continues in its recorded precision, where the machine chose it, stays the same."""
        if self.cfg is None:
            return before.get("identity")
        history = lasting(read_history(self.folder))
        own = identity(self.cfg, history)
        if before.get("identity") not in (own, None) and self.cfg.get("trainer"):
            cfg = copy.deepcopy(self.cfg)
            cfg.trainer.precision = AUTO
            auto = identity(cfg, history)
            own = auto if auto == before["identity"] else own
        return own


def _signum(error: BaseException | None) -> int | None:
    return int(error.code) - 128 if isinstance(error, Preempted) and isinstance(error.code, int) else None


def _is_sigterm(error: BaseException | None) -> bool:
    """Lightning's own answer to SIGTERM, recognised without importing it."""
    module = sys.modules.get("pytorch_lightning.utilities.exceptions")
    return module is not None and isinstance(error, module.SIGTERMException)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split("\n\n")[0].split())
    return text if isinstance(error, RankFailedError) else f"{type(error).__name__}: {text}"[:1000]
