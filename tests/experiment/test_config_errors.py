"""Errors on the command line and in config files: one sentence each, exit code 2; names without importing torch."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import config
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.cli.app import CONF
from diffusion.experiment.config import resolvers, validate
from diffusion.experiment.config.compose import Composer
from diffusion.experiment.config.errors import nearest
from diffusion.experiment.config.rooms import own_rooms

ROOT = Path(__file__).parents[2]


def script(name: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options.pop("python", ()), f"scripts/{name}.py", *arguments]  # type: ignore[misc]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def compose(*arguments: str, folder: Path = CONF, name: str = "train") -> None:
    """What a script does before it hands over to Hydra, in this process."""
    resolvers.register()
    try:
        args = get_args_parser().parse_args(list(arguments))
        validate.check(Composer(folder, args.config_name or name, args).compose()[1])
    finally:
        GlobalHydra.instance().clear()


def refused(*arguments: str, folder: Path = CONF) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(*arguments, folder=folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_the_default_job_has_no_error():
    compose()


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("smapler=ddim", "sampler"),
        ("sampler.stpes=10", "sampler.steps"),
        ("trainer.max_stesp=10", "trainer.max_steps"),
        ("max_steps=10", "trainer.max_steps"),
        ("+sed=3", "seed"),
        ("++naem=x", "name"),
        ("+sampler.stpes=3", "sampler.steps"),
        ("+optimizer.weight_decya=0.1", "optimizer.weight_decay"),
        ("+trainer.max_epoch=3", "trainer.max_epochs"),
        ("objective/weigting=p2", "objective/weighting"),
        ("optimiser=adam", "optimizer"),
    ],
)
def test_the_nearest_real_key_is_suggested(argument: str, meant: str):
    assert f"did you mean '{meant}'?" in refused(argument)


@pytest.mark.parametrize("argument", ["+typo=3", "++typo=3", "typo=3"])
def test_a_key_like_no_other_is_refused_with_those_there_are(argument: str):
    sentence = refused(argument)
    assert "no config key 'typo'" in sentence
    assert "seed" in sentence


def test_real_arguments_may_be_added():
    compose("+trainer.fast_dev_run=true", "+optimizer.weight_decay=0.1")
    compose("+callbacks.more={_target_: diffusion.training.callbacks.progress.TrainingProgress}")


@pytest.mark.parametrize(
    ("argument", "first"), [("sampler=dim", "ddim"), ("network=unet_tny", "unet_tiny"), ("sampler=[ddmi]", "ddim")]
)
def test_an_unknown_option_lists_those_there_are_nearest_first(argument: str, first: str):
    group = argument.partition("=")[0]
    sentence = refused(argument)
    assert f"nearest first: {first}" in sentence
    assert all(path.stem in sentence for path in (CONF / group).glob("[!_]*.yaml"))


@pytest.mark.parametrize(
    ("argument", "expected", "got"),
    [
        ("sampler.steps=abc", "a whole number (int)", "'abc'"),
        ("network.channels=1.5", "a whole number (int)", "1.5"),
        ("sampler.steps=true", "a whole number (int)", "True"),
        ("network.scale_shift_norm=3", "true or false (bool)", "3"),
        ("optimizer.lr=fast", "a number (float)", "'fast'"),
        ("sampler.variance=medium", "one of small, large, learned", "'medium'"),
        ("network.channel_mult=3", "a list", "3"),
        ("network.channel_mult=[1,x]", "a list", "x"),
        ("sampler.spacing=karras", "Spacing", "'karras'"),
        ("trainer.max_steps=ten", "a whole number (int)", "'ten'"),
    ],
)
def test_a_wrong_type_says_expected_and_got(argument: str, expected: str, got: str):
    key = argument.partition("=")[0]
    sentence = refused(argument)
    assert sentence.startswith(key)
    assert expected in sentence
    assert got in sentence
    assert f"set {key}" in sentence


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        (["sampler.steps=1001"], "sampler.steps to at most 1000"),
        (["sampler.steps=0"], "at least 1, got 0; set sampler.steps"),
        (["network.in_channels=3"], "network.in_channels=1"),
        (["network.resolution=16"], "network.resolution=8"),
        (["network.channel_mult=[1,1,1,1,1]"], "network.channel_mult at most 4 entries"),
        (["network=ddpm_cifar10"], "network.attention"),
        (["schedule.beta_max=1"], "parameterization=velocity"),
        (["guidance=[clip,classifier_free]"], "conditioner=label"),
        (["conditioner=label", "data.num_classes=0"], "conditioner=none"),
        (["sampler.variance=learned"], "parameterization.learned_variance=true"),
        (["data.resolution=16", "network.attention=[8]"], "evaluation=none"),
        (["network=dit_tiny", "network.patch=3"], "network.patch to a divisor"),
        (["augmentation=geometric"], "network=ddpmpp_cifar10"),
        (["micro_batch=7"], "micro_batch to a divisor"),
        (["micro_batch=most"], "micro_batch=auto"),
        (["trainer.precision=16-mixed"], "trainer.precision=bf16-mixed"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_what_to_change(arguments: list[str], change: str):
    assert change in refused(*arguments)


def test_the_same_numbers_are_fine_where_they_fit():
    compose("schedule.beta_max=1", "parameterization=velocity", "evaluation=none")
    compose("conditioner=label", "guidance=[clip,classifier_free]")
    validate.rules({})


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        (["lr=1,2"], "add -m"),
        (["seed=1,2"], "add -m"),
        (["seed=range(3)"], "add -m"),
        (["data=image_folder"], "set data.root=<value>"),
        (["name=${nix}"], "nix"),
        (["seed"], "key=value"),
        (["experiment=null"], "~experiment"),
        (["network._target_=diffusion.network.unet.Unet"], "no 'Unet'"),
        (["network._target_=nopackage.Net"], "'nopackage' is not installed"),
        (["--config-name=trian"], "trian.yaml"),
    ],
)
def test_other_errors_name_what_to_change(arguments: list[str], change: str):
    assert change in refused(*arguments)


def test_a_typo_in_an_experiment_file_is_found(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    for name in ("train.yaml", "bad.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "train.yaml").write_text("defaults: [_self_, {experiment: bad}]\nseed: 0\npart: {steps: 1}\n")
    (tmp_path / "experiment" / "bad.yaml").write_text("# @package _global_\nsede: 3\n")
    assert "did you mean 'seed'?" in refused(folder=tmp_path)


def test_nearest_finds_nothing_where_nothing_is_near():
    assert nearest("xyz", ["seed", "name"]) is None
    assert nearest("SEED", ["name", "seed"]) == "seed"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--cfg", "job"], 0),
        (["-m", "--cfg", "job"], 2),
        (["smapler=ddim"], 2),
        (["network.in_channels=3"], 2),
        (["-m", "hydra/sweeper=search", "hydra.sweeper.metric=val/los", "seed=1,2"], 2),
    ],
)
def test_answers_come_fast_and_without_torch(arguments: list[str], code: int):
    done = script("train", *arguments, python=["-X", "importtime"])
    loaded = set(re.findall(r"\| +([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert done.returncode == code, done.stderr
    optunas = {"numpy"} if "optuna" in loaded else set()
    assert not loaded & ({"torch", "pytorch_lightning", "numpy", "wandb"} - optunas)
    if code:
        said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert len(said) == 1
        assert said[0].startswith("error: ")
        assert done.stdout == ""


@pytest.mark.parametrize("name", ["train", "sample", "evaluate"])
def test_help_shows_groups_options_and_examples(name: str):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = script(name, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.5  # of work: waiting does not count
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"python scripts/{name}.py") >= 3
    assert re.search(r"^  sampler .*\bddim\b.*\bheun\b", done.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "arguments", "change"),
    [
        ("sample", [], "nothing to draw with; give run=<run folder>"),
        ("sample", ["run=/nowhere"], "does not exist"),
        ("evaluate", [f"run={ROOT / 'conf'}"], "is not a run folder"),
        ("train", [f"resume={ROOT / 'conf'}"], "is not a run folder"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(name: str, arguments: list[str], change: str):
    done = script(name, *arguments)
    assert done.returncode == 2
    assert change in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "arguments", "meant"),
    [
        ("train", ["sampler=ddim", "sampler.etta=1"], "did you mean 'sampler.eta'?"),
        ("train", ["sampler=ancestral", "sampler.etta=1"], "did you mean 'sampler.eta' of sampler=ddim?"),
        ("train", ["optimizer=adam", "optimizer.bets=3"], "did you mean 'optimizer.betas'?"),
        ("train", ["weights=raw"], "did you mean 'initial.weights'?"),
        ("reference", ["num_samples=3"], "did you mean 'evaluation.num_samples'?"),
        ("evaluate", ["run=x", "num_samples=3"], "did you mean 'evaluation.num_samples' of evaluation="),
        ("ema", ["run=x", "stdd=3"], "did you mean 'std'?"),
    ],
)
def test_what_was_meant_is_a_key_of_this_script_and_part(script: str, arguments: list[str], meant: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(meant)):
        compose(*arguments, name=script)


@pytest.mark.parametrize("room", ["guidance", "callbacks", "logger"])
def test_an_empty_list_means_none(room: str) -> None:
    compose(f"{room}=[]")


def test_what_an_experiment_sets_of_parts_that_are_not_chosen_is_not_there(tmp_path: Path) -> None:
    """emoji_text sets the guidance's scale and the prompts of the samples."""
    chosen = config(tmp_path, "experiment=emoji_text")
    assert chosen.guidance.classifier_free.scale == 4
    assert chosen.callbacks.samples.text[0] == "red heart"
    none = config(tmp_path, "experiment=emoji_text", "guidance=none", "callbacks=[]")
    assert none.guidance == none.callbacks == {}
    other = config(tmp_path, "experiment=emoji_text", "guidance=clip")
    assert list(other.guidance) == ["clip"]
    setting = "guidance.classifier_free.scale=3"
    with pytest.raises(ConfigError, match=f"guidance has no classifier_free, which {setting} sets"):
        own_rooms(OmegaConf.create({"guidance": {"classifier_free": {"scale": 3}}}), [setting])
