"""A paper's table: chosen columns, what is left out, and LaTeX that compiles."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from run_folders import fingerprint, run_folder

from diffusion.errors import ReportError
from diffusion.reporting import options
from diffusion.reporting.ablation import Ablation, Measured
from diffusion.reporting.paper import Item, Items, choose, paper_table
from diffusion.reporting.paper_files import check
from diffusion.reporting.paper_items import of_ablation, of_comparison
from diffusion.reporting.paper_text import as_csv, as_latex, as_markdown, escaped
from diffusion.reporting.runs import find
from diffusion.reporting.table import Value, compare, over_seeds

ROOT = Path(__file__).parents[2]
FD = "fd_digits-cnn-v1_897"
NODE = {
    "title": "T", "source": "S", "data": "D", "protocol": "P", "metrics": ["fid_50k", "is_50k"], "seeds": [0, 1],
    "train": ["experiment=digits_ddpm"],
    "cells": {
        "b_5": {"evaluate": ["sampler=ddim", "sampler.steps=5"], "published": {"fid_50k": 3.17}},
        "a_10": {"evaluate": ["sampler=heun", "sampler.steps=10"], "published": {"fid_50k": 2.9}},
        "c": {"evaluate": ["sampler=heun"]},
    },
}  # fmt: skip


def ablation(**changes):
    table = Ablation.read("t", NODE)
    one, two, three = table.cells
    measured = [
        Measured(one, {"fid_50k": [3.0, 3.4], "is_50k": [9.0, 9.2]}, 5.0, [0, 1], {"fid_50k": 1.25}),
        Measured(two, {"fid_50k": [2.0, 2.1], "is_50k": [8.0, 8.5]}, 19.0, [0, 1]),
        Measured(three, {}),
    ]
    return table, [changes.get(m.cell.name, m) for m in measured]


# An ablation ---------------------------------------------------------------------------------------------------------


def test_cells_are_in_the_tables_order_with_published_values_beside():
    made = paper_table(of_ablation(*ablation()), ["NFE", "fid_50k:FID", "sampler"])
    assert made.names == ["b_5", "a_10", "c"]
    lines = as_markdown(made).splitlines()
    assert lines[0] == "| cell | NFE ↓ | FID ↓ | FID (published) | sampler |"
    assert lines[2:6] == [
        "| b_5 | **5** | <u>3.20</u> ± 0.28 | 3.17 | ddim |",
        "| a_10 | <u>19</u> | **2.05** ± 0.07 | 2.9 | heun |",
        "| c | - | - | - | heun |",
        "| real images |  | 1.25 |  |  |",
    ]
    assert "* No fid_50k: c (not run)." in lines


def test_what_is_not_there_is_said():
    table, measured = ablation()
    fewer = Measured(table.cells[1], {"fid_50k": [2.0]}, 19.0, [0])
    notes = paper_table(of_ablation(table, [measured[0], fewer]), []).notes
    assert "Cells of the table that were not chosen: c." in notes
    assert "Fewer seeds than the others: a_10 (1 of 2)." in notes
    assert "No is_50k: a_10." in notes
    assert any(note.startswith("± is the standard deviation") for note in notes)
    unknown = Items(
        "cell", [Item("x", {}, {"own": Value(1.0)}), Item("y", {}, {"own": Value(2.0)})], ["own"], ["own"], []
    )
    made = paper_table(unknown)
    assert made.notes == ["Nothing is marked in own: which way is better is not known."]
    assert "**" not in as_markdown(made)


def test_cells_of_two_protocols_are_refused_in_one_sentence():
    table, (one, two, three) = ablation()
    one = Measured(one.cell, one.values, 5.0, [0, 1], fingerprints=[fingerprint(), fingerprint(seed=1)])
    assert of_ablation(table, [one, three]).items, "seeds are no protocols"
    two = Measured(two.cell, two.values, 19.0, [0], fingerprints=[fingerprint(split="test")])
    with pytest.raises(ReportError, match=r"fid_50k of cell 'b_5' and of cell 'a_10' .*reference.split: \"train\""):
        of_ablation(table, [one, two, three])


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "ablation").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_plot_and_the_metrics_of_every_ablation_are_known_before_it_runs(path):
    table = Ablation.read(path.stem, yaml.safe_load(path.read_text()))
    items = of_ablation(table, [Measured(cell, {}) for cell in table.cells])
    check(items, table.metrics, table.plot)
    undirected = {metric for metric in table.metrics if not items.better.get(metric)}
    known = ("coverage_", "diversity_")  # best at its own level; of noise, the greatest
    assert all(metric.startswith(known) for metric in undirected)


# Compared runs -------------------------------------------------------------------------------------------------------


def compared(tmp_path):
    for i, (seed, lr, fd) in enumerate([(0, 0.1, 1.0), (1, 0.1, 3.0), (0, 0.2, 9.0), (1, 0.2, 9.5)]):
        run_folder(tmp_path / f"r{i}", seed=seed, lr=lr, scores={"e": ({FD: fd}, fingerprint(seed=seed))})
    run_folder(tmp_path / "broken", lr=0.3, status="failed", rows=0)
    return compare(*find([tmp_path]))


def test_settings_that_tell_the_rows_apart_take_the_place_of_names(tmp_path):
    table = compared(tmp_path)
    grouped = of_comparison(over_seeds(table), grouped=True)
    made = paper_table(grouped, ["optimizer.lr:rate", FD])
    assert made.names is None
    assert as_markdown(made).splitlines()[2:5] == [
        "| 0.1 | **2.0** ± 1.4 |", "| 0.2 | <u>9.25</u> ± 0.35 |", "| real images | 1.50 |"]  # fmt: skip
    assert "Left out, without any of these numbers: broken (failed)." in made.notes
    runs = of_comparison(table, grouped=False)
    assert paper_table(runs, ["optimizer.lr", FD]).names == ["r0", "r1", "r2", "r3"], "two runs have each rate"
    assert paper_table(runs, ["optimizer.lr", "seed", FD]).names is None


def test_csv_has_every_digit(tmp_path):
    table = over_seeds(compared(tmp_path))
    made = paper_table(of_comparison(table, grouped=True), ["optimizer.lr:rate", f"{FD}:FD"])
    rows = list(csv.DictReader(as_csv(made).splitlines()))
    assert [row["FD"] for row in rows] == ["2.0", "9.25"]
    assert [float(row["FD std"]) for row in rows] == pytest.approx([2**0.5, 0.125**0.5], rel=1e-15)
    assert {row["FD n"] for row in rows} == {"2"}


def test_two_protocols_are_two_columns_or_refused(tmp_path):
    run_folder(tmp_path / "a", scores={"e": ({FD: 1.0}, fingerprint())})
    run_folder(tmp_path / "b", seed=1, scores={"e": ({FD: 2.0}, fingerprint(split="test"))})
    items = of_comparison(compare(*find([tmp_path])), grouped=False)
    both = paper_table(items, [f"{FD} [A]", f"{FD} [B]"])
    assert [[value and value.mean for value in column.values] for column in both.columns] == [[1.0, None], [None, 2.0]]
    assert f"No {FD} [A] by this protocol: b." in both.notes
    with pytest.raises(ReportError, match=r"several protocols.*\[A\].*reference.split: \"train\" against \"test\""):
        paper_table(items, [FD])


# Columns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "[sampler:solver,fid_50k:FID,NFE]",
        "[sampler: solver, fid_50k: FID, NFE]",
        "['sampler:solver',\"fid_50k: FID\",NFE]",
        "[{sampler: solver},{fid_50k: FID},NFE]",
    ],
)
def test_the_form_of_columns_is_one_for_hydra_and_for_compare(words, tmp_path):
    hydra = OverridesParser.create().parse_override(f"columns={words}").value()
    hydra = [getattr(value, "text", value) for value in hydra]
    ours = options.read([str(tmp_path), f"columns={words}"], ROOT / "conf" / "compare.yaml")[1]["columns"]
    items = of_ablation(*ablation())
    expected = [("sampler", "solver"), ("fid_50k", "FID"), ("NFE", "NFE")]
    assert choose(hydra, items, "columns") == choose(ours, items, "columns") == expected


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (["fid_5k"], "columns: there is no 'fid_5k' here; did you mean 'fid_50k'?"),
        (["sampler.step"], "did you mean 'sampler.steps'?"),
        (["zzz"], "there is no 'zzz' here; there is fid_50k, is_50k, NFE"),
        (["fid_50k", "fid_50k:FID"], "columns has 'fid_50k' twice"),
        (["fid_50k:FID", "is_50k:FID"], "two columns have the title 'FID'"),
        ([3], "columns is a list of names or name:title, such as"),
    ],
)
def test_a_wrong_column_is_one_sentence(columns, sentence):
    with pytest.raises(ReportError) as caught:
        paper_table(of_ablation(*ablation()), columns)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


# LaTeX ---------------------------------------------------------------------------------------------------------------

NASTY = ["[A] & B", "* 100 % #1 $x_{i}$", r"a\b ~ ^ <c> | d", "η = 0.5, λ ± Ω ≤ 3", "nan"]


def nasty():
    values = [Value(1.5, 0.1, 3), Value(-2.26, 0.4, 3), Value(3.0), Value(float("nan")), None]
    items = [
        Item(name, {"s": name}, {"m_1": value} if value else {}) for name, value in zip(NASTY, values, strict=True)
    ]
    return paper_table(
        Items(
            "cell",
            items,
            ["m_1"],
            ["s", "m_1"],
            ["s"],
            better={"m_1": "lower"},
            baselines={"m_1": 0.5},
            notes=["50 %\n"],
        )
    )


def test_latex_has_the_shape_of_a_table():
    lines = as_latex(nasty()).splitlines()
    assert lines[1] == r"\begin{tabular}{llr}"
    assert [line for line in lines if line.startswith("\\") and "&" not in line][1:] == [
        r"\toprule", r"\midrule", r"\midrule", r"\bottomrule", r"\end{tabular}"]  # fmt: skip
    rows = [line for line in lines if line.endswith(r" \\")]
    assert len(rows) == 1 + len(NASTY) + 1
    for row in rows:
        bare = re.sub(r"\\[&%#$_{}]", "", row)
        assert bare.count("&") == 2
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0
        assert not set("#%~^<>|") & set(bare)
        assert not row.startswith(("[", "*")), "LaTeX would take it as an option of the line before"
    assert r"\textbf{$-$2.3} $\pm$ 0.4" in rows[2]
    assert r"\underline{1.50} $\pm$ 0.10" in rows[1]
    assert lines[-1].startswith("% ")
    assert all(line.startswith("%") for line in lines[lines.index(r"\end{tabular}") + 1 :])


def test_latex_escapes():
    assert escaped("a_b & c%") == r"a\_b \& c\%"
    assert escaped("\\") == r"\textbackslash{}"
    assert escaped("η λ Ω ↓") == r"$\eta$ $\lambda$ $\Omega$ $\downarrow$"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here; the shape is tested above")
def test_latex_compiles(tmp_path):
    (tmp_path / "t.tex").write_text(as_latex(nasty()), encoding="utf-8")
    page = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{t.tex}\end{document}"
    (tmp_path / "page.tex").write_text(page)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").stat().st_size > 1000


# The command ---------------------------------------------------------------------------------------------------------


def test_compare_writes_the_chosen_table_and_plot(tmp_path):
    compared(tmp_path)
    words = [tmp_path, f"columns=[optimizer.lr:rate,{FD}:FD]", "plot=[optimizer.lr:rate]"]
    done = subprocess.run([sys.executable, ROOT / "scripts" / "compare.py", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "compare").iterdir()}
    assert written == {"index.html", "runs.csv", *(f"table.{e}" for e in ("tex", "md", "csv")),
                       *(f"plot.{e}" for e in ("pdf", "png", "svg"))}  # fmt: skip
    assert "rate & FD $\\downarrow$" in (tmp_path / "compare" / "table.tex").read_text()
    assert "Left out, without any of these numbers: broken (failed)." in " ".join(done.stdout.split())


def test_a_wrong_column_leaves_no_file(tmp_path):
    compared(tmp_path)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "compare.py", tmp_path, "columns=[optimizer.lrr]"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "error: columns: there is no 'optimizer.lrr' here; did you mean 'optimizer.lr'?\n"
    assert not (tmp_path / "compare").exists()
