"""A run stopped anywhere and resumed sees the batches, and ends with the weights, of one that was never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from diffusion.data.digits import Digits

STEPS = 10
BATCH = 200  # four batches an epoch, 100 of the 900 images left out of each


class Line(LightningModule):
    """The smallest thing that can be trained: its weights remember every batch and their order."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(64, 10)
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch["index"].tolist())
        return nn.functional.cross_entropy(self.net(batch["image"].flatten(1)), batch["label"])

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.log("val", nn.functional.cross_entropy(self.net(batch["image"].flatten(1)), batch["label"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def fit(
    folder: Path, *, workers: int, resume: Path | None = None, module: Line | None = None, **trainer: object
) -> Line:
    module = module or Line()
    keep = ModelCheckpoint(folder / "steps", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    ends = ModelCheckpoint(folder / "epochs", filename="{epoch}", save_on_train_epoch_end=True, save_top_k=-1)
    settings = {
        "accelerator": "cpu",
        "max_steps": STEPS,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "callbacks": [] if resume else [keep, ends],
    }
    data = Digits(batch_size=BATCH, num_workers=workers, flip=True, seed=3)
    Trainer(**{**settings, **trainer}, default_root_dir=folder).fit(module, data, ckpt_path=resume, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("settings", [{}, {"limit_train_batches": 3}, {"accumulate_grad_batches": 2, "max_steps": 5}])
def test_resume_is_exact(tmp_path: Path, workers: int, settings: dict) -> None:
    straight = fit(tmp_path, workers=workers, **settings)
    checkpoints = sorted(tmp_path.glob("*/*.ckpt"))
    assert len(checkpoints) > settings.get("max_steps", STEPS)
    for checkpoint in checkpoints:
        resumed = fit(tmp_path, workers=workers, resume=checkpoint, **settings)
        done = len(straight.seen) - len(resumed.seen)
        assert done > 0, checkpoint
        assert resumed.seen == straight.seen[done:], checkpoint
        assert torch.equal(resumed.net.weight, straight.net.weight), checkpoint


CHECKPOINTS = ["steps/step=3", "steps/step=4", "epochs/epoch=0"]
"""Mid-epoch, after an epoch's last batch, and when the epoch has ended."""

TWO_RANKS = """
    import json, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_data_resume import Line, fit
    import torch

    class Recorded(Line):
        def on_train_end(self):
            record = Path(self.trainer.default_root_dir, f"{{self.trainer.global_rank}}.json")
            record.write_text(json.dumps({{"seen": self.seen, "weight": self.net.weight.tolist()}}))

    if __name__ == "__main__":
        folder, ranks = Path(sys.argv[1]), dict(strategy="ddp_fork", devices=2)
        fit(folder, workers=0, module=Recorded(), **ranks)
        for name in {checkpoints!r}:
            checkpoint = folder / f"{{name}}.ckpt"
            fit(folder / "resumed" / checkpoint.stem, workers=2, resume=checkpoint, module=Recorded(), **ranks)
"""


@pytest.mark.slow
def test_resume_is_exact_on_two_ranks(tmp_path: Path) -> None:
    """Two processes share each batch: the same images as one process sees, and resuming is as exact.

    The first run has no threads and the resumed ones have two, which must not matter either.
    """
    script = tmp_path / "two_ranks.py"
    script.write_text(textwrap.dedent(TWO_RANKS.format(tests=str(Path(__file__).parent), checkpoints=CHECKPOINTS)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, script, tmp_path], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]

    def ranks(folder: Path) -> list[dict]:
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]

    straight, alone = ranks(tmp_path), fit(tmp_path / "alone", workers=0)
    together = [a + b for a, b in zip(straight[0]["seen"], straight[1]["seen"], strict=True)]
    assert together == alone.seen
    assert torch.allclose(torch.tensor(straight[0]["weight"]), alone.net.weight, atol=1e-5)
    folders = list((tmp_path / "resumed").iterdir())
    assert len(folders) == len(CHECKPOINTS)
    for folder in folders:
        for rank, resumed in enumerate(ranks(folder)):
            assert resumed["weight"] == straight[rank]["weight"], folder
            assert resumed["seen"] == straight[rank]["seen"][-len(resumed["seen"]) :], folder
    checkpoint = tmp_path / "steps/step=3.ckpt"
    on_one = fit(tmp_path / "on_one", workers=0, resume=checkpoint)
    assert on_one.seen == alone.seen[-len(on_one.seen) :]
