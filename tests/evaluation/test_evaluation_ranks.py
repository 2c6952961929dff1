"""Evaluation on several ranks: the same bits as one, no hang when one fails, resumable with another number."""

from __future__ import annotations

import multiprocessing as mp
import os
import re
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pipelines import pipeline
from safetensors.torch import load_file

from diffusion.data.digits import Digits
from diffusion.denoiser import GaussianDenoiser
from diffusion.evaluation.evaluator import Evaluator
from diffusion.pipeline.base import Request
from diffusion.pipeline.single import SinglePipeline
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.schedule.cosine import CosineSchedule

N, B = 203, 16
"""203 = 12 batches of 16 and one of 11: divisible neither by the batch nor by 2 or 3 ranks."""


class Failing(SinglePipeline):
    """Draws until it meets sample ``at``; other batches take ``pause`` seconds."""

    at = -1
    pause = 0.0
    killed = False

    def draw(self, index: torch.Tensor, seed: int, request: Request = Request()) -> torch.Tensor:  # noqa: B008
        if self.at in index.tolist():
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the disk is full")
        for _ in range(int(self.pause / 0.02)):
            time.sleep(0.02)
            self.heartbeat()
        return super().draw(index, seed, request)


def job(
    rank: int, size: int, n: int, folder: str | None, at: int, pause: float, killed: bool, conn: Any, store: str
) -> None:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
        )
    random = torch.Generator().manual_seed(0)
    mean, std = torch.rand(1, 8, 8, generator=random) - 0.5, torch.rand(1, 8, 8, generator=random)
    denoiser, shape = GaussianDenoiser(CosineSchedule(), mean, std), (1, 8, 8)
    generator = pipeline(denoiser, AncestralSampler(4), shape, Failing, num_classes=10, labels="drawn")
    generator.at, generator.pause, generator.killed = at, pause, killed
    metrics = ["fd", "is", "kid", "precision", "recall", "diversity"]
    evaluator = Evaluator(metrics=metrics, num_samples=n, batch_size=B, kid_subsets=5, kid_subset_size=50)
    try:
        result = evaluator.evaluate(generator, Digits(), None if folder is None else Path(folder))
        conn.send((result.metrics, result.real_baseline, generator.drawn))
    except Exception as error:
        conn.send(f"{type(error).__name__}: {error}")
    if size > 1:
        dist.destroy_process_group()


def run(
    size: int,
    tmp_path: Path,
    n: int = N,
    folder: Path | None = None,
    at: int = -1,
    pause: float = 0.0,
    killed: bool = False,
) -> list:
    """What each of ``size`` ranks returned, in rank order."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["diffusion.evaluation.evaluator", "diffusion.data.digits", "sklearn.datasets"])
    store = tmp_path / f"store{time.monotonic_ns()}"
    pipes, processes = [], []
    for rank in range(size):
        mine, theirs = context.Pipe()
        where = None if folder is None else str(folder)
        processes.append(
            context.Process(target=job, args=(rank, size, n, where, at, pause, killed, theirs, str(store)))
        )
        pipes.append(mine)
        processes[-1].start()
        theirs.close()
    answers = [_answer(pipe) for pipe in pipes]
    for process in processes:
        process.join(20)
        process.kill()
    return answers


def _answer(pipe: Any) -> Any:
    try:
        return pipe.recv() if pipe.poll(60) else "nothing within a minute"
    except EOFError:
        return "killed"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    return run(1, tmp_path_factory.mktemp("alone"))[0]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_gives_the_same_bits(size: int, alone: tuple, tmp_path: Path) -> None:
    answers = run(size, tmp_path)
    for metrics, floor, _ in answers:
        assert (metrics, floor) == alone[:2]
    assert sum(drawn for _, _, drawn in answers) == N


@pytest.mark.slow
def test_a_rank_without_work_changes_nothing(tmp_path: Path) -> None:
    """Two batches for three ranks."""
    (one,), three = run(1, tmp_path, n=20), run(3, tmp_path, n=20)
    assert [answer[0] for answer in three] == [one[0]] * 3
    drawn = sorted(answer[2] for answer in three)
    assert drawn[0] == 0
    assert sum(drawn) == 20


@pytest.mark.slow
def test_a_failure_on_one_rank_ends_all_with_its_message_at_once(tmp_path: Path) -> None:
    """Sample 16 is in batch 1; the rank that does not draw it would have minutes of work."""
    began = time.monotonic()
    answers = run(2, tmp_path, at=16, pause=10.0)
    assert time.monotonic() - began < 30
    said = r"EvaluationError: evaluation stopped on all ranks because rank [01] failed: RuntimeError: the disk is full"
    assert re.fullmatch(said, answers[0])
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_what_a_killed_rank_leaves_is_finished_by_another_number(alone: tuple, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    gone, left = sorted(run(2, tmp_path, folder=folder, at=7 * B, killed=True), reverse=True)
    assert gone == "killed"
    assert re.match(r"EvaluationError: rank [01] lost contact with another rank, which was killed", left)
    kept = drawn_already(folder)
    assert 0 < kept < N
    (answer,) = run(1, tmp_path, folder=folder)
    assert answer == (*alone[:2], N - kept)


def drawn_already(folder: Path) -> int:
    """Samples in finished batches."""
    return sum(len(next(iter(load_file(path).values()))) for path in folder.rglob("*.safetensors"))


@pytest.mark.slow
def test_three_ranks_finish_what_two_began(alone: tuple, tmp_path: Path) -> None:
    """Two ranks fail at batch 7; three find the rest missing, draw that and nothing else."""
    folder = tmp_path / "run"
    assert all("disk is full" in answer for answer in run(2, tmp_path, folder=folder, at=7 * B))
    kept = drawn_already(folder)
    assert kept > 0
    answers = run(3, tmp_path, folder=folder)
    assert [answer[:2] for answer in answers] == [alone[:2]] * 3
    assert sum(answer[2] for answer in answers) == N - kept
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json"]
