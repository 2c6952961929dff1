"""Training loops to be timed: one that stands still between samples, and this project's own as its config builds it."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning.callbacks.callback import Callback

CONF = Path(__file__).parents[1] / "conf"
Loop = Callable[[Callable[[], None]], object]
"""Trains until its argument, to be called after every step, raises."""


class Paused:
    """A loop in a thread of its own that takes ``steps`` steps a call and stands still in between."""

    def __init__(self, loop: Loop, steps: int) -> None:
        self._steps, self._left, self._over = steps, 0, False
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._thread.start()

    def __call__(self) -> None:
        if self._error is None:
            self._left = self._steps
            self._go.release()
            self._done.acquire()
        if self._error is not None:
            raise RuntimeError("the training loop that is timed has failed") from self._error

    def __enter__(self) -> Paused:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._go.release()
        self._thread.join()

    def _run(self, loop: Loop) -> None:
        self._go.acquire()
        try:
            if not self._over:
                loop(self._tick)
        except _OverError:
            pass
        except BaseException as error:  # raised by the next call
            self._error = error
        finally:
            self._done.release()

    def _tick(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._done.release()
            self._go.acquire()
        if self._over:
            raise _OverError


class _OverError(Exception):
    """The timing is over."""


class Tick(Callback):
    """Tells after each training step."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick

    def on_train_batch_end(self, *_: Any) -> None:
        self._tick()


def config(folder: Path, *overrides: str) -> DictConfig:
    """The default experiment, callbacks and metrics.csv included, without end.

    Left out: W&B, which peers do not have, and the score at the end.
    """
    from diffusion.experiment.config import resolvers

    resolvers.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        fixed = [f"paths.run={folder}", "logger=csv", "evaluation=none", "trainer.max_steps=1000000"]
        rare = [f"callbacks.{name}.every_n_train_steps=1000000" for name in ("samples", "checkpoint")]
        return compose("train", [*fixed, *rare, "trainer.val_check_interval=1000000", *overrides])


def ours(cfg: DictConfig, tick: Callable[[], None]) -> None:
    """``scripts/train.py``'s training of ``cfg``."""
    from diffusion.experiment.build.build import build_data, build_module, build_trainer

    quiet()
    build_trainer(cfg, extra=[Tick(tick)]).fit(build_module(cfg), datamodule=build_data(cfg))


def quiet() -> None:
    """No advice, neither Lightning's nor torch's, between the lines of a table."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
