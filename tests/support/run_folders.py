"""Run folders as training leaves them, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

CONFIG: dict[str, Any] = {
    "name": "made",
    "seed": 0,
    "module": {"_target_": "diffusion.training.module.diffusion.DiffusionModule", "model": {}, "seed": 0},
    "paths": {"outputs": "outputs", "run": "somewhere"},
    "data": {"_target_": "diffusion.data.digits.Digits", "channels": 1, "batch_size": 64, "seed": 0},
    "network": {"_target_": "diffusion.network.unet.UNet", "channels": 32, "channel_mult": [1, 2]},
    "optimizer": {"_target_": "torch.optim.adam.Adam", "_partial_": True, "lr": 0.002},
    "spacing": {"_target_": "diffusion.spacing.trailing.TrailingSpacing"},
    "sampler": {"_target_": "diffusion.sampler.ddim.DDIMSampler", "steps": 50, "eta": 0.0,
                "spacing": {"_target_": "diffusion.spacing.trailing.TrailingSpacing"}},
    "guidance": {
        "clip": {"_target_": "diffusion.guidance.clip.ClipGuidance", "_partial_": True, "low": -1.0, "high": 1.0}
    },
    "evaluation": {"_target_": "diffusion.evaluation.evaluator.Evaluator", "num_samples": 897},
}  # fmt: skip
REFERENCES = {"module": {"seed": "${seed}"}, "data": {"seed": "${seed}"}, "sampler": {"spacing": "${spacing}"}}


def fingerprint(*, steps: int = 50, seed: int = 0, split: str = "train", torch: str = "2.14.1") -> dict[str, Any]:
    return {
        "extractor": {"name": "digits-cnn-v1", "weights_sha256": "236c"},
        "metrics": {"is_splits": 10},
        "reference": {"key": f"{split}-hash", "split": split, "num": 900},
        "samples": {
            "num": 897, "seed": seed, "repeats": 1, "batch_size": 128, "labels": None, "weights_sha256": f"w{seed}",
            "sampler": {"class": "DDIM", "steps": steps, "spacing": {"class": "Trailing"}, "eta": 0.0},
            "guidance": [{"class": "Clip", "low": -1.0, "high": 1.0}],
        },
        "versions": {"torch": torch},
        "about": {"checkpoint": "last.ckpt", "weights": "ema"},
        "cost": {"nfe_per_sample": float(steps), "sampling_seconds": 0.897 * steps},
    }  # fmt: skip


def run_folder(
    folder: Path,
    *,
    seed: int = 0,
    lr: float = 0.002,
    status: str = "finished",
    scores: dict[str, tuple[dict[str, float], dict[str, Any]]] | None = None,
    rows: int = 3,
) -> Path:
    """scores: {evaluation: (metrics, fingerprint)}."""
    config = json.loads(json.dumps(CONFIG))
    config["seed"] = config["data"]["seed"] = config["module"]["seed"] = seed
    config["optimizer"]["lr"] = lr
    (folder / ".hydra").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(REFERENCES))
    (folder / "status.json").write_text(json.dumps({"status": status, "overrides": [f"seed={seed}"]}))
    lines = [f"{50 * (i + 1)},{1 / (i + 1) + lr},{2 / (i + 1)}" for i in range(rows)]
    (folder / "metrics.csv").write_text("\n".join(["step,train/loss,val/loss", *lines]) + "\n")
    for name, (metrics, record) in (scores or {}).items():
        place = folder / "evaluation" / name
        place.mkdir(parents=True)
        (place / "metrics.json").write_text(
            json.dumps({"metrics": metrics, "floor": dict.fromkeys(metrics, 1.5), "fingerprint": record, "repeats": []})
        )
    return folder
