"""W&B: offline unless a key is present, one stable id a run folder, so that a resumed run stays one run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb
from pytorch_lightning.loggers.wandb import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from diffusion.files import disk_errors

log = logging.getLogger(__name__)

MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline"}
MODES["shared"] = "shared"
"""What WANDB_MODE may be, and what it means."""


class WandbRunLogger(WandbLogger):
    """Lightning's logger with the id kept in ``<save_dir>/wandb/run_id.txt``.

    Where W&B cannot be used as asked (no network, a key or an environment variable that it refuses), the run is
    offline, with one warning.

    Args:
        mode: ``auto`` is online where an API key is at hand (WANDB_API_KEY or ~/.netrc) and offline elsewhere;
            WANDB_MODE in the environment wins over ``auto``.
        timeout: seconds that W&B has to answer.
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
        with disk_errors(folder / "wandb"):
            (folder / "wandb").mkdir(parents=True, exist_ok=True)  # without it W&B writes to the temporary folder
        about: dict[str, Any] = {"name": name, "id": _stable_id(folder / "wandb" / "run_id.txt"), "project": project}
        run = None
        first: Any = rank_zero_only
        if first.rank == 0:
            asked, reason = _mode(mode)
            more = {"entity": entity, "group": group, "job_type": job_type, "tags": list(tags), "config": config}
            run = _begin(asked, reason, timeout, **about, **more, dir=str(folder), resume="allow")
        super().__init__(**about, save_dir=str(folder), experiment=run)

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


def _begin(mode: str, reason: str | None, timeout: float, **about: Any) -> Any:
    """The run, in this mode or else offline, with one warning of why it is not the mode that was asked for."""
    if wandb.run is not None:
        wandb.finish()
    for attempt in dict.fromkeys((mode, "offline", "disabled")):
        try:
            settings = wandb.Settings(silent=True, init_timeout=timeout if attempt == "online" else 90.0)
            wandb.setup(settings)
            run = wandb.init(mode=attempt, settings=settings, **about)  # type: ignore[arg-type]
        except Exception as error:  # whatever W&B cannot do must not end a training
            reason = reason or " ".join(str(error).split())[:200]
            wandb.teardown()  # a service that tried and failed holds the id of the run
            for variable in [one for one in os.environ if one.startswith("WANDB_") and not one.endswith("_DIR")]:
                del os.environ[variable]  # its settings read all of them, and one may be what it refuses
            continue
        if reason is not None:
            log.warning("W&B cannot be used (%s); this run is %s and training goes on", reason, attempt)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return run
    raise RuntimeError(f"W&B cannot even be disabled ({reason}); set logger=csv")


def _mode(mode: str) -> tuple[str, str | None]:
    """(online, offline or disabled, why not as the environment says); what W&B would refuse leaves the environment."""
    given, key = os.environ.get("WANDB_MODE"), os.environ.get("WANDB_API_KEY")
    reason = None
    if given is not None and given not in MODES:
        reason = f"WANDB_MODE is one of {', '.join(MODES)}, got '{given}'"
        del os.environ["WANDB_MODE"]
    if key is not None and not key.strip():
        reason = reason or "WANDB_API_KEY is empty"
        del os.environ["WANDB_API_KEY"]
    if reason is not None and mode != "disabled":
        return "offline", reason
    if mode != "auto":
        return mode, None
    if given is not None:
        return MODES[given], None
    netrc = Path.home() / ".netrc"
    has_key = key is not None or (netrc.exists() and "wandb" in netrc.read_text())
    return ("online" if has_key else "offline"), None


def _stable_id(path: Path) -> str:
    """The id in the file, made once even where several ranks ask together."""
    mine = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_errors(mine):
        mine.write_text(os.urandom(4).hex())
    try:
        os.link(mine, path)
    except FileExistsError:
        pass
    finally:
        mine.unlink()
    return path.read_text().strip()
