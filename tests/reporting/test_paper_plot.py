"""Plots of one or two settings: their lines, bars, words and files, and what they leave out."""

import re
from pathlib import Path

import pytest

from diffusion.errors import ReportError
from diffusion.reporting.paper import Item, Items
from diffusion.reporting.paper_files import check, write
from diffusion.reporting.paper_plot import draw
from diffusion.reporting.print_style import COLOURS, COLUMN, RC, TEXT, filling, looks
from diffusion.reporting.table import Value

CELLS = [
    ("ddim_5", {"sampler": "ddim", "sampler.steps": "5"}, 8.0),
    ("ddim_50", {"sampler": "ddim", "sampler.steps": "50"}, 3.0),
    ("ddim_10", {"sampler": "ddim", "sampler.steps": "10"}, 5.0),
    ("heun_5", {"sampler": "heun", "sampler.steps": "5"}, 6.0),
    ("heun_10", {"sampler": "heun", "sampler.steps": "10"}, 4.0),
    ("rk45", {"sampler": "rk45"}, 2.0),
    ("late", {"sampler": "heun", "sampler.steps": "50"}, None),
]


def items(cells=CELLS, varied=("sampler", "sampler.steps"), metrics=("fid_50k",)):
    made = [
        Item(name, settings, {} if value is None else {m: Value(value, 0.5, 3) for m in metrics},
             missing="not run" if value is None else "")
        for name, settings, value in cells
    ]  # fmt: skip
    return Items("cell", made, metrics, metrics, varied, better={"fid_50k": "lower"})


def plotted(source, *settings, metrics=("fid_50k",)):
    return draw(source, [(name, name) for name in settings], [(name, name) for name in metrics])


def lines(ax):
    """{label: [(x, y)]} of the error bars' lines."""
    return {c.get_label(): list(zip(*(map(float, d) for d in c[0].get_data()), strict=True)) for c in ax.containers}


def test_numbers_are_lines_sorted_by_their_size():
    figure, notes = plotted(items(), "sampler.steps", "sampler")
    (ax,) = figure.axes
    assert lines(ax) == {"ddim": [(5, 8), (10, 5), (50, 3)], "heun": [(5, 6), (10, 4)]}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("sampler.steps", "fid_50k ↓")
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "sampler"
    assert [text.get_text() for text in legend.get_texts()] == ["ddim", "heun"]
    assert notes == [
        "Not in the plot, without sampler.steps: rk45.",
        "Not in the plot, without fid_50k: late (not run).",
    ]
    spread = ax.containers[0][2][0].get_segments()[0]
    assert [float(y) for _, y in spread] == [7.5, 8.5]


def test_words_are_bars_in_groups():
    cells = [cell for cell in CELLS if cell[0] != "ddim_50"]
    figure, _ = plotted(items(cells), "sampler", "sampler.steps")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["ddim", "heun"]
    bars = {group.get_label(): [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in group.patches]
            for group in ax.containers if hasattr(group, "patches")}  # fmt: skip
    assert bars == {"5": [(pytest.approx(-0.2), 8), (pytest.approx(0.8), 6)],
                    "10": [(pytest.approx(0.2), 5), (pytest.approx(1.2), 4)]}  # fmt: skip
    assert ax.get_ylim()[0] == 0


def test_one_setting_and_every_combination_of_the_others():
    figure, notes = plotted(items(), "sampler.steps")
    assert set(lines(figure.axes[0])) == {"ddim", "heun"}
    figure, notes = plotted(items(), "sampler")
    groups = {group.get_label() for group in figure.axes[0].containers if hasattr(group, "patches")}
    assert groups == {"steps 5", "steps 10", "steps 50", "other settings as they are"}
    assert notes == ["Not in the plot, without fid_50k: late (not run)."]


def test_steps_that_only_make_the_calls_are_no_lines_over_them():
    cells = [
        (name, {**settings, "NFE": 2.0 * float(settings.get("sampler.steps", 1))}, v) for name, settings, v in CELLS
    ]
    figure, _ = plotted(items(cells), "NFE")
    assert lines(figure.axes[0])["ddim"] == [(10, 8), (20, 5), (100, 3)]


def test_a_panel_for_each_metric_and_none_for_what_nobody_has():
    source = items(metrics=("fid_50k", "is_50k"))
    figure, notes = plotted(source, "sampler.steps", metrics=("fid_50k", "is_50k", "kid_50k"))
    assert [ax.get_ylabel() for ax in figure.axes] == ["fid_50k ↓", "is_50k"]
    assert figure.get_size_inches()[0] == TEXT
    assert any(note.startswith("Not in the plot, without kid_50k: ddim_5, ddim_50,") for note in notes)
    nothing, notes = plotted(source, "sampler.steps", metrics=("kid_50k",))
    assert nothing is None
    assert notes[-1] == "No plot: no cell has both sampler.steps and kid_50k."


def test_two_cells_in_one_place_are_refused():
    cells = [("a", {"x": "1", "g": "u", "eta": "0"}, 1.0), ("b", {"x": "1", "g": "u", "eta": "1"}, 2.0)]
    with pytest.raises(ReportError, match=r"'a' and 'b' have the same x and g .* they differ in eta; plot that"):
        plotted(items(cells, ("x", "g", "eta")), "x", "g")


def test_two_cells_in_one_place_are_refused_before_they_are_measured():
    """Their NFE is not known yet, and is the same where sampler and steps are."""
    cells = [
        ("short", {"NFE": None, "sampler.steps": "2", "g": "u", "trainer.max_steps": "10"}, None),
        ("long", {"NFE": None, "sampler.steps": "2", "g": "u", "trainer.max_steps": "90"}, None),
    ]
    varied = ("sampler.steps", "trainer.max_steps")
    with pytest.raises(
        ReportError, match=r"'short' and 'long' have the same NFE and g .* trainer.max_steps; plot that"
    ):
        check(items(cells, varied, ["fid_50k", "NFE"]), None, ["NFE", "g"])
    apart = [(cells[0][0], cells[0][1], None), ("long", {**cells[1][1], "sampler.steps": "4"}, None)]
    check(items(apart, varied, ["fid_50k", "NFE"]), None, ["NFE", "g"])


def test_files_for_print(tmp_path):
    """PDF with TrueType fonts, all three the same bytes again."""
    written = []
    for name in ("one", "other"):
        _, files = write(items(), [], ["sampler.steps:steps", "sampler"], tmp_path / name / "t", tmp_path / name / "p")
        assert [path.name for path in files] == ["t.tex", "t.md", "t.csv", "p.pdf", "p.png", "p.svg"]
        written.append({path.name: path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert written[0]["p.pdf"].startswith(b"%PDF")
    assert b"/Type0" in written[0]["p.pdf"]
    assert b"/Type3" not in written[0]["p.pdf"], "publishers refuse Type 3 fonts"
    assert re.search(rb"<svg [^>]*width=\"234", written[0]["p.svg"]), f"{COLUMN} inches of 72 points"
    assert written[0]["p.png"].startswith(b"\x89PNG")


def test_three_settings_are_refused_and_so_are_metrics():
    cells = [("a", {"sampler": "x", "sampler.steps": "1", "k": "2"}, 1.0)]
    with pytest.raises(ReportError, match="plot takes at most 2 names, got 3"):
        write(items(cells), [], ["sampler", "sampler.steps", "k"], Path("t"), Path("p"))
    with pytest.raises(ReportError, match="plot: there is no 'fid_50k' here"):
        write(items(), [], ["fid_50k"], Path("t"), Path("p"))


def test_twenty_eight_lines_or_bars_all_look_different():
    assert len({(look["color"], look["linestyle"]) for look in map(looks, range(28))}) == 28
    assert len({(look["color"], look["hatch"]) for look in map(filling, range(28))}) == 28
    assert len({look["marker"] for look in map(looks, range(len(COLOURS)))}) == len(COLOURS)
    assert RC["pdf.fonttype"] == RC["ps.fonttype"] == 42
