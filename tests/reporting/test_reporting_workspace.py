"""The W&B workspace is built and read back without a server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import fingerprint, run_folder

from diffusion.reporting.runs import find
from diffusion.reporting.table import compare
from diffusion.reporting.workspace import build, model

ws = pytest.importorskip("wandb_workspaces.workspaces", reason="pip install 'alphabar[workspace]'")
ROOT = Path(__file__).parents[2]
FD = "fd_digits-cnn-v1_897"


@pytest.fixture
def sweep(tmp_path):
    for seed in (0, 1):
        run = run_folder(
            tmp_path / "sweep" / str(seed), seed=seed, lr=0.1 + seed, scores={"e": ({FD: 1.0}, fingerprint(seed=seed))}
        )
        (run / "metrics.csv").write_text("step,train/loss,train/loss_t/0-0.1,val/loss\n50,1,2,3\n")
    return tmp_path / "sweep"


def test_it_says_what_the_sweep_has(sweep):
    workspace = build(compare(*find([sweep])), "mine", project="p", entity=None, group="sweep")
    assert [section.name for section in workspace.sections] == ["Loss", "Quality", "Samples", "Swept settings"]
    text = model(workspace)
    for part in (
        "train/loss_t/0-0.1",
        f"evaluation/{FD}",
        "optimizer.value.lr",
        "sweep",
        "samples",
        "cost/nfe_per_sample",
    ):
        assert part in text
    assert json.loads(text)["displayName"] == "mine"


def anonymous(node):
    """Without the ids, which W&B's package draws anew."""
    if isinstance(node, dict):
        return {key: anonymous(value) for key, value in node.items() if key not in ("__id__", "id", "key")}
    return [anonymous(part) for part in node] if isinstance(node, list) else node


def test_it_comes_back_as_it_was(sweep):
    workspace = build(compare(*find([sweep])), "mine", project="p", entity=None, group="sweep")
    back = ws.Workspace._from_model(workspace._to_model())
    assert anonymous(json.loads(model(back))) == anonymous(json.loads(model(workspace)))
    assert back.runset_settings.filters == workspace.runset_settings.filters


def test_without_a_login_it_says_so_in_one_sentence(sweep, tmp_path):
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin"}
    words = [sys.executable, ROOT / "scripts" / "workspace.py", sweep]
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "wandb login" in done.stderr
    out = tmp_path / "w.json"
    done = subprocess.run([*words, "save=false", f"output={out}"], capture_output=True, text=True, env=env, check=True)
    assert json.loads(out.read_text())["project"] == "alphabar"
