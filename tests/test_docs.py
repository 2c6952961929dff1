"""Every command in README and docs runs, and every example is what it says."""

import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts_in_process import run_script

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = [
    "network.channels=8",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "callbacks.samples.num_samples=2",
    "~logger.wandb",
]
"""What makes a documented training small; the command's own words come after it."""
SCORED = ["evaluation.num_samples=64", "evaluation.kid_subset_size=32", "evaluation.is_splits=2"]


def commands():
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            for line in block.strip().replace("\\\n", "").splitlines():
                if line.startswith("python scripts/"):
                    marks = [] if page.name == "README.md" else [pytest.mark.slow]
                    yield pytest.param(line, id=f"{page.name}: {line.removeprefix('python scripts/')}", marks=marks)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A small run that the documented commands read."""
    folder = tmp_path_factory.mktemp("docs")
    few = [*SHORT, *SCORED, "sampler.steps=2", "schedule.T=100"]  # the bound of a likelihood costs T calls
    run_script(f"scripts/train.py {' '.join(few)} hydra.run.dir={folder / 'run'}")
    return folder / "run"


@pytest.mark.parametrize("line", list(commands()))
def test_the_documented_command_runs(line, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    words = line.replace("<run>", str(run)).replace("outputs/schedules", str(tmp_path)).split()[1:]
    extra = []
    if "train.py" in words[0] and not {"--help", "--cfg"} & set(words):
        words = [word for word in words if not word.startswith("trainer.max_steps=")]
        words = [re.sub(r"^(needs.*max_steps=)\d+", r"\g<1>2", word) for word in words]
        given = {word.split("=")[0] for word in words}
        extra = [f"paths.outputs={tmp_path}/outputs"]
        if "resume" in given:
            extra = ["trainer.max_steps=4"]
        else:
            extra += [key for key in SHORT if key.split("=")[0] not in given and "debug=fast" not in words]
            extra += ["evaluation=none"] if "evaluation" not in given else []
            extra += ["sampler.steps=2"] if "sampler.steps" not in given else []
    if any("fashion" in word for word in words):
        write_fashion(tmp_path / "data")
        extra += ["paths.data=data", "evaluation=none"]
        words = [word for word in words if not word.startswith("evaluation=")]
    if any("image_folder" in word for word in words):
        write_images(tmp_path / "images", labelled="data.num_classes=9" in words)
    if any("fashion" in word or "image_folder" in word for word in words):
        words = [word for word in words if not word.startswith("data.batch_size=")]
        extra += ["data.batch_size=4"]
    if "image.png" in line:
        Image.new("L", (8, 8), 128).save("image.png")
    run_script(" ".join([*words, *(word for word in extra if word not in words)]))


def write_images(folder: Path, labelled: bool) -> None:
    for i in range(27):
        noise = np.random.default_rng(i).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        place = folder / str(i % 9) if labelled else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(place / f"{i}.png")


def write_fashion(folder: Path) -> None:
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 16), ("t10k", 8)):
        images = np.random.default_rng(0).integers(0, 255, (count, 28, 28), dtype=np.uint8)
        header = b"".join(n.to_bytes(4, "big") for n in (0x803, count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        header = b"".join(n.to_bytes(4, "big") for n in (0x801, count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def test_the_example_of_a_new_part_is_a_sampler_of_its_declared_order():
    from diffusion.denoiser import GaussianDenoiser
    from diffusion.schedule.cosine import CosineSchedule

    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "adding_a_part.md").read_text(), re.S)
    names: dict = {}
    exec(code.group(1), names)
    denoiser = GaussianDenoiser(CosineSchedule(), mean=0.5, std=0.3)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1)
    exact = denoiser.transport(noise, 1.0, 0.0)
    coarse, fine = ((names["HeldSampler"](steps)(denoiser, noise) - exact).abs().max() for steps in (50, 100))
    assert torch.log2(coarse / fine) == pytest.approx(names["HeldSampler"].order, abs=0.15)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_images_of_a_page_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_the_table_of_parts_is_written_by_a_command(tmp_path):
    """It finds new files, leaves all else alone, changes nothing the second time, and says what it cannot do."""
    parts = runpy.run_path(str(ROOT / "scripts" / "parts.py"))
    page = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(page)
    for name in ("sampler/ddim", "sampler/mine", "network/_base", "colour/red"):
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / f"{name}.yaml").write_text("# A part.")
    assert parts["main"](["check"], tmp_path) == 1
    assert parts["main"]([], tmp_path) == parts["main"](["check"], tmp_path) == 0
    new = (tmp_path / "README.md").read_text()
    assert re.findall(r"^\| `.*$", new, re.M) == ["| `sampler` | ddim mine |", "| `colour` | red |"]
    assert new.partition("<!-- parts")[0] == page.partition("<!-- parts")[0]
    assert parts["main"]([], tmp_path) == 0
    assert (tmp_path / "README.md").read_text() == new
    assert parts["main"](["chekc"], tmp_path) == 2
    (tmp_path / "README.md").write_text(new.replace("<!-- parts end -->", ""))
    assert parts["main"]([], tmp_path) == 2
