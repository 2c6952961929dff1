"""A run's record of itself: its resolved config, its environment, and what became of it.

    outputs/<name>/<run id>/
        .hydra/           Hydra's own: the composed config, the overrides
        config.yaml       the config with every reference followed
        environment.json  code, packages, device, command
        status.json       running, finished, failed with the reason, preempted
        traceback.txt     of a failure; also in the run's log

SIGTERM ends a run as preempted with exit code 143. Training is asked to stop at its next step and saves first
(:class:`diffusion.experiment.preemption.StopWhenAsked`); anything else stops at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.experiment import environment
from diffusion.experiment.mistakes import ConfigError, as_mistake
from diffusion.experiment.ranks import rank
from diffusion.experiment.status import now, process, read_status, write_atomic, write_status

log = logging.getLogger(__name__)

PREEMPTED = 128 + signal.SIGTERM


class RankFailedError(RuntimeError):
    """A rank of the job failed; the message is its own, with its traceback."""


class Preempted(SystemExit):
    """The run was asked to stop by SIGTERM; exit code 143."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class _Signal:
    """Whether SIGTERM came, and whether somebody saves before stopping."""

    asked = False
    deferred = False

    @classmethod
    def handle(cls, signum: int, frame: FrameType | None) -> None:
        cls.asked = True
        if not cls.deferred:
            raise Preempted


def asked_to_stop() -> bool:
    """Did SIGTERM come?"""
    return _Signal.asked


def defer(on: bool) -> None:
    """From now on SIGTERM waits for whoever asks :func:`asked_to_stop` (on), or stops the run at once (off)."""
    _Signal.deferred = on


def listen() -> Any:
    """Installs the handler of SIGTERM, in a main thread; returns the one before."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, _Signal.handle)


class Record:
    """The life of a run as a context: running on entry, then finished, failed or preempted.

    Where ranks were started together, the first one keeps the record.

    Args:
        folder: the run folder; made where missing.
        cfg: the run's config; ``None`` leaves ``config.yaml`` as it is.
        overrides: the command line's, kept in ``status.json`` for tables.
        cell: the run's identity in a sweep.

    Raises:
        ConfigError: another living process is writing to this folder.
    """

    def __init__(
        self, folder: Path, cfg: DictConfig | None = None, overrides: Sequence[str] = (), cell: str | None = None
    ) -> None:
        self.folder, self.cfg = folder, cfg
        self.status: dict[str, Any] = {"status": "running", "overrides": list(overrides), "cell": cell}
        self._clock = 0.0
        self._handler: Any = None
        self._watching = rank() > 0

    def __enter__(self) -> Record:
        _Signal.asked = _Signal.deferred = False
        self._handler = listen()
        if self._watching:
            return self
        before = read_status(self.folder)
        if before is not None and before["status"] == "running" and before.get("pid") != os.getpid():
            raise ConfigError(
                f"{self.folder} is being written by process {before.get('pid')} since {before.get('started')}; "
                "wait for it, stop it, or give another folder"
            )
        segment = 1 + int((before or {}).get("segments", 0))
        self._clock = time.monotonic()
        self.status |= {"started": now(), "segments": segment, **process()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_status(self.folder, self.status)
        self._environment = self.folder / ("environment.json" if segment == 1 else f"environment-{segment}.json")
        self._write_environment()
        if self.cfg is not None:
            write_atomic(self.folder / "config.yaml", OmegaConf.to_yaml(self.cfg, resolve=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        if self._watching:
            return
        ended = {"ended": now(), "seconds": round(time.monotonic() - self._clock, 3)}
        preempted = isinstance(error, Preempted) or _is_sigterm(error)
        self._write_environment()
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0) and not preempted):
            write_status(self.folder, self.status | ended | {"status": "finished"})
            return
        if preempted or isinstance(error, KeyboardInterrupt):
            reason = "SIGTERM" if preempted else "interrupted at the keyboard"
            write_status(self.folder, self.status | ended | {"status": "preempted", "reason": reason})
            log.warning("%s: the run stops here; resume=%s continues it", reason, self.folder)
            if preempted:
                raise Preempted from None
            return
        text = "".join(traceback.format_exception(kind, error, trace))
        write_atomic(self.folder / "traceback.txt", text)
        mistake = as_mistake(error)
        log.error("the run failed: see traceback.txt" if mistake else f"the run failed\n{text}")
        error.recorded = True  # type: ignore[attr-defined]
        failed = {"status": "failed", "reason": mistake or _reason(error), "traceback": "traceback.txt"}
        write_status(self.folder, self.status | ended | failed)

    def _write_environment(self) -> None:
        """Again at the end, when torch is there to say what it ran on."""
        write_atomic(self._environment, json.dumps(environment.environment(), indent=2) + "\n")


def _is_sigterm(error: BaseException | None) -> bool:
    """Lightning's own answer to SIGTERM, recognised without importing it."""
    module = sys.modules.get("pytorch_lightning.utilities.exceptions")
    return module is not None and isinstance(error, module.SIGTERMException)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split("\n\n")[0].split())
    return text if isinstance(error, RankFailedError) else f"{type(error).__name__}: {text}"[:1000]
