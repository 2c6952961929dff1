"""One rank of a job: ``python -m diffusion.experiment.launch.rank_main <folder> <module:function>``."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import UserError
from diffusion.experiment.config import resolvers
from diffusion.experiment.launch.elastic import SHARED, die_with_parent
from diffusion.experiment.process.allocator import set_allocator
from diffusion.experiment.run import held_log
from diffusion.experiment.run.held_log import HeldLog
from diffusion.experiment.run.signals import listen
from diffusion.files import write_atomic


def work(folder: Path, task: str) -> int:
    """Runs the task with the job's config; the exit code."""
    number = int(os.environ["RANK"])
    scratch = Path(os.environ[SHARED])
    listen()
    logging.raiseExceptions = False  # as in the job's own process
    write_atomic(scratch / f"{number}.pid", str(os.getpid()))
    module, _, function = task.partition(":")
    _log(folder / f"{module.rpartition('.')[2]}.log" if number == 0 else None)
    resolvers.register()
    cfg = OmegaConf.load(scratch / "job.yaml")
    if not isinstance(cfg, DictConfig):
        raise TypeError(f"{scratch / 'job.yaml'} holds a mapping, got {type(cfg).__name__}")
    OmegaConf.set_struct(cfg, True)
    set_allocator(cfg)
    if cfg.get("resume") is None:
        held_log.release()
    try:
        getattr(import_module(module), function)(cfg)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        mine, sentence = isinstance(error, UserError), " ".join(str(error).split())
        told = {
            "rank": number,
            "when": time.time(),
            "error": sentence if mine else f"{type(error).__name__}: {sentence}"[:1000],
            "user": mine,
            "traceback": traceback.format_exc(),
        }
        write_atomic(scratch / f"rank{number}.json", json.dumps(told))
        return 1
    return 0


def _log(file: Path | None) -> None:
    """The first rank writes where the job does, once the task has begun; the others only warn."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if file is not None:
        handlers.append(HeldLog(str(file)))
    level = logging.INFO if file is not None else logging.WARNING
    logging.basicConfig(level=level, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s", handlers=handlers)


if __name__ == "__main__":
    die_with_parent()
    code = work(Path(sys.argv[1]), sys.argv[2])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is written; taking down a process group's threads in a dying interpreter can abort a good rank
