"""Configs and parts of somebody's own, outside this repository: found, explained, recorded, and used everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from script_results import attempt

from diffusion.experiment.config.folder import PROVIDER, SEARCHED

ROOT = Path(__file__).parents[2]
PART = '''
from diffusion.sampler.base import Sampler
from diffusion.types import combine


class HeldSampler(Sampler):
    """DDIM without noise."""

    order = 1

    def step(self, denoise, x, cur, nxt, state, randn_like):
        p = denoise(x, cur.t)
        return combine(nxt.alpha, p.x0, nxt.sigma, p.eps), None
'''
SMALL = [
    "trainer=cpu", "trainer.max_steps=2", "network.channels=8", "data.batch_size=16", "evaluation=none", "logger=csv",
    "callbacks=[checkpoint]", "name=r",
]  # fmt: skip


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the package ``own_part`` and the folder of configs ``mine`` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SEARCHED, "[]")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_part").mkdir()
    (tmp_path / "own_part" / "held.py").write_text(PART)
    (tmp_path / "mine" / "sampler").mkdir(parents=True)
    write("held", "own_part.held.HeldSampler")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_part")]:
        del sys.modules[name]


def write(name: str, target: str) -> None:
    Path(f"mine/sampler/{name}.yaml").write_text(f"# Own.\n_target_: {target}\nsteps: 2\nspacing: ${{spacing}}\n")


def run_of(name: str) -> Path:
    (folder,) = (path.parent for path in Path("outputs", name).glob("*/status.json"))
    return folder


@pytest.mark.parametrize(
    "how",
    [
        ["hydra.searchpath=[mine]"],
        pytest.param(["--config-dir=mine"], marks=pytest.mark.slow),
        pytest.param(["-cd", "mine"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_run_with_own_parts_is_recorded_sampled_and_continued_without_naming_the_folder(
    how: list, mine: Path
) -> None:
    code, text = attempt("train", *how, "sampler=held", *SMALL)
    assert code == 0, text
    run = run_of("r")
    sources = yaml.safe_load((run / ".hydra" / "hydra.yaml").read_text())["hydra"]["runtime"]["config_sources"]
    assert {"path": str(mine / "mine"), "schema": "file", "provider": PROVIDER} in sources
    code, text = attempt("sample", f"run={run}", "num_samples=2", "sampler=held", "sampler.steps=3")
    assert code == 0, text
    code, text = attempt("train", f"resume={run}", "trainer.max_steps=3")
    assert code == 0, text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--config-dir=mine", "sampler=hled"], "sampler has no option 'hled'; options, nearest first: held, heun"),
        (["--config-dir=mine", "sampler=held", "sampler.stesp=3"], "did you mean 'sampler.steps'?"),
        (["--config-dir=none"], "none does not exist; a folder of configs was expected"),
        (["hydra.searchpath=[own_part]"], "own_part holds no .yaml file; a folder of configs was expected"),
        (["hydra.searchpath=[pkg://missing_package.conf]"], "package 'missing_package', which is not installed"),
        (["hydra.searchpath=mine"], "hydra.searchpath is a list of folders, got mine"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_sentence(words: list[str], sentence: str, mine: Path) -> None:
    code, text = attempt("train", *words)
    assert code == 2
    assert sentence in text
    assert len(text.splitlines()) == 1


def test_an_own_key_is_meant_where_the_option_in_use_has_none_like_it(mine: Path) -> None:
    Path("mine/sampler/held.yaml").write_text(
        "# Own.\n_target_: own_part.held.HeldSampler\nsteps: 2\nspacing: ${spacing}\nsharpness: 1\n"
    )
    code, text = attempt("train", "--config-dir=mine", "sampler=ddim", "sampler.sharpnes=1")
    assert code == 2
    assert "'sampler.sharpness' of sampler=held" in text


def test_two_files_of_one_name_are_refused_and_both_named(mine: Path) -> None:
    write("ddim", "own_part.held.HeldSampler")
    code, text = attempt("train", "--config-dir=mine")
    assert code == 2
    assert f"{mine / 'mine' / 'sampler' / 'ddim.yaml'} and {ROOT / 'conf' / 'sampler' / 'ddim.yaml'} are two" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import nothing_of_this_name", "own_part.broken needs 'nothing_of_this_name', which is not installed"),
        ("x = = 1", "importing own_part.broken fails with SyntaxError: invalid syntax"),
        ("raise RuntimeError('no licence')", "importing own_part.broken fails with RuntimeError: no licence"),
        ("x = 1", "module 'own_part.broken' has no 'Sampler'"),
    ],
)
def test_a_package_that_does_not_import_says_why_in_its_own_words(content: str, words: str, mine: Path) -> None:
    (mine / "own_part" / "broken.py").write_text(content)
    write("broken", "own_part.broken.Sampler")
    code, text = attempt("train", "--config-dir=mine", "sampler=broken")
    assert code == 2
    assert words in text
    assert len(text.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_own_parts_in_a_sweep_on_ranks_in_a_table_and_in_needs(launcher: str, mine: Path) -> None:
    code, text = attempt("train", "-m", "--config-dir=mine", "sampler=held,ddim", f"hydra/launcher={launcher}", *SMALL)
    assert code == 0, text
    assert [s.parent.name for s in Path("outputs/r").glob("*/status.json")]
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "name=ranks"]
    code, text = attempt("train", "--config-dir=mine", "sampler=held", *SMALL, *ranks)
    assert code == 0, text
    Path("mine/ablation").mkdir()
    train = json.dumps(SMALL[1:4])
    Path("mine/ablation/own.yaml").write_text(
        "# Own.\ntitle: Own\nsource: own\ndata: digits\nprotocol: FD\nmetrics: [fd_digits-cnn-v1_64]\n"
        f"train: {train}\nevaluate: [evaluation=digits, 'evaluation.metrics=[fd]', evaluation.num_samples=64]\n"
        "cells:\n  held: {evaluate: [sampler=held]}\n"
    )
    code, text = attempt("reproduce", "hydra.searchpath=[mine]", "ablation=own")
    assert code == 0, text
    assert "held" in Path("outputs/reproduce/tables/own.csv").read_text()
    needs = ["needs.weak=[sampler=held,trainer.max_steps=1]", "initial.run=${needed:weak}", "name=needing"]
    code, text = attempt("train", "--config-dir=mine", *SMALL, *needs)
    assert code == 0, text


def test_a_hydra_plugin_of_ones_own_adds_its_folder(mine: Path) -> None:
    """Hydra finds it in the namespace package ``hydra_plugins`` of whatever is on the path."""
    (mine / "hydra_plugins").mkdir()
    (mine / "hydra_plugins" / "own.py").write_text(
        "from hydra.plugins.search_path_plugin import SearchPathPlugin\n\n\n"
        "class Own(SearchPathPlugin):\n    def manipulate_search_path(self, search_path):\n"
        f"        search_path.append('own plugin', 'file://{mine / 'mine'}')\n"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "train.py", "sampler=held", "--cfg", "job"],
        env={"PYTHONPATH": f"{mine}:{ROOT}", "PATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert "_target_: own_part.held.HeldSampler" in done.stdout, done.stderr


@pytest.mark.slow
def test_what_an_experiment_sets_of_an_evaluation_that_is_none_is_left_alone(mine: Path) -> None:
    """As ablations do, which train without a score: ``experiment=cifar10_ddpm evaluation=none``."""
    Path("mine/experiment").mkdir()
    Path("mine/experiment/scored.yaml").write_text("# @package _global_\n# Own.\nevaluation:\n  num_samples: 8\n")
    code, text = attempt("train", "--config-dir=mine", "experiment=scored", *SMALL)
    assert code == 0, text
    code, text = attempt("evaluate", f"run={run_of('r')}")
    assert code == 2
    assert "the run has no evaluation of its own; add evaluation=<name>" in text
