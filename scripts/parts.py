"""Writes the README's table of parts from the files in conf/.

python scripts/parts.py
python scripts/parts.py check
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- parts: made by scripts/parts.py -->\n", "<!-- parts end -->\n"
FIRST = (
    "data", "module", "schedule", "parameterization", "objective", "objective/weighting", "objective/time_distribution",
    "objective/pairs", "objective/metric", "objective/solve", "network", "network/outputs", "conditioner",
    "text_encoder", "autoencoder", "augmentation", "sampler", "operator", "spacing", "guidance", "ema", "optimizer",
    "lr_scheduler", "evaluation", "evaluation/metric", "evaluation/likelihood", "callbacks", "logger", "trainer",
    "debug", "experiment",
)  # fmt: skip
"""Rooms in the order of conf/train.yaml; others follow by name."""
HIDDEN = ("hydra", "paths", "guidance/")


def table(conf: Path) -> str:
    """A row for each group of ``conf``: its name and its options."""
    groups: dict[str, list[str]] = {}
    for file in conf.glob("*/**/[!_]*.yaml"):
        group = file.parent.relative_to(conf).as_posix()
        if not group.startswith(HIDDEN):
            groups.setdefault(group, []).append(file.stem)
    order = sorted(groups, key=lambda group: (FIRST.index(group) if group in FIRST else len(FIRST), group))
    rows = [f"| `{group}` | {' '.join(sorted(groups[group]))} |" for group in order]
    return "\n".join(["| room | members |", "|---|---|", *rows]) + "\n"


def with_table(page: str, conf: Path) -> str:
    """The page with the table between its two marks.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected the marks {BEGIN.strip()} and {END.strip()}, each on a line; put them back")
    return before + begin + "\n" + table(conf) + "\n" + end + after


def main(words: list[str], root: Path = ROOT) -> int:
    """The exit code: 1 where ``check`` finds an old table, 2 for wrong input."""
    readme = root / "README.md"
    if words not in ([], ["check"]):
        print(f"error: expected nothing, or check, got {' '.join(words)}", file=sys.stderr)
        return 2
    page = readme.read_text(encoding="utf-8")
    try:
        new = with_table(page, root / "conf")
    except ValueError as error:
        print(f"error: {readme}: {error}", file=sys.stderr)
        return 2
    if words and new != page:
        print("README.md has an old table of parts; run python scripts/parts.py", file=sys.stderr)
        return 1
    if not words:
        readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
