"""A table on published weights: imported once, drawn and scored, and nothing is trained."""

import csv
import json

import pytest
import yaml
from scripts_in_process import run_script
from test_imported_run import save_pipeline

from diffusion.experiment.config.folder import CONF
from diffusion.experiment.reproduce import published
from diffusion.reporting.ablation import Ablation

TABLE = "scripts/reproduce.py ablation=digits_sampler_steps seeds=[0] cells=[ddim_eta0_S5]"


@pytest.mark.slow
def test_a_table_draws_and_scores_a_folder_of_diffusers(tmp_path):
    source = save_pipeline(tmp_path / "published")
    line = f"{TABLE} weights={source} paths.outputs={tmp_path / 'out'}"
    run_script(line)
    (run,) = (tmp_path / "out" / "imported").iterdir()
    assert json.loads((run / "origin.json").read_text())["source"] == str(source)
    assert not list((tmp_path / "out").glob("reproduce/*/checkpoints"))
    rows = list(csv.DictReader((tmp_path / "out/reproduce/tables/digits_sampler_steps.csv").open()))
    assert {row["cell"] for row in rows} == {"ddim_eta0_S5"}
    changed = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    run_script(line)
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == changed


def test_what_is_imported_has_the_data_of_the_cells_experiment():
    table = Ablation.read("t", yaml.safe_load((CONF / "ablation" / "adm_imagenet256.yaml").read_text()))
    (cell,) = table.choose(["uncond_g1"])
    option, changed = published._data(cell, ["paths.data=/images"])
    assert option == "image_folder"
    assert {"data.root='/images/imagenet256'", "data.resolution=256", "data.filter=box"} <= set(changed)
    assert not any(line.startswith(("data._target_", "data.seed", "data.channels")) for line in changed)


def test_a_table_without_named_weights_says_so(tmp_path, capsys):
    with pytest.raises(pytest.fail.Exception):
        run_script(f"{TABLE} weights=published paths.outputs={tmp_path}")
    assert "names no published weights for ddim_eta0_S5" in capsys.readouterr().err
