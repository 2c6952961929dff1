"""The keys of every script: right values pass, wrong ones are one sentence that names the key, for all of conf/."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st
from scripts_in_process import script

from diffusion.errors import ConfigError, ReportError
from diffusion.experiment.config.overrides import in_shell, parse, quote, quote_paths, text_of
from diffusion.experiment.config.settings import settings
from diffusion.reporting import options

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "conf").glob("*.yaml"))
READERS = {"compare", "workspace"}
"""Scripts that read folders and have no Hydra."""
CHECKED_ELSEWHERE = {"defaults", "hydra", "choices", "micro_batch", "needs", "guidance", "callbacks", "logger"}
NO_TEXT: list[Any] = [7, 1.5, True, ["a"], {"a": 1}]
NO_COUNT: list[Any] = [0, -3, 1.5, "many", True, [4]]
NO_SEED: list[Any] = [-1, 2**63, 1.0, "x", True, None]
NO_SWITCH: list[Any] = ["yes please", 7, None]
NO_SIZE: list[Any] = [0, -1.0, "big", True, None, float("inf"), float("nan")]
NO_LIST: list[Any] = ["a", 3, [3], None]
NO_NAMES: list[Any] = [3, [3], None, [""], {"a": "b", "c": "d"}, [{}]]
WRONG: dict[str, list[Any]] = {
    **dict.fromkeys(["run", "checkpoint", "images", "output", "resume", "remarks", "text_file"], NO_TEXT),
    **dict.fromkeys(["card", "format", "path", "config", "revision", "sha256", "dataset", "licence"], NO_TEXT),
    **dict.fromkeys(["num_samples", "per_class", "batch_size", "step"], NO_COUNT),
    "low_resolution": NO_TEXT,
    **dict.fromkeys(["host", "token"], NO_TEXT),
    "runs": NO_TEXT,
    "port": [*NO_COUNT, 65536],
    "levels": [*NO_COUNT, 1],
    "seed": NO_SEED,
    "seeds": [[], 3, "0", [0, -1], [2**63]],
    "std": [*NO_SIZE, 0.5, 1],
    **dict.fromkeys(["noise_min", "noise_max", "tflops"], NO_SIZE),
    **dict.fromkeys(["plan", "tile", "keep_freed_memory"], NO_SWITCH),
    "weights": ["EMA", "Raw", "average", "", 1, None, ["ema"]],
    "compile": ["fast", 1, None],
    "matmul_precision": ["HIGH", "tf32", 1, None],
    "code": ["keeep", "yes", 1, None],
    "labels": [-1, 1.5, True, [], [1, -1], [0.5], {"a": 1}],
    "text": [7, [], [1], ""],
    "image_size": [7, "8x8", [], [8], [8, 0], [8, 8.5], [8, 8, 8]],
    "style_reference": [7, [], [1], ""],
    "style_weight": [-0.5, "much", True, [1], float("nan")],
    "stylize": [-0.5, "much", True, [1], float("nan")],
    "chaos": [-0.5, 1.5, "much", True, None, [1], float("nan")],
    "image": [7, [], [1], "", None],
    "mask": [7, "", [1, 2, 3], [0, 0, -1, 4], [0.5, 0, 1, 1], True],
    "background": [7, None, "", ["white"]],
    "feather": [-1, 1.5, "wide", True],
    "negative": [7, ["a"]],
    "lora": [7, "a", None, ["a"], [{}], [{"path": 7}], [{"path": "a", "scale": "b"}], [{"path": "a", "weight": 1}]],
    "numbers": [7, "a", [3], {"size": "a"}, {"size": []}, {"size": [1, "b"]}, {"crop": float("nan")}, {"crop": [[1]]}],
    "name": ["../x", "a/../../x", "/tmp/x", "", 7, None],
    **dict.fromkeys(["freeze", "tags", "train", "evaluate", "set", "pipelines"], NO_LIST),
    "cells": [3, [3], None],
    **dict.fromkeys(["columns", "plot"], NO_NAMES),
}
RIGHT: dict[str, list[Any]] = {
    "seed": [0, 2**63 - 1],
    "num_samples": [1, 10**6],
    "weights": ["ema", "raw"],
    "labels": ["balanced", "drawn", None, 0, "cat", [3, 7], ["cat", 2]],
    "text": ["a", ["a", "b"]],
    "lora": [[], [{"path": "a"}, {"path": "b", "scale": -0.5}]],
    "image_size": [None, [64, 96]],
    "numbers": [None, {}, {"size": [8, 8], "score": 6.5}],
    "checkpoint": ["ema_0.080", "/a/ü (1).ckpt"],
    "compile": [True, False, "reduce-overhead"],
    "name": ["a", "a/b", "a..b"],
    "columns": [[], "NFE", ["NFE", "fid_50k:FID", {"is_50k": "IS"}]],
}
KEYS = [
    (file.stem, key)
    for file in FILES
    for key in yaml.safe_load(file.read_text())
    if file.stem not in READERS and key not in CHECKED_ELSEWHERE
]


@pytest.mark.parametrize(("name", "key"), [pair for pair in KEYS if pair[1] != "initial"], ids=str)
def test_every_key_of_every_script_refuses_what_it_cannot_be(name: str, key: str) -> None:
    own = yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text())
    given = {k: "a" if v == "???" else v for k, v in own.items()}
    assert settings(given) is None
    for value in RIGHT.get(key, []):
        assert settings({**given, key: value}) is None, value
    for value in NO_TEXT if (name, key) == ("reproduce", "weights") else WRONG[key]:
        sentence = settings({**given, key: value})
        assert sentence is not None, f"{key}={value!r}"
        assert "\n" not in sentence
        assert re.match(f"{key} is .*{re.escape(repr(value))}; set {key} ", sentence)


def test_seeds_and_weights_are_checked_in_every_part() -> None:
    part = {"run": "a", "checkpoint": "last", "weights": "EMA"}
    assert settings({"initial": part}).startswith("initial.weights is ema or raw")  # type: ignore[union-attr]
    nested = {"guidance": {"auto": {"weak": part}}}
    assert settings(nested).startswith("guidance.auto.weak.weights is ema or raw")  # type: ignore[union-attr]
    assert settings({"evaluation": {"seed": -1}}).startswith("evaluation.seed is")  # type: ignore[union-attr]
    assert settings({"evaluation": {"weights": "inception.pth", "seed": 3}}) is None, "a file, not a run's weights"


def test_noise_ends_are_in_order() -> None:
    assert "noise_min is below noise_max" in str(settings({"noise_min": 2.0, "noise_max": 1.0}))


@pytest.mark.parametrize(
    "line",
    [
        ["reference", "seed=-1"],
        ["ema", "run=nowhere", "std=0"],
        ["ema", "run=nowhere", "step=1.5"],
        ["reproduce", "ablation=digits_schedule", "tflops=0"],
        ["reproduce", "ablation=digits_schedule", "seeds=[]"],
        ["evaluate", "images=a.npz", "data=digits", "evaluation=digits", "matmul_precision=tf32"],
        ["train", "seed=9223372036854775808"],
    ],
    ids=" ".join,
)
def test_scripts_refuse_with_one_sentence_and_code_2(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(line, monkeypatch) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {line[-1].partition('=')[0]} is ")


PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1).filter(
    lambda path: "${" not in path
)


def test_a_need_of_any_name_is_no_path() -> None:
    assert quote_paths(["needs.clip=[experiment=a]"]) == ["needs.clip=[experiment=a]"]


@given(PATHS)
def test_any_path_can_be_quoted(path: str) -> None:
    (found,) = OverridesParser.create().parse_overrides([f"run={quote(path)}"])
    assert found.value() == path


OTHER = set(",(\\'\"")
"""What makes a choice, a function, or a text in quotes of a value."""


@given(PATHS.filter(lambda path: not set(path) & OTHER and path[0] not in "[{" and path.split() == [path]))
def test_a_path_works_as_it_stands(path: str) -> None:
    assume(path.lower() not in {"null", "true", "false"})
    assert text_of(quote_paths([f"run={path}"]), "run") == path


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("'/a/ü (1)'", "/a/ü (1)"),
        ("/a/ü (1)", "/a/ü (1)"),
        ("'/a/ü (1)'/checkpoints/last.ckpt", "/a/ü (1)/checkpoints/last.ckpt"),
        ("/a/it's=#@", "/a/it's=#@"),
        ("2024", "2024"),
        ("1e3", "1e3"),
        ("${needed:weak}", "${needed:weak}"),
    ],
)
@pytest.mark.parametrize("key", ["run", "resume", "checkpoint", "images", "output", "initial.run", "paths.data"])
def test_paths_as_users_write_them(value: str, path: str, key: str) -> None:
    assert text_of(quote_paths([f"{key}={value}"]), key) == path


def test_what_is_no_path_stays() -> None:
    lines = ["data=digits", "run=null", "run=a,b", "seed=3", "+x", "~data", "text=a(b", "hydra/launcher=joblib"]
    assert quote_paths(lines) == lines


@pytest.mark.parametrize("text", ["a heart (red)", "it's [1", 'a "b" (c', "costs $5 (or !)", "a\\b (c)"])
@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh", ""])
def test_an_error_of_the_grammar_says_what_to_type(text: str, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proposed is given to a shell, and its word to Hydra's grammar: the text comes back."""
    monkeypatch.setenv("SHELL", shell)
    with pytest.raises(ConfigError, match="quoted for Hydra and for the shell") as caught:
        parse(["seed=0", f"text={text}"])
    proposed = str(caught.value).partition("the shell: ")[2].rpartition(" in ")[0]
    word = subprocess.run(["sh", "-c", f"printf %s {proposed}"], capture_output=True, text=True, check=True).stdout
    (found,) = OverridesParser.create().parse_overrides([word])
    assert found.value() == text.strip("'\"")


def test_items_of_a_list_are_quoted_one_by_one() -> None:
    with pytest.raises(ConfigError, match=re.escape("""\"labels=['müsli','5']\"""")):
        parse(["labels=[müsli,5]"])


def test_each_shell_has_its_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    for shell, word in (("fish", r"'a=\'$x\''"), ("pwsh", "'a=''$x'''"), ("bash", "'a='\"'\"'$x'\"'\"''")):
        monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
        assert in_shell("a='$x'") == f"{word} in {shell}"
        assert in_shell("a='x (1)'") == f"\"a='x (1)'\" in {shell}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["f", "rows=0"], "rows is a whole number of at least 1"),
        (["f", "rows=-1"], "rows is a whole number"),
        (["f", "rows=true"], "rows is a whole number"),
        (["f", "rows=many"], "rows is a whole number"),
        (["f", "rosw=1"], "did you mean 'rows'"),
    ],
)
def test_scripts_without_hydra_refuse_too(words: list[str], sentence: str) -> None:
    with pytest.raises(ReportError, match=sentence):
        options.read(words, ROOT / "conf" / "compare.yaml")


def test_titles_and_paths_are_texts_whatever_yaml_makes_of_them() -> None:
    given = ["f", "title=2024", "output='a: b'", "filter=true"]
    read = options.read(given, ROOT / "conf" / "compare.yaml")[1]
    assert (read["title"], read["output"], read["filter"]) == ("2024", "a: b", "true")
