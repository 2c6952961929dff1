"""Which loss a table has: the one that is minimised, or the unweighted one where only the weighting differs."""

from pathlib import Path

import pytest
import yaml
from run_folders import run_folder

from diffusion.reporting.runs import find
from diffusion.reporting.table import LOSS, UNWEIGHTED, compare


@pytest.mark.parametrize(
    ("objective", "column"),
    [
        ({"weighting": {"_target_": "a.EDMWeighting"}, "offset_noise": 0.0}, UNWEIGHTED),
        ({"weighting": {"_target_": "a.ConstantWeighting"}, "offset_noise": 0.1}, None),
        ({"weighting": {"_target_": "a.ConstantWeighting"}, "offset_noise": 0.0}, LOSS),
    ],
)
def test_runs_of_two_weightings_share_the_unweighted_loss(tmp_path: Path, objective: dict, column: str | None) -> None:
    plain = {"weighting": {"_target_": "a.ConstantWeighting"}, "offset_noise": 0.0}
    for name, mine in {"one": plain, "other": objective}.items():
        run = run_folder(tmp_path / name)
        config = yaml.safe_load((run / "config.yaml").read_text()) | {"objective": mine}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "metrics.csv").write_text("step,val/loss,val/unweighted_loss\n50,3,2\n")
    table = compare(*find([tmp_path]))
    assert [name for name in (LOSS, UNWEIGHTED) if name in table.metrics] == ([] if column is None else [column])
