"""Runs are found, told apart and put into one table; numbers measured differently never share a column."""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_folders import fingerprint, run_folder

from diffusion.errors import ReportError
from diffusion.reporting import options, text, wandb_files
from diffusion.reporting.paper import paper_table
from diffusion.reporting.paper_items import of_comparison
from diffusion.reporting.paper_text import as_markdown
from diffusion.reporting.protocol import disagreements
from diffusion.reporting.runs import find, read_curves
from diffusion.reporting.settings import Reader
from diffusion.reporting.table import LOSS, NFE, SECONDS, compare, over_seeds

ROOT = Path(__file__).parents[2]
FD = "fd_digits-cnn-v1_897"


def made(tmp_path, values=((0, 50, 1.0), (1, 50, 2.0), (2, 50, 3.0), (0, 5, 10.0))):
    """Runs with (seed, sampling steps, FD)."""
    for i, (seed, steps, fd) in enumerate(values):
        run_folder(tmp_path / f"r{i}", seed=seed, scores={"e": ({FD: fd}, fingerprint(steps=steps, seed=seed))})
    return compare(*find([tmp_path]))


def test_columns_are_what_differs_and_references_are_not(tmp_path):
    table = made(tmp_path)
    assert table.settings == ["sampler.steps", "seed"]  # and not data.seed, which follows seed
    assert table.metrics == [FD, NFE, SECONDS, LOSS]
    assert [row.values[NFE].mean for row in table.rows] == [50, 50, 50, 5]
    assert table.rows[3].values[SECONDS].mean == pytest.approx(5.0)
    assert table.baselines == {FD: 1.5}


def test_groups_over_seeds(tmp_path):
    groups = over_seeds(made(tmp_path))
    assert groups.settings == ["sampler.steps"]
    assert [(row.n, row.values[FD].mean, row.values[FD].std) for row in groups.rows] == [(1, 10.0, None), (3, 2.0, 1.0)]
    assert "| **2.0** ± 1.0 |" in as_markdown(paper_table(of_comparison(groups, grouped=True)))


def test_numbers_are_sorted_by_their_size(tmp_path):
    table = made(tmp_path, [(seed, steps, 1.0) for steps in (100, 20, 5) for seed in (0, 1)])
    assert [row.settings["sampler.steps"] for row in over_seeds(table).rows] == [5, 20, 100]


def test_the_spread_of_repeats_and_of_splits_is_the_uncertainty(tmp_path):
    metrics = {
        FD: 4.0,
        f"{FD}_std": 0.5,
        f"{FD}_min": 3.5,
        "is_digits-cnn-v1_897": 7.0,
        "is_std_digits-cnn-v1_897": 0.25,
    }
    run_folder(tmp_path / "r", scores={"e": (metrics, fingerprint())})
    row = compare(*find([tmp_path])).rows[0]
    assert {name: value.std for name, value in row.values.items() if value.std} == {
        FD: 0.5,
        "is_digits-cnn-v1_897": 0.25,
    }


def test_two_protocols_never_share_a_column_and_the_difference_is_named(tmp_path):
    run_folder(tmp_path / "a", scores={"e": ({FD: 1.0}, fingerprint())})
    run_folder(tmp_path / "b", seed=1, scores={"e": ({FD: 2.0}, fingerprint(split="test"))})
    table = compare(*find([tmp_path]))
    assert table.metrics[:2] == [f"{FD} [A]", f"{FD} [B]"]
    assert [set(row.values) & set(table.metrics[:2]) for row in table.rows] == [{f"{FD} [A]"}, {f"{FD} [B]"}]
    (note,) = table.notes
    assert 'reference.split: "train" against "test"' in note
    assert "hash" not in note
    assert over_seeds(table) is None, "numbers of two protocols are not averaged"


def test_what_draws_the_samples_and_what_that_was_built_on_is_no_protocol(tmp_path):
    """A student and its teacher, a pipeline and one run, pixels and latents of images of one size: one column."""
    taught = {"parts": {"objective.teacher": {"run": "t", "sha256": "a"}}, "parameterization": [{"class": "V"}]}
    several = {"pipeline": {"class": "Unclip", "candidates": 2}, "stages": {"prior": {}, "decoder": {"steps": 3}},
               "columns": {"dropped.image": "1"}}  # fmt: skip
    latents = {"shape": [4, 2, 4], "autoencoder": {"class": "KL", "image_channels": 1, "factor": 2}}
    for i, more in enumerate(({}, taught, several, latents)):
        record = fingerprint()
        record["samples"] |= {"shape": [1, 4, 8], **more}
        run_folder(tmp_path / f"r{i}", seed=i, scores={"e": ({FD: 1.0 + i}, record)})
    table = compare(*find([tmp_path]))
    assert table.metrics[0] == FD
    assert [row.values[FD].mean for row in table.rows] == [1.0, 2.0, 3.0, 4.0]


def test_no_more_than_some_differences_are_named():
    one, other = ({f"k{i}": f"{i}{side}" for i in range(9)} for side in "ab")
    assert disagreements([one, other])[-2:] == ["k5: 5a against 5b", "and 3 more"]


def test_a_likelihoods_settings_part_its_own_column_and_no_other(tmp_path):
    bits = "bits_per_dim_variational_50"
    for name, variance in (("a", "small"), ("b", "large"), ("c", None)):
        scores, said = {FD: 1.0}, fingerprint()
        if variance is not None:
            scores[bits], said["likelihood"] = 3.0, {"class": "Variational", "variance": variance}
        run_folder(tmp_path / name, scores={"e": (scores, said)})
    table = compare(*find([tmp_path]))
    assert {FD, f"{bits} [A]", f"{bits} [B]"} <= set(table.metrics)
    assert 'likelihood.variance: "small" against "large"' in table.notes[0]


def test_versions_share_a_column_with_a_footnote(tmp_path):
    run_folder(tmp_path / "a", scores={"e": ({FD: 1.0}, fingerprint())})
    run_folder(tmp_path / "b", scores={"e": ({FD: 2.0}, fingerprint(torch="2.9.0"))})
    table = compare(*find([tmp_path]))
    assert FD in table.metrics
    assert 'versions.torch: "2.14.1" against "2.9.0"' in table.notes[0]


def test_a_number_without_a_fingerprint_stands_alone(tmp_path):
    run_folder(tmp_path / "a", scores={"e": ({FD: 1.0}, fingerprint())})
    run_folder(tmp_path / "b", scores={"e": ({FD: 1.0}, {})})
    table = compare(*find([tmp_path]))
    assert table.metrics[:2] == [f"{FD} [A]", f"{FD} [B]"]
    assert "without a record" in table.notes[0]


def test_losses_of_two_objectives_are_no_column(tmp_path):
    for name, target in (("a", "epsilon.Epsilon"), ("b", "x0.X0")):
        run = run_folder(tmp_path / name)
        node = f"parameterization:\n  _target_: diffusion.parameterization.{target}\n"
        (run / "config.yaml").write_text((run / "config.yaml").read_text() + node)
    table = compare(*find([tmp_path]))
    assert table.settings == ["parameterization"]
    assert LOSS not in table.metrics


def test_csv_keeps_every_digit(tmp_path):
    table = made(tmp_path, [(0, 50, 1 / 3), (1, 50, 2 / 3)])
    rows = list(csv.DictReader(text.as_csv(over_seeds(table)).splitlines()))
    assert float(rows[0][FD]) == 0.5
    assert float(rows[0][f"{FD} std"]) == pytest.approx(2**0.5 / 6, rel=1e-15)
    assert rows[0][f"{FD} n"] == "2"


def test_the_terminal_gets_what_fits(tmp_path):
    table = made(tmp_path)
    shown = text.for_terminal(table, "t", width=60, most=2)
    assert shown.row_count == 3  # two rows and the real images'
    assert str(shown.columns[0].header) == "run", "what tells the rows apart, before what they share"
    assert "2 more rows" in str(shown.caption)
    assert "columns" in str(shown.caption)


def test_blocks_parsed_once_give_what_yaml_gives(tmp_path):
    import yaml

    body = "a:\n  b: [1, 2]\n# a comment\ntags:\n- x\n- y\n'quoted': 3\nlong: |\n  one\n  two\nempty: {}\n"
    (tmp_path / "c.yaml").write_text(body)
    assert Reader().load(tmp_path / "c.yaml") == yaml.safe_load(body)


# Bad input ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path):
    run_folder(tmp_path / "good", scores={"e": ({FD: 1.0}, fingerprint())})
    cut = run_folder(tmp_path / "cut", scores={"e": ({FD: 1.0}, fingerprint())})
    (cut / "config.yaml").write_text("name: cut\nsampler: {_target_: a.b, st")
    half = run_folder(tmp_path / "half", seed=1, scores={"e": ({FD: 1.0}, fingerprint())})
    path = half / "evaluation" / "e" / "metrics.json"
    path.write_text(path.read_text()[:200])
    (half / "status.json").write_text('{"sta')
    old = run_folder(tmp_path / "old", seed=2)
    (old / "evaluation" / "e").mkdir(parents=True)
    (old / "evaluation" / "e" / "metrics.json").write_text('{"fid": 3.17}')
    runs, notes = find([tmp_path])
    assert [run.name for run in runs] == ["good", "half", "old"]
    said = "\n".join(notes)
    assert len(notes) == 4
    assert "cut is left out: its config.yaml is damaged" in said
    assert "half has no readable status.json" in said
    assert "half-written" in said
    assert "not laid out as this version does" in said


def test_a_half_written_line_of_metrics_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,val/loss\n50,0.5,\n100,0.25,1.5\n150,0.1e")
    assert read_curves(path) == {"train/loss": [(50, 0.5), (100, 0.25)], "val/loss": [(100, 1.5)]}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no folder given"),
        (["nowhere"], "nowhere is not a folder"),
        (["."], "no runs in ."),
        ([".", "titel=x"], "did you mean 'title'?"),
        ([".", "rows=many"], "rows is a whole number of at least 1, got 'many'"),
        ([".", "columns=[a"], "columns=[a cannot be read; close its brackets"),
        ([".", "plot=3"], "plot is a list such as [a,b], got '3'"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "compare.py", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_name_looks_like_a_setting_is_a_folder(tmp_path):
    (tmp_path / "lr=1").mkdir()
    folders, settings = options.read([str(tmp_path / "lr=1"), "rows=3"], ROOT / "conf" / "compare.yaml")
    assert folders == [tmp_path / "lr=1"]
    assert settings["rows"] == 3
    with pytest.raises(ReportError, match="no folder"):
        options.read([], ROOT / "conf" / "compare.yaml")


# The command -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_runs_in_ten_seconds_without_torch(tmp_path):
    for i in range(1000):
        metrics = {FD: 1 + i / 100, "is_digits-cnn-v1_897": 7.0, "kid_digits-cnn-v1_897": 0.5}
        record = fingerprint(steps=5 * (1 + i % 10), seed=i // 100)
        run_folder(
            tmp_path / f"{i:04d}", seed=i // 100, lr=1e-4 * (1 + i % 100), scores={"e": (metrics, record)}, rows=30
        )
    code = (
        f"import sys, runpy; sys.argv = ['compare.py', {str(tmp_path)!r}]\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'compare.py')!r}, run_name='__main__')\n"
        "assert not {'torch', 'hydra', 'pytorch_lightning', 'wandb'} & set(sys.modules), 'too much was loaded'"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert seconds < 10
    rows = list(csv.DictReader((tmp_path / "compare" / "table.csv").open()))
    assert len(rows) == 100
    assert {row["n"] for row in rows} == {"10"}
    assert (tmp_path / "compare" / "index.html").stat().st_size < 8e6


def test_comparing_again_does_not_compare_the_comparison(tmp_path):
    run_folder(tmp_path / "r", scores={"e": ({FD: 1.0}, fingerprint())})
    texts = []
    for _ in range(2):
        subprocess.run([sys.executable, ROOT / "scripts" / "compare.py", tmp_path], check=True, capture_output=True)
        texts.append((tmp_path / "compare" / "index.html").read_text())
    assert texts[0] == texts[1]


# W&B ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_folder(tmp_path, monkeypatch):
    """Two offline segments of one run, written by W&B itself: steps 0..40, then resumed from 30 to 60."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for segment, steps in enumerate((range(0, 50, 10), range(30, 70, 10))):
        run = wandb.init(
            mode="offline",
            dir=str(tmp_path), project="p", id="abc123", name="readable", resume="allow",
            config={"optimizer": {"lr": 0.5}, "sampler": {"_target_": "a.DDIM", "steps": 5}, "seed": 3},
        )  # fmt: skip
        for step in steps:
            run.log({"train/loss": 100 * segment + step, "trainer/global_step": step})
        if segment:
            run.log({f"evaluation/{FD}": 2.5, "trainer/global_step": 60})
        run.finish()
        time.sleep(1.1)  # W&B names folders by the second
    return tmp_path / "wandb"


def test_offline_folders_of_wandb_are_one_run_by_global_step(wandb_folder):
    runs, notes = find([wandb_folder])
    assert notes == []
    (run,) = runs
    assert run.name == "readable (abc123)"
    assert run.curves["train/loss"] == [(0, 0), (10, 10), (20, 20), (30, 130), (40, 140), (50, 150), (60, 160)]
    assert run.settings["optimizer.lr"] == 0.5
    assert run.settings["sampler"] == "DDIM"
    assert run.evaluations[0].metrics == {FD: 2.5}
    assert run.status["status"] == "finished"


def test_a_copy_that_followed_links_counts_once(wandb_folder, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(wandb_folder, copied)  # latest-run becomes a folder of its own
    assert (copied / "latest-run").is_dir()
    assert not (copied / "latest-run").is_symlink()
    files = list(copied.rglob("*.wandb"))
    assert len(files) == 3
    assert len(wandb_files.distinct(files)) == 2
    (run,) = find([copied])[0]
    assert len(run.curves["train/loss"]) == 7


def test_a_file_cut_short_is_read_up_to_the_cut(wandb_folder):
    path = next(wandb_folder.glob("offline-run-*/*.wandb"))
    whole = wandb_files.read(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    part = wandb_files.read(path)
    assert part.id == "abc123"
    assert part.rows == whole.rows[: len(part.rows)]
    path.write_bytes(b"not one")
    with pytest.raises(ValueError, match="no W&B file"):
        wandb_files.read(path)


def test_a_folder_of_scored_images_is_a_row(tmp_path):
    place = tmp_path / "images" / "theirs" / "how"
    place.mkdir(parents=True)
    (place / "metrics.json").write_text(json.dumps({"metrics": {FD: 9.0}, "floor": {}, "fingerprint": fingerprint()}))
    table = compare(*find([tmp_path]))
    assert [row.values[FD].mean for row in table.rows] == [9.0]


def test_the_grids_of_samples_are_found_with_their_seed(tmp_path):
    """Where scripts/sample.py puts them, apart from the samples."""
    from diffusion.reporting.page import _grids

    run_folder(tmp_path / "r0")
    place = tmp_path / "r0" / "samples" / "ddim-2_abc"
    (place / "grid").mkdir(parents=True)
    (place / "grid" / "grid.png").write_bytes(b"png")
    (place / "settings.json").write_text('{"seed": 7}')
    runs, _ = find([tmp_path])
    ((grid,), _) = _grids(runs, ["r0"])
    assert (grid["noise"], grid["label"]) == ("scripts/sample.py, seed 7", "r0: ddim-2_abc")
