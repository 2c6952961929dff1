"""A paper's numbers: rounded to their spread, marked by their direction."""

import json

import pytest
from run_folders import fingerprint, run_folder

from diffusion.evaluation.naming import better
from diffusion.evaluation.result import Result
from diffusion.reporting.paper import Column, paper_table
from diffusion.reporting.paper_items import of_comparison
from diffusion.reporting.rounding import decimals, rounded
from diffusion.reporting.runs import find
from diffusion.reporting.table import Value, compare

# Rounding ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "printed"),
    [
        (0.827, 0.119, ("0.83", "0.12")),  # the Particle Data Group's own examples
        (0.827, 0.367, ("0.8", "0.4")),
        (0.827, 0.096, ("0.83", "0.10")),  # 960 is rounded up to 1000, two digits kept
        (91.5432, 3.5449, ("91.5", "3.5")),  # 354 keeps two
        (91.5432, 3.55, ("92", "4")),  # 355 keeps one
        (12.345, 0.949, ("12.3", "0.9")),
        (1234.0, 412.0, ("1200", "400")),
        (1234.0, 123.0, ("1230", "120")),
        (-0.00123, 0.00045, ("-0.0012", "0.0005")),
        (-0.01, 0.4, ("0.0", "0.4")),  # no minus before a zero
        (1e-7, 1.5e-8, ("0.000000100", "0.000000015")),
        (3.0, 0.0, ("3", "0")),
    ],
)
def test_a_mean_is_rounded_to_its_spread(mean, std, printed):
    assert rounded(mean, std) == printed


def test_numbers_without_a_spread_share_their_decimals():
    assert decimals([91.5432, 3.17]) == 2
    assert decimals([5.0, 19.0]) == 0
    assert decimals([0.00123, 0.0456]) == 5
    assert decimals([1e-12, 5.5]) == 6
    assert decimals([float("nan"), 0.0]) == 0
    column = Column("FID", [Value(91.5432), Value(3.17), None, Value(float("inf")), Value(4.0, 0.5, 3)])
    assert column.texts() == [("91.54", ""), ("3.17", ""), ("", ""), ("inf", ""), ("4.0", "0.5")]


# Marks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "means", "marks"),
    [
        ("lower", [3.0, 1.0, 2.0], ["", "best", "second"]),
        ("higher", [3.0, 1.0, 2.0], ["best", "", "second"]),
        (None, [3.0, 1.0, 2.0], ["", "", ""]),
        ("lower", [1.001, 1.002, 2.0, 2.001, 3.0], ["best", "best", "second", "second", ""]),  # alike in print: shared
        ("lower", [1.0, 1.0], ["", ""]),
        ("lower", [1.0], [""]),
        ("lower", [float("nan"), 2.0, 1.0], ["", "second", "best"]),
        ("higher", [float("inf"), 2.0, 1.0], ["", "best", "second"]),
    ],
)
def test_the_best_and_the_second_are_marked_by_the_direction(direction, means, marks):
    assert Column("m", [Value(mean) for mean in means], direction).marks() == marks


def test_marks_follow_the_numbers_and_ties_the_print():
    """3.16 ± 0.4 is printed 3.2 and 3.17 ± 0.1 is 3.17: the smaller number is the best whatever its digits."""
    column = Column("m", [Value(3.17, 0.1, 3), Value(3.16, 0.4, 3), Value(3.24, 0.4, 3)], "lower")
    assert column.marks() == ["second", "best", "best"]


@pytest.mark.parametrize(
    ("direction", "names"),
    [
        ("lower", ["rfid_50k", "fid_50k", "fid_50k_min", "sfid_50k", "fd_digits-cnn-v1_897", "fd_inf_clip_5k",
                   "fid_class_3_50k", "fd_class_worst_x_10k", "kid_dinov2-vit-l-14_50k", "bits_per_dim_flow_10k",
                   "copies_50k", "NFE", "s / 1000 samples", "train/loss", "val/loss_t/0.0-0.1", "fid_50k [B]"]),
        ("higher", ["accuracy_897", "psnr_970", "ssim_50k", "is_50k", "precision_digits-cnn-v1_897", "recall_50k",
                    "clip_score_clip_1k"]),
        (None, ["nearest_ratio_50k", "is_std_50k", "kid_50k_std", "sharpness", "fidelity_50k", "isotropy", "train/lr"]),
    ],
)  # fmt: skip
def test_the_direction_of_every_name_that_an_evaluation_writes(direction, names):
    assert {name: better(name) for name in names} == dict.fromkeys(names, direction)


def test_an_evaluation_states_the_direction_and_a_table_takes_it(tmp_path):
    Result({"fid_50k": 3.0, "own_50k": 1.0}, {}, {}, better={"fid_50k": "lower"}).write(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["better"] == {"fid_50k": "lower"}
    for i in range(2):
        run_folder(tmp_path / f"r{i}", lr=0.1 * (i + 1), scores={"e": ({"own_50k": 1.0 + i}, fingerprint())})
        path = tmp_path / f"r{i}" / "evaluation" / "e" / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "better": {"own_50k": "higher"}}))
    items = of_comparison(compare(*find([tmp_path / "r0", tmp_path / "r1"])), grouped=False)
    assert paper_table(items, ["own_50k"]).columns[0].marks() == ["second", "best"]
