"""The files of conf/network as plain values, with those of their bases."""

from pathlib import Path
from typing import Any

import yaml

NETWORKS = Path(__file__).parents[2] / "conf" / "network"


def settings_of(name: str) -> dict[str, Any]:
    """The keys of a file that are no references to other rooms, over those of its bases; without ``_target_``."""
    keys = yaml.safe_load((NETWORKS / f"{name}.yaml").read_text())
    bases = [base for base in keys.pop("defaults", []) if base != "_self_"]
    whole = {k: v for base in bases for k, v in settings_of(base).items()} | keys
    return {k: v for k, v in whole.items() if k != "_target_" and not str(v).startswith("${")}
