"""W&B: offline unless a key is present, one stable id a run folder, so that a resumed run stays one run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb
from pytorch_lightning.loggers.wandb import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only


class WandbRunLogger(WandbLogger):
    """Lightning's logger with the id kept in ``<save_dir>/wandb/run_id.txt``.

    Args:
        mode: ``auto`` is online where an API key is at hand (WANDB_API_KEY or ~/.netrc) and offline elsewhere;
            WANDB_MODE in the environment wins over ``auto``.
        config: what W&B shows as the run's configuration: plain containers.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "alphabar",
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        job_type: str = "train",
        tags: Sequence[str] = (),
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        timeout: float = 4.0,
        config: dict[str, Any] | None = None,
    ) -> None:
        folder = Path(save_dir)
        (folder / "wandb").mkdir(parents=True, exist_ok=True)  # without it W&B writes to the temporary folder
        super().__init__(
            name=name,
            save_dir=str(folder),
            id=_stable_id(folder / "wandb" / "run_id.txt"),
            project=project,
            entity=entity,
            group=group,
            job_type=job_type,
            tags=list(tags),
            mode=_mode(mode),
            config=config,
            resume="allow",
            settings=wandb.Settings(silent=True),
        )

    @rank_zero_only
    def log_evaluation(
        self,
        metrics: Mapping[str, float],
        real_baseline: Mapping[str, float],
        fingerprint: Mapping[str, Any],
        step: int,
    ) -> None:
        """A table ``evaluation`` beside the real images' figures, its cost, and the whole fingerprint as config."""
        depends_on = {key: value for key, value in fingerprint.items() if key != "cost"}
        mark = hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()[:12]
        rows = [[name, value, real_baseline.get(name), mark] for name, value in metrics.items()]
        self.log_table(
            "evaluation", columns=["metric", "generated", "real images", "fingerprint"], data=rows, step=step
        )
        cost = fingerprint.get("cost") or {}
        told = {f"cost/{key}": cost[key] for key in ("nfe_per_sample", "sampling_seconds") if cost.get(key)}
        self.log_metrics(told, step=step)
        self.experiment.config.update({"fingerprint": dict(fingerprint)}, allow_val_change=True)


def _mode(mode: str) -> Any:
    if mode != "auto":
        return mode
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    netrc = Path.home() / ".netrc"
    has_key = "WANDB_API_KEY" in os.environ or (netrc.exists() and "wandb" in netrc.read_text())
    return "online" if has_key else "offline"


def _stable_id(path: Path) -> str:
    """The id in the file, made once even where several ranks ask together."""
    mine = path.with_name(f".{path.name}.{os.getpid()}")
    mine.write_text(os.urandom(4).hex())
    try:
        os.link(mine, path)
    except FileExistsError:
        pass
    finally:
        mine.unlink()
    return path.read_text().strip()
