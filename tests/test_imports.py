"""Imports point down: each room sees only what lies below it, and Hydra stays in its own rooms."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "diffusion"
MODULES = sorted(PACKAGE.rglob("*.py"))
LEAVES = {
    "sampler",
    "spacing",
    "operator",
    "network",
    "conditioner",
    "text_encoder",
    "autoencoder",
    "augmentation",
    "data",
}
BASE = {"schedule", "condition", "types", "randomness", "errors", "files"}
ALLOWED = {
    "schedule": {"schedule"},
    "condition": set(),
    "types": {"schedule", "condition"},
    "randomness": {"types"},
    "errors": set(),
    "files": set(),
    "guidance": BASE | {"operator"},
    "describe": set(),
    "frozen": set(),
    "model": BASE | {*LEAVES, "denoiser", "guidance", "pipeline"},
    "pipeline": BASE | {*LEAVES, "denoiser", "guidance", "model", "describe"},
    "parameterization": BASE,
    "denoiser": BASE | {"parameterization", "network"},
    "objective": BASE | {"parameterization", "denoiser", "guidance", "model"},
    **{room: set(BASE) for room in LEAVES},
    "conditioner": BASE | {"text_encoder"},
}
LAYERS = ["training", "evaluation", "reporting", "experiment"]
"""Above everything else; each sees the layers before it."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_lies_below_it(path):
    room = room_of(path)
    if room == "__init__":
        return
    seen = {name.split(".")[1] for name in imports(path) if name.startswith("diffusion.")} - {room}
    if room in LAYERS:
        above = set(LAYERS[LAYERS.index(room) + 1 :])
        assert not seen & above, f"{room} imports {seen & above}, which lie above it"
    else:
        assert seen <= ALLOWED[room], f"{room} imports {seen - ALLOWED[room]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_experiment_room_knows_hydra(path):
    if room_of(path) != "experiment":
        assert not {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}


def test_the_package_itself_imports_nothing():
    assert imports(PACKAGE / "__init__.py", lazy=False) == set()
