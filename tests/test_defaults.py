"""A class built in Python is that of its option: the defaults of its constructor are those of its YAML file."""

import inspect
from collections import defaultdict
from collections.abc import Iterator

import pytest
from conftest import CONF
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from diffusion.describe import describe

BRINGS = "override /spacing@_global_.spacing"
EXAMPLES = {
    ("operator/mask", "box"): "one of two arguments is needed, and the option shows one",
    ("evaluation/digits", "clip"): "a node, whose keys can be set",
}
PRESETS = {"experiment", "ablation", "debug"}


def built(node: object) -> Iterator[dict]:
    """The outermost nodes that build something of this package."""
    if isinstance(node, dict):
        if str(node.get("_target_")).startswith("diffusion."):
            yield node
        else:
            for inner in node.values():
                yield from built(inner)


def own_options() -> Iterator[tuple[str, dict]]:
    """Options and their nodes; where a class has several options, that which is named as it is."""
    by_target = defaultdict(list)
    for path in sorted(CONF.glob("*/**/*.yaml")):
        option = path.relative_to(CONF).with_suffix("")
        if option.parts[0] not in PRESETS and not option.name.startswith("_"):
            for node in built(OmegaConf.to_container(OmegaConf.load(path))):
                by_target[node["_target_"]].append((option, node))
    for target, options in by_target.items():
        name = target.rsplit(".", 1)[1].lower()
        for option, node in options:
            if len(options) == 1 or name.startswith(option.name.replace("_", "")):
                yield str(option), node


OWN = dict(own_options())


def is_plain(value: object) -> bool:
    """Neither an interpolation nor mandatory, nor is anything inside it."""
    if isinstance(value, dict | list):
        return all(map(is_plain, value.values() if isinstance(value, dict) else value))
    return not (isinstance(value, str) and ("${" in value or value == "???"))


@pytest.mark.parametrize("option", OWN)
def test_defaults_in_python_are_those_of_the_option(option: str) -> None:
    node = OWN[option]
    arguments = inspect.signature(get_object(node["_target_"])).parameters
    for key, value in node.items():
        default = arguments[key].default if key in arguments else inspect.Parameter.empty
        if default is inspect.Parameter.empty or not is_plain(value) or (option, key) in EXAMPLES:
            continue
        wanted = instantiate(value) if isinstance(value, dict) and "_target_" in value else value
        assert describe(default) == describe(wanted), f"{key} is {default!r} in Python and {value!r} in {option}.yaml"


SAMPLERS = [option for option in OWN if option.startswith("sampler/")]


@pytest.mark.parametrize("option", SAMPLERS)
def test_the_spacing_of_a_class_is_that_which_its_option_brings(option: str) -> None:
    chosen = [line[BRINGS] for line in OWN[option].get("defaults", []) if BRINGS in line]
    (trained,) = (line["spacing"] for line in OmegaConf.load(CONF / "train.yaml").defaults if "spacing" in line)
    wanted = instantiate(OmegaConf.load(CONF / "spacing" / f"{(chosen or [trained])[0]}.yaml"))
    assert describe(get_object(OWN[option]["_target_"])().spacing) == describe(wanted)


def test_all_samplers_but_two_presets_are_held_to_their_classes() -> None:
    names = {f"sampler/{path.stem}" for path in (CONF / "sampler").glob("*.yaml")}
    assert names - {*SAMPLERS} == {"sampler/euler_ancestral", "sampler/plms"}, "of DDIM and PNDM"
