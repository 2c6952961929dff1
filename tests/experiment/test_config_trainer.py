"""Every number of the trainer, the callbacks and the loggers: in its range, or refused in a sentence before data."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CONF, config
from omegaconf import OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.config import numbers
from diffusion.experiment.config.validate import check

ROOT = Path(__file__).parents[2]
FILES = sorted(path for group in ("trainer", "callbacks", "logger") for path in (CONF / group).glob("*.yaml"))
ACCEPTED = {
    ("num_sanity_val_steps", 0): "no look at the test split before training",
    ("num_sanity_val_steps", -1): "all of it before training",
    ("gradient_clip_val", 0): "no clipping",
    ("gradient_clip_val", 0.5): "a norm is any number",
    ("max_steps", -1): "until it is stopped",
    ("max_epochs", -1): "until the steps are done",
    ("devices", -1): "all that the machine has",
    ("timeout", 0): "offline at once",
    ("timeout", 0.5): "half a second",
}
"""What of 0, -1 and a half is right, and what it means."""


def values(name: str) -> Iterator[tuple[str, Any]]:
    """Every number that the files of a group set, by its path."""
    group, _, _ = name.partition("/")
    own = OmegaConf.load(CONF / f"{name}.yaml")
    for path, value in leaves(OmegaConf.to_container(own)):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{group}.{path}", value


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and key != "defaults":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


NUMBERS = sorted({(str(path.relative_to(CONF).with_suffix("")), key) for path in FILES
                  for key, _ in values(str(path.relative_to(CONF).with_suffix("")))})  # fmt: skip


def test_the_files_have_numbers() -> None:
    found = {key.rpartition(".")[2] for _, key in NUMBERS}
    assert {"max_steps", "accumulate_grad_batches", "every_n_train_steps", "bins", "timeout"} <= found


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_a_number_out_of_its_range_is_refused(name: str, key: str, tmp_path: Path) -> None:
    group, _, option = name.partition("/")
    chosen = [f"{group}={option}" if group != "callbacks" else f"callbacks=[default,{option}]"]
    cfg = config(tmp_path, *chosen, "evaluation=none", "lr_scheduler=constant")
    OmegaConf.set_struct(cfg, False)
    right = OmegaConf.select(cfg, key)
    check(cfg)
    for value in (0, -1, 0.5, "many"):
        OmegaConf.update(cfg, key, value)
        if (key.rpartition(".")[2], value) in ACCEPTED:
            check(cfg)
            continue
        if (sentence := numbers.kind(key, value, right)) is None:
            with pytest.raises(ConfigError) as caught:
                check(cfg)
            sentence = str(caught.value)
        assert key.rpartition(".")[2] in sentence
        assert "\n" not in sentence


RIGHT = ["trainer.deterministic=warn", "+trainer.limit_val_batches=0.5", "+trainer.overfit_batches=0"]
RIGHT += ["+trainer.max_time=00:01:00:00", "trainer.devices=[0]", "trainer.val_check_interval=7"]


@pytest.mark.parametrize("words", RIGHT)
def test_what_lightning_takes_is_taken(words: str, tmp_path: Path) -> None:
    check(config(tmp_path, "evaluation=none", words))


WRONG = [
    ("trainer.gradient_clip_val=-1", "gradient_clip_val is at least 0"),
    ("trainer.gradient_clip_val=inf", "gradient_clip_val is a finite number"),
    ("trainer.max_steps=0", "max_steps is at least 1, or -1"),
    ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches is at least 1"),
    ("trainer.log_every_n_steps=0", "log_every_n_steps is at least 1"),
    ("trainer.val_check_interval=0", "val_check_interval is at least 1"),
    ("trainer.val_check_interval=0.5", "val_check_interval is a whole number"),
    ("+trainer.limit_train_batches=1.5", "limit_train_batches is a number of batches"),
    ("trainer.check_val_every_n_epoch=0", "check_val_every_n_epoch is at least 1"),
    ("+trainer.max_time=soon", "DD:HH:MM:SS"),
    ("+trainer.gradient_clip_algorithm=middle", "gradient_clip_algorithm"),
    ("trainer.accelerator=gpuu", "did you mean trainer.accelerator=gpu"),
    ("trainer.strategy=dpp", "did you mean trainer.strategy=ddp"),
    ("trainer.strategy=ddp_spawn", "trainer.strategy is one of"),
    ("trainer.precision=17", "trainer.precision"),
    ("trainer.devices=many", "trainer.devices is a number of devices"),
    ("trainer.devices=[0,0]", "trainer.devices is a number of devices"),
    ("trainer.deterministic=wrn", "trainer.deterministic"),
    ("trainer.devices=3 trainer.accelerator=cpu", "which 3 devices cannot share equally; set data.batch_size"),
    ("trainer.devices=2 trainer.accelerator=cpu micro_batch=64", "the 32 images that each of 2 devices"),
    ("name=../x", "name is a folder below paths.outputs"),
    ("name=/x", "name is a folder below paths.outputs"),
    ("name=a/../../x", "name is a folder below paths.outputs"),
    (f"name={'x' * 300}", "at most 255 bytes"),
    ("logger=wandb logger.wandb.project=a/b", "logger.wandb.project"),
    (f"logger=wandb tags=[{'x' * 80}]", "a tag has 1 to 64 characters"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG)
def test_a_script_refuses_it_with_one_sentence_and_code_2(
    words: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"paths.outputs={tmp_path}", "evaluation=none", *words.split()]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / "train.py"), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert not list(tmp_path.iterdir()), "nothing is written"
