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
    "contrastive",
    "augmentation",
    "data",
}
BASE = {"schedule", "condition", "types", "randomness", "errors", "files", "image_file", "array_file", "hub"}
ALLOWED = {
    "schedule": {"schedule"},
    "condition": set(),
    "types": {"schedule", "condition"},
    "randomness": {"types"},
    "errors": set(),
    "files": {"errors"},
    "image_file": {"errors"},
    "array_file": {"errors", "image_file"},
    "hub": {"errors", "files"},
    "guidance": BASE | {"operator"},
    "describe": set(),
    "frozen": set(),
    "image_encoder": set(),
    "model": BASE | {*LEAVES, "denoiser", "frozen", "guidance", "pipeline"},
    "pipeline": BASE | {*LEAVES, "denoiser", "guidance", "model", "describe"},
    "editing": BASE | {*LEAVES, "image_encoder", "denoiser", "guidance", "model", "pipeline", "describe"},
    "parameterization": BASE,
    "denoiser": BASE | {"parameterization", "network"},
    "objective": BASE | {"parameterization", "denoiser", "guidance", "model"},
    **{room: set(BASE) for room in LEAVES},
    "conditioner": BASE | {"text_encoder", "image_encoder"},
    "autoencoder": BASE | {"image_encoder", "describe"},
    "contrastive": BASE | {"text_encoder"},
    "sampler": BASE | {"spacing"},
}
LAYERS = ["pretrained", "training", "evaluation", "reporting", "experiment", "testing"]
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
    if room_of(path) not in ("experiment", "testing"):
        assert not {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}


def test_the_package_itself_imports_nothing():
    assert imports(PACKAGE / "__init__.py", lazy=False) == set()


EXPERIMENT = [
    {"process"},
    {"config"},
    {"run"},
    {"build", "launch"},
    {"task", "sweep"},
    {"reproduce", "studio"},
    {"cli"},
]
"""The rooms of the experiment by level: each imports itself and the levels before its own."""
GROUPS = {
    "callbacks",
    "conditioner",
    "data",
    "exponential",
    "formats",
    "guidance",
    "metrics",
    "network",
    "objective",
    "sampler",
}
"""Rooms that are a group of parts, which may be many."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


NAMES = {module_name(path) for path in MODULES}


def modules_imported(path: Path) -> set[str]:
    """The files of the package that one imports, inside functions too; not those that only types are taken from, and
    not the package itself, which is imported before any of its files."""
    tree = ast.parse(path.read_text())
    checking = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    types_only = {id(inner) for node in checking for line in node.body for inner in ast.walk(line)}
    found = set()
    for node in ast.walk(tree):
        if id(node) not in types_only and isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif id(node) not in types_only and isinstance(node, ast.ImportFrom):
            whole = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else str(node.module) for name in whole.values()}
    return (found & NAMES) - {"diffusion"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("experiment/*/*.py")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_rooms_of_experiment_point_one_way(path):
    room = path.parent.name
    level = next(i for i, rooms in enumerate(EXPERIMENT) if room in rooms)
    below = {room}.union(*EXPERIMENT[:level])
    seen = {name.split(".")[2] for name in modules_imported(path) if name.startswith("diffusion.experiment.")}
    assert seen <= below, f"{room} imports {seen - below}"


def test_no_circle_between_files():
    graph = {module_name(path): modules_imported(path) for path in MODULES}
    while leaves := {name for name, needed in graph.items() if not needed}:
        graph = {name: needed - leaves for name, needed in graph.items() if name not in leaves}
    assert not graph, "files that import each other in a circle, or import one that does"


@pytest.mark.parametrize("room", sorted({p.parent for p in MODULES}), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_that_is_no_group_of_parts_has_at_most_twenty_files(room):
    if room.name not in GROUPS:
        assert len(list(room.glob("*.py"))) <= 21, "20 and __init__.py"
