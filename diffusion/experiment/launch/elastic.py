"""More than one rank: started from the job's own resolved config, never by running its command line again.

The job's process starts an agent (``python -m diffusion.experiment.launch.elastic``), torch's elastic launcher, which
starts ``python -m diffusion.experiment.launch.rank_main`` once a rank. Every rank reads the same file, so a sweep
cannot give two ranks different parameters. The job's own process stays without torch and keeps the run's record.

A rank that fails ends the others within seconds, and the job fails with that rank's error. SIGTERM is handed to the
ranks, which stop together after a step and save. A killed job takes its ranks with it.

Under torchrun or srun the ranks exist already: :func:`ranks.joined` says so, and nothing need be started.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError, Preempted, RankFailedError
from diffusion.experiment.process.ranks import joined, wanted_ranks
from diffusion.experiment.run import held_log
from diffusion.experiment.run.signals import defer, stop_requested
from diffusion.files import write_atomic

__all__ = ["RankFailedError", "joined", "launch", "wanted_ranks"]

BEGUN = "begun"
"""In the folder that the ranks share: the first one has begun to train."""
SHARED = "ALPHABAR_RANKS"
"""Environment variable of a rank: a folder with the job's config, the pid of each rank, and a failed one's error."""
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT)
"""Exit codes of a rank that was asked to stop; the last two where the signal came again while it was leaving."""
GRACE = 5
"""Seconds between asking the other ranks of a failed job to end and making them."""


def launch(
    folder: Path,
    cfg: DictConfig,
    task: str = "diffusion.experiment.task.train:run",
    begin: Callable[[], None] | None = None,
) -> None:
    """Runs ``task(cfg)`` in as many processes of one group as ``cfg`` asks for, and waits for them.

    Args:
        folder: the run folder.
        task: ``module:function``, imported by every rank.
        begin: called once the first rank has announced that it has begun to train, or has ended well.

    Raises:
        ConfigError: an error of the user's on a rank; its sentence.
        RankFailedError: a rank failed otherwise; with its message and traceback.
        Preempted: SIGTERM came; the ranks have saved.
    """
    count = wanted_ranks(cfg)
    with TemporaryDirectory(prefix="ranks-") as scratch:
        _launch(Path(scratch), folder, cfg, task, count, begin or (lambda: None))


def _launch(scratch: Path, folder: Path, cfg: DictConfig, task: str, count: int, begin: Callable[[], None]) -> None:
    write_atomic(scratch / "job.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    share = max(1, (os.cpu_count() or 1) // count)
    environment = {"OMP_NUM_THREADS": str(share)} | dict(os.environ) | {SHARED: str(scratch)}
    command = [sys.executable, "-m", "diffusion.experiment.launch.elastic", str(folder), task, str(count)]
    defer(True)
    agent = subprocess.Popen(command, env=environment)
    try:
        passed_on, ended, lost, begun = False, False, float("inf"), False
        while agent.poll() is None:
            time.sleep(0.05)
            if not begun and (scratch / BEGUN).exists():
                begun = True
                begin()
            if stop_requested() and not passed_on:
                passed_on = _send(scratch, signal.SIGTERM)
            if lost == float("inf") and any(scratch.glob("rank*.json")):
                lost = time.monotonic()
            if not ended and time.monotonic() - lost > GRACE:  # one that waits in a collective hears no SIGTERM
                ended = _send(scratch, signal.SIGKILL)
    except BaseException:  # Ctrl-C reaches the ranks by itself; whatever came, none may outlive the job
        _wait_or_kill(agent)
        raise
    finally:
        defer(False)
    failure = _failure(scratch, ended)
    if stop_requested() and failure is None:
        raise Preempted(stop_requested() or signal.SIGTERM)
    if agent.returncode != 0:
        failed = RankFailedError(failure or f"the agent of the ranks ended with code {agent.returncode}")
        if (sentence := _users(scratch)) is not None:
            raise ConfigError(sentence) from failed
        raise failed
    begin()


def announce() -> None:
    """The first of launched ranks tells its job that it has begun to train, and writes its log from here on."""
    held_log.release()
    if SHARED in os.environ and os.environ.get("RANK") == "0":
        (Path(os.environ[SHARED]) / BEGUN).touch()


def _send(scratch: Path, signum: signal.Signals) -> bool:
    """A signal to the ranks themselves: an agent that ends them would not give them the time to save."""
    for note in scratch.glob("*.pid"):
        try:
            os.kill(int(note.read_text(encoding="ascii")), signum)
        except (ProcessLookupError, ValueError):
            continue
    return any(scratch.glob("*.pid"))


def _failure(scratch: Path, made_to_end: bool = False) -> str | None:
    """What the first rank that failed said: those that failed after it only lost it, or were ``made_to_end``."""
    told = {one["rank"]: one for one in map(_read, scratch.glob("rank*.json"))}
    ended = {} if made_to_end or not (scratch / "agent.json").is_file() else _read(scratch / "agent.json")
    silent = [f"rank {number} {how}" for number, how in ended.items() if int(number) not in told]
    if not told:
        return ", ".join(silent) or None
    first = min(told.values(), key=lambda one: float(one["when"]))
    lines = [*silent, f"rank {first['rank']}: {first['error']}"]  # silent: killed, so it was the others that noticed
    return "; ".join(lines) + f"\n\nOn rank {first['rank']}:\n{first['traceback']}"


def _users(scratch: Path) -> str | None:
    """The sentence of the rank that failed first, where that was an error of the user's."""
    told = [_read(path) for path in scratch.glob("rank*.json")]
    first = min(told, key=lambda one: float(one["when"]), default={})
    return str(first["error"]) if first.get("user") else None


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _wait_or_kill(agent: subprocess.Popen[bytes]) -> None:
    agent.terminate()
    try:
        agent.wait(GRACE + 5)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()


def die_with_parent() -> None:
    """Linux: SIGKILL for this process when the one that started it is gone, so that no rank outlives its job."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def agent(folder: Path, task: str, count: int) -> int:
    """Starts the ranks through torch's elastic launcher and waits; the exit code of the agent."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # the run itself says what happened
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=GRACE,
    )
    arguments = ["-m", "diffusion.experiment.launch.rank_main", str(folder), task]
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as failed:
        ended = {
            number: f"was ended by {one.signal_name()}" if one.exitcode < 0 else f"ended with code {one.exitcode}"
            for number, one in failed.failures.items()
            if one.exitcode not in STOPPED
        }
        write_atomic(Path(os.environ[SHARED]) / "agent.json", json.dumps(ended))
        return 1
    except (SignalException, KeyboardInterrupt) as stopped:  # Ctrl-C reaches the ranks by itself
        return 128 + int(getattr(stopped, "sigval", signal.SIGINT))
    return 0


if __name__ == "__main__":
    die_with_parent()
    sys.exit(agent(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
