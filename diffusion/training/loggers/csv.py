"""metrics.csv: one row a step, a column a metric, kept over resumptions; the plain truth that comparisons read."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from diffusion.files import disk_errors, replacing


class MetricsCSV(Logger):
    """Appends to ``<save_dir>/metrics.csv``; the first column is ``step``.

    A resumed run drops the rows that lie after the first step that it logs, and goes on. The file is rewritten only
    when a new column appears, and then beside its place and moved there.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._path = Path(save_dir) / "metrics.csv"
        self._rows: list[dict[str, Any]] | None = None
        self._columns: list[str] = ["step"]

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run folder holds the configuration; nothing to add here."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        rows = self._load(step or 0)
        row = rows[-1] if rows and rows[-1]["step"] == step else None
        new_columns = [name for name in metrics if name not in self._columns]
        if row is None:
            rows.append({"step": step, **metrics})
        else:
            row.update(metrics)
        if row is not None or new_columns or not self._path.exists():
            self._columns += new_columns
            self._rewrite(rows)
        else:
            with disk_errors(self._path), self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(rows[-1])

    def _load(self, step: int) -> list[dict[str, Any]]:
        if self._rows is None:
            self._rows = []
            if self._path.exists():
                with self._path.open(newline="") as file:
                    reader = csv.DictReader(file)
                    kept = [row for row in reader if row["step"] and int(row["step"]) <= step]
                    self._columns = list(reader.fieldnames or ["step"])
                self._rows = [{**row, "step": int(row["step"])} for row in kept]
                self._rewrite(self._rows)
        return self._rows

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        with replacing(self._path, inside=self._path.parent) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
