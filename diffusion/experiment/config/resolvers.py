"""The OmegaConf resolvers that configs may use. Registered once, before anything is composed."""

from __future__ import annotations

import json
import os
import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.process.ranks import shared_id

DRIVER, PROCESSOR = Path("/proc/driver/nvidia/version"), Path("/proc/cpuinfo")
"""Where Linux tells of GPUs and processors; elsewhere neither exists and the answer is float32."""


def register() -> None:
    """``${run_id:}`` a new run's folder name, kept for the life of a config; ``${choice:room}`` the option chosen;
    ``${run_name:<folder>}`` what a person calls the run; ``${precision:}`` this machine's;
    ``${divided:a,b}`` how often b fits into a; ``${needed:role}`` the run folder of ``needs.<role>``;
    ``${halving:...}`` the need of one halving (:func:`halving`);
    ``${lookup:a,{1:x,2:y},z}`` what a table has at a, else z."""
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("choice", choice, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("precision", precision, replace=True)
    OmegaConf.register_new_resolver("divided", divided, replace=True)
    OmegaConf.register_new_resolver("needed", needed, replace=True)
    OmegaConf.register_new_resolver("halving", halving, replace=True)
    OmegaConf.register_new_resolver("lookup", lookup, replace=True)


def choice(group: str) -> str | None:
    """``${choice:guidance}``: the option chosen for a group, ``several`` for a list of them, ``null`` for none."""
    chosen = HydraConfig.get().runtime.choices
    option = chosen.get(group, "several")  # Hydra leaves lists out
    return None if option is None else str(option)


def run_id() -> str:
    """Sorts by time and never meets another: 20260131-235959-4f1c; one for all ranks that were started together."""
    if (shared := shared_id()) is not None:
        return shared
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def precision() -> str:
    """bf16-mixed where there is a GPU, or a processor with bf16 products; else 32-true. Found without torch.

    On such processors bf16 is what makes a step faster: rows 3 and 9 of ``python -m benchmarks``.
    """
    gpu = DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")
    return "bf16-mixed" if gpu or multiplies_bf16() else "32-true"


def multiplies_bf16() -> bool:
    """Whether the processor has bf16 products; without them torch emulates, many times slower than float32."""
    try:
        flags = re.findall(r"^(?:flags|Features)\s*:(.*)$", PROCESSOR.read_text(encoding="utf-8"), re.M)[:1]
    except OSError:
        return False
    return bool(flags) and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags[0].split())


def divided(a: int, b: int) -> int:
    """floor(a / b); a itself where that is undefined, which a check of a or b refuses."""
    return a // b if isinstance(a, int) and isinstance(b, int) and b else a


def needed(role: str, *, _root_: DictConfig) -> str:
    """``${needed:weak}``: the run folder of ``needs.weak``; its identity where that stands in its place.

    Raises:
        ConfigError: there is no such need.
    """
    needs = _root_.get("needs") or {}
    if role not in needs:
        raise ConfigError(f"${{needed:{role}}} is no run yet; set needs.{role}=[<overrides of the training>]")
    need = needs[role]
    if OmegaConf.is_list(need):
        return f"<run folder of needs.{role}>"
    return str(need.run) if OmegaConf.is_dict(need) else str(need)


def halving(steps: Any, first: Any, start: str, stage: str, seed: Any) -> list[str]:
    """``${halving:${objective.teacher_steps},32,a,b,${seed}}``: what trains the teacher of a progressive distillation.
    That is experiment ``a`` where it takes ``first`` steps, and otherwise the halving before, of experiment ``b``; none
    of them is scored.

    Raises:
        ConfigError: steps at which no halving of ``first`` arrives.
    """
    chain = [first // 2**k for k in range(32) if first % 2**k == 0 and first // 2**k > 1]
    if steps not in chain:
        raise ConfigError(
            f"a chain of halvings from {first} steps has teachers of {', '.join(map(str, chain))} steps, got {steps}; "
            "set objective.teacher_steps to one of them"
        )
    if steps == first:
        return [f"experiment={start}", "evaluation=none", f"seed={seed}"]
    return [f"experiment={stage}", f"objective.teacher_steps={2 * steps}", "evaluation=none", f"seed={seed}"]


def lookup(key: Any, table: Any, otherwise: Any) -> Any:
    """``${lookup:${objective.teacher_steps},{2:100000,4:100000},50000}``: the entry of a table, or another value."""
    return table.get(key, otherwise)


def task_overrides() -> list[str]:
    """The running job's overrides as they were given, references not followed."""
    if not HydraConfig.initialized():
        return []
    lines: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)
    return [str(line) for line in lines]


def run_name(folder: str | None) -> str:
    """What is special about a run: a sweep's cell by its swept values, another by its overrides, else its folder."""
    run = Path(folder or "run")  # --cfg job has no folder yet
    try:
        words = json.loads((run.parent / "sweep.json").read_text(encoding="utf-8"))["cells"][run.name]
    except (OSError, ValueError, KeyError):
        given = task_overrides()
        words = [word for word in given if not word.startswith(("name=", "paths.", "logger", "resume="))]
    text = " ".join(words) or run.name
    return text if len(text) <= 120 else f"{text[:119]}…"
