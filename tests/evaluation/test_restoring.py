"""evaluation=restoration: data of a Gaussian with its exact denoiser, whose posterior is known; keys; refusals."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from gaussian_students import denoiser, posterior
from model_folders import run_folder
from rank_jobs import on_ranks
from scripts_in_process import script
from torch import Tensor

from diffusion.data.split import Split
from diffusion.evaluation.reference import Data
from diffusion.evaluation.restoring import RestorationEvaluator
from diffusion.guidance import DPSGuidance, PiGDMGuidance
from diffusion.model import DiffusionModel
from diffusion.operator import DownsampleOperator, MaskOperator
from diffusion.sampler import DDIMSampler
from diffusion.schedule.linear import LinearSchedule

TAU, NOISE, SIDE, STEPS = 0.25, 0.2, 8, 150
BOX = [0, 0, 4, 8]
"""Half of the pixels are hidden."""


class Normal(Data):
    """Images whose pixels are independent, of N(0, TAU^2)."""

    def __init__(self, n: int) -> None:
        values = TAU * torch.randn(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
        self.test = Split((values * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8), torch.zeros(n).long())

    def split(self, name: str) -> Split:
        return self.test

    def describe(self) -> dict:
        return {"name": "normal"}


def model() -> DiffusionModel:
    schedule = LinearSchedule()
    return DiffusionModel(denoiser(schedule, posterior(schedule, TAU), 0.0), shape=(1, SIDE, SIDE))


def evaluator(**changed: object) -> RestorationEvaluator:
    exact = partial(
        PiGDMGuidance, operator=MaskOperator(box=BOX), measurement="held-out images", sigma_data=TAU, noise=9.0
    )
    settings = {"noise": NOISE, "draws": 2, "batch_size": 16, "shown": 3, **changed}
    return RestorationEvaluator(posterior={"pigdm": exact}, sampler=DDIMSampler(STEPS), **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_scores_of_an_exact_posterior_are_those_of_its_variances(tmp_path: Path) -> None:
    """Of n draws the mean is off by (1 + 1 / n) V, V = TAU^2 where hidden and TAU^2 s^2 / (TAU^2 + s^2) where seen."""
    found = evaluator().evaluate(model(), Normal(96), tmp_path)
    seen = TAU**2 * NOISE**2 / (TAU**2 + NOISE**2)
    due = 1.5 * (seen + TAU**2) / 2 / (1 + TAU**2)  # in [0, 1] a pixel's mean square is (1 + TAU^2) / 4
    assert found.metrics["nmse_96"] == pytest.approx(due, rel=0.05)
    assert found.metrics["coverage_0.333_96"] == pytest.approx(1 / 3, abs=0.03)
    one = -10 * torch.log10(torch.tensor((seen + TAU**2) / 4))  # twice V on average, and the range of [-1, 1] is 2
    assert found.metrics["draw_psnr_96"] == pytest.approx(float(one), abs=0.3)
    assert {found.better[name] for name in ("psnr_96", "draw_psnr_96")} == {"higher"}
    record = json.loads((tmp_path / "metrics.json").read_text())["fingerprint"]
    assert record["cost"]["nfe_per_sample"] == 2 * STEPS
    told = record["samples"]["guidance"][-1]
    assert (told["class"], told["noise"], told["sigma_data"]) == ("PiGDMGuidance", NOISE, TAU)
    assert (tmp_path / "restored.png").is_file()


def drawn(**changed: object) -> Tensor:
    one = evaluator(**changed)
    batch = Normal(32).test.batch(torch.arange(20))
    return one.drawn(one.pipeline(model()), batch)


@pytest.mark.slow
def test_more_draws_and_other_numbers_of_images_change_none() -> None:
    two, three = drawn(), drawn(draws=3)
    assert torch.equal(two, three[:2])
    assert not torch.equal(two[0], two[1])
    assert not torch.equal(two, drawn(seed=7))
    one = evaluator()
    few = Normal(32).test.batch(torch.arange(5))
    assert torch.equal(one.drawn(one.pipeline(model()), few), two[:, :5])
    noise = one.measured(few["image"], few["index"]) - MaskOperator(box=BOX)(few["image"])
    assert float(noise.std()) == pytest.approx(NOISE, rel=0.2)


def ranked(rank: int, size: int, folder: str, store: str, conn: object) -> None:
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    found = evaluator().evaluate(model(), Normal(40))
    if rank == 0:
        conn.send(found.metrics)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_one_two_and_three_ranks_restore_the_same_bits(tmp_path: Path) -> None:
    one, two, three = on_ranks(ranked, tmp_path)
    assert one == two == three


def test_guidance_that_knows_no_noise_is_told_none() -> None:
    plain = partial(DPSGuidance, operator=DownsampleOperator(2), measurement="held-out images", scale=0.1)
    one = RestorationEvaluator({"dps": plain}, DDIMSampler(4), noise=0.1, batch_size=4, shown=0)
    assert set(one.evaluate(model(), Normal(4)).metrics) == {"psnr_4", "nmse_4"}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"noise": -1.0}, "evaluation.noise is 0 or above"),
        ({"draws": 0}, "evaluation.draws is at least 1"),
        ({"shown": -1}, ".shown at least 0"),
        ({"posterior": {}}, "set guidance@evaluation.posterior"),
    ],
)
def test_bad_settings_are_refused(changed: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RestorationEvaluator(**{"posterior": {"dps": partial(DPSGuidance)}, "sampler": DDIMSampler(4), **changed})


@pytest.mark.slow
def test_of_a_run_it_is_scored_and_what_it_cannot_score_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path, "small", "conditioner=label")
    (run / ".hydra").mkdir()
    shutil.copy(run / "config.yaml", run / ".hydra" / "config.yaml")
    words = ["evaluate", f"run={run}", "evaluation=restoration", "sampler=ddim", "sampler.steps=2", "guidance=clip"]
    words += ["evaluation.num_samples=4", "evaluation.batch_size=2", "evaluation.draws=2"]
    assert script(words, monkeypatch) == 0
    (folder,) = (run / "evaluation").glob("*restoration-*")
    assert {"psnr_4", "crps_4"} <= set(json.loads((folder / "metrics.json").read_text())["metrics"])
    capsys.readouterr()
    for more, sentence in (
        (["labels=3"], "set evaluation.conditioned=true"),
        (["plan=true"], "is not foretold"),
        (["guidance@evaluation.posterior=[pigdm,mmps]"], "by one guidance"),
        (["guidance=classifier_free"], "evaluation.conditioned=true"),
    ):
        assert script([*words, *more], monkeypatch) != 0
        assert sentence in capsys.readouterr().err
