"""What the authors' code of posterior samplers is given: the levels of ours as a table, and A as a matrix."""

from pathlib import Path

import torch

from benchmarks.authors_code import Peer
from benchmarks.restoration_peers import TASKS, Problem
from diffusion.condition import Cond
from diffusion.denoiser import GaussianDenoiser
from diffusion.operator import BlurOperator
from diffusion.schedule.cosine import CosineSchedule


def peer(task: str) -> Peer:
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    problem = Problem(TASKS[task], TASKS[task](x), x, 7)
    return Peer(GaussianDenoiser(CosineSchedule(), 0.2, 0.5), problem, {2: Cond()}, Path("nowhere"))


def test_the_table_visits_the_samplers_levels() -> None:
    given = peer("box")
    torch.testing.assert_close((1 - given.betas).cumprod(0), given.cumprod)
    assert [level.t for level in given.levels] == sorted(level.t for level in given.levels)
    assert given.levels[-1].t == 1
    assert len(given.levels) == 7
    x, index = given.problem.noise.double(), torch.tensor([3, 3])
    alpha = given.cumprod[3].sqrt()
    clean = (x - (1 - given.cumprod[3]).sqrt() * given.network(x, index)) / alpha
    torch.testing.assert_close(clean, given.x0(x, given.levels[3]))


def test_the_matrix_is_the_operator() -> None:
    for task in TASKS:
        given = peer(task)
        rows = given.problem.noise.flatten(1).double() @ given.matrix().T
        torch.testing.assert_close(rows, given.problem.y.flatten(1)[:, given.kept].double(), rtol=0, atol=1e-5)
        if isinstance(given.problem.operator, BlurOperator):
            continue
        again = given.problem.operator(given.pseudo_inverse(given.problem.y, (2, 1, 28, 28)))
        torch.testing.assert_close(again, given.problem.y, rtol=0, atol=1e-5)
