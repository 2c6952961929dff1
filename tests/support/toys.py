"""A script of the project's frame that does next to nothing, and how its sweeps are run in processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from diffusion.experiment.cli.app import CONF

TOY = '''
"""A toy."""
from pathlib import Path
from diffusion.experiment.cli.app import app
from diffusion.experiment.run.needs import needs_overrides, with_needs

@app("toy", conf=Path(__file__).parent / "conf", rewrite=needs_overrides, finish=with_needs)
def main(cfg):
    run(cfg)

def run(cfg):
    import os, signal, sys, time, zipfile
    from diffusion.experiment.run.record import Record
    from diffusion.experiment.task.needs import provide
    folder = Path(cfg.paths.run)
    with Record(folder, with_needs(cfg)):
        provide(cfg, run)
        with open(folder / "ran.txt", "a") as file:
            file.write(f"{os.getpid()} {cfg.resume}\\n")
        if cfg.part.mode == "fail" and not (Path(cfg.paths.outputs) / "mended").exists():
            raise ValueError("a bad part")
        if cfg.part.mode == "exit":
            sys.exit(3)
        if cfg.part.mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if cfg.part.mode == "edit":
            Path("conf/part/good.yaml").write_text("mode: good\\nscore: 9.5\\n")
        if cfg.part.mode == "nap":
            time.sleep(3)
        if cfg.part.mode == "sleep":
            (folder / "checkpoints").mkdir()
            zipfile.ZipFile(folder / "checkpoints" / "last.ckpt", "w").close()
            time.sleep(60)
        (folder / "metrics.csv").write_text(f"step,score\\n1,{cfg.part.score}\\n")

if __name__ == "__main__":
    main()
'''
CONFIG = """
defaults: [_self_, {part: good}, {hydra: default}, {experiment: none}]
name: toy
seed: 0
resume: null
plan: false
needs: {}
scale: 1.0
weak: null
paths: {outputs: outputs, run: "${hydra:runtime.output_dir}"}
"""


def make_toy(tmp_path: Path) -> Path:
    """Its script and configs in a folder; returns the folder."""
    conf = tmp_path / "conf"
    (conf / "hydra").mkdir(parents=True)
    for path in sorted((CONF / "hydra").rglob("*.yaml")):
        (conf / path.relative_to(CONF)).parent.mkdir(parents=True, exist_ok=True)
        (conf / path.relative_to(CONF)).write_text(path.read_text())
    (conf / "toy.yaml").write_text(CONFIG)
    (conf / "part").mkdir()
    for mode in ("good", "fine", "fail", "exit", "edit", "kill", "nap", "sleep"):
        (conf / "part" / f"{mode}.yaml").write_text(f"mode: {mode}\nscore: 1.5\n")
    (conf / "experiment").mkdir()
    (conf / "experiment" / "none.yaml").write_text("{}\n")
    (conf / "experiment" / "pin.yaml").write_text("# @package _global_\npart: {mode: good}\n")
    (tmp_path / "toy.py").write_text(TOY)
    return tmp_path


def start(folder: Path, *arguments: str, sweep: bool = True) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "toy.py", *(["-m"] if sweep else []), *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def sweep(folder: Path, *arguments: str, code: int = 0) -> str:
    return ended(start(folder, *arguments), code)


def single(folder: Path, *arguments: str, code: int = 0) -> str:
    """One run without ``-m``."""
    return ended(start(folder, *arguments, sweep=False), code)


def ended(child: subprocess.Popen[str], code: int) -> str:
    """What it wrote, its log first."""
    out, err = child.communicate(timeout=120)
    assert child.returncode == code, out + err
    return err if "-m" in child.args else out + err


def runs(folder: Path, name: str = "toy") -> dict[str, int]:
    """How often each cell ran."""
    found = sorted((folder / "outputs" / name).glob("*/ran.txt"))
    return {path.parent.name: len(path.read_text().splitlines()) for path in found}


def wait_for_cells(folder: Path, count: int, running: subprocess.Popen[str]) -> list[Path]:
    deadline = time.monotonic() + 60
    while len(found := list((folder / "outputs" / "toy").glob("*/ran.txt"))) < count:
        assert time.monotonic() < deadline
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.05)
    return [path.parent for path in found]
