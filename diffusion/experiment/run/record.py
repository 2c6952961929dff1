"""A run's record of itself: its resolved config, its environment, and what became of it.

    outputs/<name>/<run id>/
        .hydra/           Hydra's own: the composed config, the overrides
        config.yaml       the config with every reference followed
        environment.json  code, packages, device, command
        status.json       running, finished, failed with the reason, preempted
        traceback.txt     of a failure; also in the run's log

SIGTERM ends a run as preempted with exit code 143, Ctrl-C with 130. Training is asked to stop at its next step and
saves first (:class:`diffusion.experiment.run.preemption.StopWhenAsked`); anything else stops at once.
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

from diffusion.errors import ConfigError, Preempted, PrunedError, RankFailedError, UserError
from diffusion.experiment.process.ranks import rank
from diffusion.experiment.run import environment
from diffusion.experiment.run.status import now, process, read_status, write_status
from diffusion.files import write_atomic

log = logging.getLogger(__name__)


class _Signal:
    """Which signal asked this process to stop, and whether somebody saves before stopping."""

    asked: int | None = None
    deferred = False
    before: tuple[Any, ...] | None = None

    @classmethod
    def handle(cls, signum: int, frame: FrameType | None) -> None:
        again, cls.asked = cls.asked, signum
        if signum == signal.SIGINT and (again or not cls.deferred):  # a second Ctrl-C does not wait
            raise KeyboardInterrupt
        if not cls.deferred:
            raise Preempted(signum)


def asked_to_stop() -> bool:
    """Did SIGTERM or Ctrl-C come?"""
    return _Signal.asked is not None


def defer(on: bool) -> None:
    """From now on a signal waits for whoever asks :func:`asked_to_stop` (on), or stops the run at once (off)."""
    _Signal.deferred = on


def listen() -> None:
    """Installs the handler of SIGTERM and SIGINT, where this is the main thread."""
    if threading.current_thread() is threading.main_thread():
        before = tuple(signal.signal(number, _Signal.handle) for number in _SIGNALS)
        if _Signal.before is None:
            _Signal.before = before


def _silence() -> None:
    """The handlers that were there before."""
    before, _Signal.before = _Signal.before, None
    if before is not None and threading.current_thread() is threading.main_thread():
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
        self._watching = rank() > 0

    def __enter__(self) -> Record:
        _Signal.asked, _Signal.deferred = None, False
        listen()
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
    ) -> bool:
        _silence()
        if self._watching:
            return False
        ended = {"ended": now(), "seconds": round(time.monotonic() - self._clock, 3)}
        preempted = isinstance(error, Preempted) or _is_sigterm(error)
        self._write_environment()
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0) and not preempted):
            write_status(self.folder, self.status | ended | {"status": "finished"})
            return False
        if isinstance(error, PrunedError):
            told = {"status": "finished", "pruned": True, "reason": str(error)}
            write_status(self.folder, self.status | ended | told)
            return True
        if preempted or isinstance(error, KeyboardInterrupt):
            signum = signal.SIGINT if isinstance(error, KeyboardInterrupt) else _Signal.asked or signal.SIGTERM
            reason = "SIGTERM" if signum == signal.SIGTERM else "interrupted at the keyboard"
            write_status(self.folder, self.status | ended | {"status": "preempted", "reason": reason})
            log.warning("%s: the run stops here; resume=%s continues it", reason, self.folder)
            raise Preempted(signum) from None
        text = "".join(traceback.format_exception(kind, error, trace))
        write_atomic(self.folder / "traceback.txt", text)
        sentence = " ".join(str(error).split()) if isinstance(error, UserError) else None
        log.error("the run failed: see traceback.txt" if sentence else f"the run failed\n{text}")
        error.recorded = True  # type: ignore[attr-defined]
        failed = {"status": "failed", "reason": sentence or _reason(error), "traceback": "traceback.txt"}
        write_status(self.folder, self.status | ended | failed)
        return False

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
