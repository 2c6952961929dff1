"""Tables of published numbers: what they hold, what they cost, what is missing, and the verdict."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm
import yaml
from conftest import config
from hydra.utils import instantiate

from diffusion.errors import ReportError
from diffusion.experiment.run.status import write_status
from diffusion.reporting.ablation import Ablation, Measured, as_csv, as_markdown, rows

ROOT = Path(__file__).parents[2]
NODE = {
    "title": "T", "source": "S", "data": "D", "protocol": "P", "metrics": ["fid"], "tolerance": 0.2, "seeds": [0, 1],
    "train": ["experiment=digits_ddpm"],
    "cells": {
        "a_1": {"evaluate": ["sampler.steps=1"], "published": {"fid": 3.0}},
        "a_2": {"evaluate": ["sampler.steps=2"], "published": {"fid": 3.0}, "tolerance": 1.0},
        "b": {"note": "diverges"},
    },
}  # fmt: skip


def test_the_verdict_follows_the_tolerance():
    table = Ablation.read("t", NODE)
    found = [
        Measured(table.cells[0], {"fid": [3.0, 3.5]}, 1.0, [1, 2]),
        Measured(table.cells[1], {"fid": [2.5]}, seeds=[2], real_baseline={"fid": 0.25, "is": 9.0}),
        Measured(table.cells[2], {}),
    ]
    assert [m.verdict("fid") for m in found] == ["differs", "reproduced", "not run"]
    assert found[0].difference("fid") == pytest.approx(0.25)
    assert Measured(table.cells[2], {"fid": [9.0]}).verdict("fid") == "measured"
    head, body = rows(table, found)
    assert head == ["cell", "NFE", "fid", "published", "difference", "verdict", "seeds", "note"]
    assert body[0] == ["a_1", "1", "3.25 ± 0.35", "3", "+0.25", "differs", "2", ""]
    assert "    python x" in as_markdown(table, found, "python x")
    assert "As many real held-out images score fid 0.25." in as_markdown(table, found, "python x")
    numbers = [(line["seed"], line["value"]) for line in csv.DictReader(as_csv(table, found).splitlines())]
    assert numbers == [("1", "3.0"), ("2", "3.5"), ("2", "2.5")]


def test_costs_are_columns_where_a_table_asks_for_them(tmp_path):
    """Seconds of a training with all that it needs, each once; of sampling by what an evaluation recorded."""
    from diffusion.experiment.run.needs import seconds

    for name, taken, needs in (("teacher", 50.0, []), ("half", 10.0, ["teacher"]), ("end", 5.5, ["half", "teacher"])):
        folder = tmp_path / name
        folder.mkdir()
        write_status(folder, {"status": "finished", "seconds": taken})
        roles = {role: {"run": str(tmp_path / role)} for role in needs}
        (folder / "config.yaml").write_text(yaml.safe_dump({"needs": roles}))
    assert [seconds(tmp_path / name) for name in ("teacher", "half", "end")] == [50.0, 60.0, 65.5]
    (tmp_path / "half" / "status.json").unlink()
    assert seconds(tmp_path / "end") is None
    costs = {"s of training": [60.0, 62.0], "s / 1000 samples": [0.5, 0.5]}
    table = Ablation.read("t", {**NODE, "costs": True})
    found = [Measured(table.cells[0], {"fid": [3.0, 3.5], **costs}, 1.0, [1, 2])]
    head, (row,) = rows(table, found)
    assert head[-3:] == ["s of training", "s / 1000 samples", "seeds"]
    assert row[-3:] == ["61 ± 1.4", "0.5 ± 0", "2"]
    assert "a_1,1.0,s of training,1,60.0,,0.2" in as_csv(table, found)
    assert "s of training" not in as_csv(Ablation.read("t", NODE), found)


def test_cells_are_chosen_by_name_or_pattern():
    table = Ablation.read("t", NODE)
    assert [c.name for c in table.choose(["a_*"])] == ["a_1", "a_2"]
    assert [c.name for c in table.choose([])] == ["a_1", "a_2", "b"]
    with pytest.raises(ReportError, match="has no cell 'c'; its cells are a_1, a_2, b"):
        table.choose(["a_1", "c"])


@pytest.mark.parametrize(("change", "sentence"), [
    ({"sauce": 1}, "'sauce' is not known"),
    ({"source": ""}, "'source' is missing"),
    ({"weights": {"card": "a", "sha": "b"}}, "'weights.sha' is not known"),
    ({"cells": {"a": {"weights": {"path": "b"}}}}, "'a.weights.path' is not known"),
])  # fmt: skip
def test_a_wrong_file_is_refused(change, sentence):
    with pytest.raises(ReportError, match=sentence):
        Ablation.read("t", NODE | change)


def test_published_numbers_are_the_papers():
    """A few cells of each published table, typed here from the papers a second time."""

    def published(table, cell):
        return yaml.safe_load((ROOT / "conf" / "ablation" / f"{table}.yaml").read_text())["cells"][cell]["published"]

    assert published("ddpm_table1", "L_simple") == {"fid_50k": 3.17, "is_50k": 9.46}
    assert published("ddpm_table2", "mu_L_learned") == {"fid_50k": 23.69, "is_50k": 7.28}
    assert published("iddpm_table2", "4K_cosine_vlb") == {"fid_50k": 11.47}
    assert published("ddim_cifar10", "sigma_hat_S10") == {"fid_50k": 367.43}
    assert published("ddim_cifar10", "eta0.0_S50") == {"fid_50k": 4.67}
    assert published("ddim_celeba64", "eta1.0_S20") == {"fid_50k": 26.03}
    assert published("cfg_imagenet64", "p0.1_w0.1") == {"fid_50k": 1.55, "is_50k": 66.11}
    assert published("cfg_imagenet64", "p0.5_w4.0") == {"fid_50k": 21.48, "is_50k": 225.1}
    assert published("adm_imagenet256", "cond_g1")["fid_50k"] == 4.59
    assert published("edm_sampler_vp", "heun_edm_35") == {"fid_50k_min": 2.93}
    assert published("edm_configs_cifar10", "E_uncond") == {"fid_50k_min": 2.05}
    assert published("edm_configs_cifar10", "F_cond") == {"fid_50k_min": 1.79}
    assert published("edm_configs_cifar10", "A_uncond_ve") == {"fid_50k_min": 3.77}
    assert published("progressive_distillation_targets", "x0_truncated_snr_ddim")["fid_50k"] == 2.51
    assert published("dpm_solver_v3_cifar10", "unipc_10") == {"fid_50k": 3.93}
    assert published("progressive_distillation_cifar10", "steps_4") == {"fid_50k": 3.0}
    assert published("consistency_cifar10", "cd_2") == {"fid_50k": 2.93, "is_50k": 9.75}
    assert published("consistency_imagenet64", "ct_1") == {"fid_50k": 13.0, "precision_50k": 0.71, "recall_50k": 0.47}
    assert published("ict_cifar10", "deep_1") == {"fid_50k": 2.51}
    assert published("ect_cifar10", "200k_1") == {"fid_50k": 3.86}
    assert published("scm_cifar10", "scd_2") == {"fid_50k": 2.52}
    assert published("scm_cifar10", "sct_128_400k") == {"fid_50k": 3.09}
    assert published("sid_cifar10", "cond") == {"fid_50k": 1.71}
    assert published("shortcut_imagenet256", "xl_4") == {"fid_50k": 7.8}
    assert published("mean_flow_imagenet256", "guided_80") == {"fid_50k": 19.15}
    assert published("ldm_autoencoders", "kl_f8_c4") == {"rfid_50k": 0.9, "psnr_50k": 24.19, "ssim_50k": 0.69}
    assert published("ldm_imagenet256", "ldm4_w1.5") == {"fid_50k": 3.6, "is_50k": 247.67}
    assert published("ldm_text_guidance_clip", "w1.5") == {"fid_30k": 12.63, "is_30k": 30.29}
    assert published("sd3_formulations", "rf_mode_1.75") == {"clip_score_10k": 25.3}
    assert published("sdxl_sizes", "size_cond") == {"fid_5k": 36.53, "is_5k": 215.34}
    assert published("zero_snr_coco", "zero_snr") == {"fid_10k": 21.66, "is_10k": 36.16}
    assert published("lcm_sd21", "lcm_4") == {"fid_30k": 11.1, "clip_score_30k": 28.69}


@pytest.mark.parametrize(
    ("overrides", "calls"),
    [
        (["sampler=ddim", "sampler.steps=7"], 7),
        (["sampler=heun", "sampler.steps=5"], 9),  # EDM: 2 S - 1
        (["sampler=flow_map", "sampler.steps=4"], 4),  # jumps
        (["sampler=ddim", "sampler.steps=6", "conditioner=label", "guidance=[classifier_free,clip]"], 12),
        (["sampler=ddim", "sampler.steps=6", "conditioner=label", "guidance=[classifier_free]",
          "guidance.classifier_free.scale=1"], 6),
    ],
)  # fmt: skip
def test_network_calls_are_known_before(train_config, overrides, calls):
    from diffusion.experiment.task.cost import network_calls

    assert network_calls(train_config(*overrides)) == calls


def test_what_is_trained_first_is_in_the_plan(tmp_path):
    """The chain of halvings above a cell, which two cells share from where they meet."""
    from diffusion.experiment.reproduce.cells import Settings, needed

    node = {**NODE, "train": ["experiment=digits_progressive"], "cells": {
        "a": {"train": ["objective.teacher_steps=16"]}, "b": {"train": ["objective.teacher_steps=32"]}}}  # fmt: skip
    found = needed(Ablation.read("t", node).cells, Settings(seeds=[0], outputs=str(tmp_path)))
    assert [cfg.name for cfg in found.values()] == ["digits_progressive", "digits_velocity"]
    assert next(iter(found.values())).objective.teacher_steps == 32
    assert not list(tmp_path.iterdir())


def test_arithmetic_is_that_of_the_layers(tmp_path):
    """An MLP multiplies by each weight once: two operations a weight."""
    from diffusion.experiment.task import cost

    settings = config(
        tmp_path, "network=mlp", "data=image_folder", "data.root=x", "data.resolution=1", "data.channels=2"
    )
    built = instantiate(settings.network, _convert_="all")
    weights = sum(layer.weight.numel() for layer in built.modules() if isinstance(layer, torch.nn.Linear))
    assert cost.flops(settings) == pytest.approx(2 * weights)


def test_the_arithmetic_of_an_autoencoder_grows_with_the_area(tmp_path):
    """Of convolutions, which are the same at every place."""
    from diffusion.experiment.task import cost

    small = ["module=autoencoder", "autoencoder=trainable_kl", "autoencoder.widths=[8,8]", "autoencoder.groups=4"]
    data = ["data=image_folder", "data.root=x", "autoencoder.attention=false", "evaluation=reconstruction"]
    prices = [cost.cost(config(tmp_path, *small, *data, f"data.resolution={side}")) for side in (16, 32)]
    assert prices[1].train == 4 * prices[0].train > 0
    assert prices[0].nfe == 0
    assert cost.cost(config(tmp_path, *small, *data, "evaluation=none")).nfe == 0


def test_a_training_on_parts_of_images_costs_their_share_of_the_area(tmp_path):
    from diffusion.experiment.task import cost

    small = ["data=image_folder", "data.root=x", "network=unet_small", "network.middle_attention=false"]
    whole, part = (
        cost.cost(config(tmp_path, *small, *words)) for words in ([], ["augmentation=crop", "augmentation.share=0.25"])
    )
    assert part.train == whole.train / 16
    assert part.sample == whole.sample


def test_what_draws_nothing_is_scored_without_a_seed(tmp_path):
    from diffusion.experiment.reproduce.cells import Settings, configs

    small = ["experiment=emoji_autoencoder", "autoencoder.widths=[8,8]", "module.loss.adversarial_start=1900"]
    node = {**NODE, "train": small, "cells": {"a": {"evaluate": ["evaluation=reconstruction"]}}}
    ((_, cfg, _),) = configs(Ablation.read("t", node).cells, Settings(seeds=[3], outputs=str(tmp_path)))
    assert "seed" not in cfg.evaluation
    assert cfg.trainer.max_steps == 2000, "rules of a training hold for its own steps"


def test_overrides_inside_a_list_need_no_quotes():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from diffusion.experiment.run.needs import quote_lists

    lines = [
        "train=[trainer=gpu,~callbacks.samples]",
        "evaluate=[evaluation.metrics=[fd,is],seed=1]",
        "cells=[]",
        "a=[1]",
    ]
    values = [
        OverridesParser.create().parse_override(line).value()
        for line in quote_lists(lines, ("train", "evaluate", "cells"))
    ]
    assert [[str(getattr(v, "text", v)) for v in value] for value in values] == [
        ["trainer=gpu", "~callbacks.samples"], ["evaluation.metrics=[fd,is]", "seed=1"], [], ["1"],
    ]  # fmt: skip


def reproduced(folder: Path, *words: str) -> str:
    """The numbers of two small cells of a table that share one training."""
    command = [
        sys.executable, ROOT / "scripts" / "reproduce.py", "ablation=digits_solvers", "cells=[ddim_S5,heun_S3]",
        "seeds=[0]", f"paths.outputs={folder}", "train=[trainer.max_steps=2,network.channels=8,~callbacks.samples]",
        "evaluate=[evaluation.num_samples=20,evaluation.metrics=[fd],evaluation.is_splits=2,evaluation.batch_size=20]",
        "ablation.metrics=[fd_digits-cnn-v1_20]", *words,
    ]  # fmt: skip
    done = warm.run(command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(folder.glob("reproduce/*/checkpoints/last.ckpt"))) == 1, "both cells share one training"
    numbers = (folder / "reproduce" / "tables" / "digits_solvers.csv").read_text()
    assert len(numbers.splitlines()) == 3
    return numbers


@pytest.fixture(scope="module")
def through_joblib(tmp_path_factory):
    """The folder and the numbers of a table whose cells ran side by side."""
    folder = tmp_path_factory.mktemp("joblib")
    return folder, reproduced(folder, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.mark.slow
def test_what_is_there_is_kept_whatever_launched_it(through_joblib):
    """Again one after the other: nothing is trained or scored, and the numbers are the same."""
    folder, numbers = through_joblib
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}
    assert reproduced(folder) == numbers
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}
    assert len(before) == 2


@pytest.mark.slow
def test_what_a_sampler_needs_of_a_model_is_measured_once_before_it_is_scored(tmp_path):
    from diffusion.experiment.reproduce.cells import Settings, run

    small = ["trainer.max_steps=2", "network.channels=8", "~callbacks.samples", "logger=csv"]
    asked, counted = (
        ["sampler=dpm_solver_v3", "sampler.steps=3"],
        ["evaluation.num_samples=4", "evaluation.metrics=[fd]"],
    )
    node = {**NODE, "train": small, "evaluate": ["evaluation=digits", *counted], "cells": {"v3": {"evaluate": asked}},
            "statistics": ["levels=4", "num_samples=8", "batch_size=8"]}  # fmt: skip
    made = []
    for _ in range(2):
        run(Ablation.read("t", node).cells, Settings(seeds=[0], outputs=str(tmp_path)))
        (file,) = tmp_path.rglob("ems.safetensors")
        made.append(file.stat().st_mtime_ns)
    assert made[0] == made[1]


def test_only_cells_that_need_statistics_ask_for_them():
    cells = Ablation.read("t", {**NODE, "statistics": ["levels=4"], "cells": {
        "v3": {"evaluate": ["sampler=dpm_solver_v3"]}, "plain": {"evaluate": ["sampler=ddim"]}}}).cells  # fmt: skip
    assert [cell.statistics for cell in cells] == [["levels=4"], None]


@pytest.mark.slow
def test_a_table_is_the_same_through_submitit(through_joblib, tmp_path):
    assert reproduced(tmp_path, "hydra/launcher=submitit_local") == through_joblib[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no table given"),
        (["ablation=ddim_cifar"], "ddim_cifar10"),
        (["ablation=ddim_cifar10", "cells=[eta3]"], "has no cell 'eta3'"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reproduce.py", f"paths.outputs={tmp_path}", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")


def test_the_index_lists_every_table():
    listed = set(re.findall(r"\w+", (ROOT / "docs" / "ablations" / "README.md").read_text()))
    assert not {path.stem for path in (ROOT / "conf" / "ablation").glob("*.yaml")} - listed
