"""A W&B workspace for a sweep, built from what its runs have in common. No server is contacted before saving."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from diffusion.errors import ReportError
from diffusion.reporting.table import NFE, SECONDS, Table

STEP = "trainer/global_step"


def build(table: Table, name: str, *, project: str, entity: str | None, group: str) -> Any:
    """A ``wandb_workspaces.workspaces.Workspace`` of the runs of ``group``.

    Raises:
        ReportError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise ReportError("wandb-workspaces is not installed; pip install 'alphabar[workspace]'") from None
    curves = list(dict.fromkeys(name for row in table.rows for name in row.run.curves))
    kinds = ("loss", "unweighted_loss")
    levels: dict[str, Any] = {
        f"{part} {kind.replace('_', ' ')}": sorted(c for c in curves if c.startswith(f"{part}/{kind}_t/"))
        for part in ("train", "val")
        for kind in kinds
    }
    scores = [m for m in table.metrics if m not in (NFE, SECONDS) and "/" not in m and "[" not in m]
    swept = [key for key in table.settings if not key.startswith("evaluation")]
    losses = [c for c in (f"{part}/{kind}" for kind in kinds for part in ("train", "val")) if c in curves]
    sections = [
        ws.Section(
            name="Loss",
            is_open=True,
            panels=[
                *(wr.LinePlot(title=loss, x=STEP, y=[loss], log_y=True) for loss in losses),
                *(
                    wr.LinePlot(title=f"{part} per noise level", x=STEP, y=names, log_y=True)
                    for part, names in levels.items()
                    if names
                ),
            ],
        ),
        ws.Section(
            name="Quality",
            is_open=True,
            panels=[
                *(wr.BarPlot(title=score, metrics=[f"evaluation/{score}"]) for score in scores),
                *(
                    wr.ScatterPlot(title=f"{score} against {what}", x=x, y=_summary(wr, score))
                    for score in scores[:1]
                    for what, x in (
                        ("steps", wr.Config("sampler.steps")),
                        ("network calls", wr.SummaryMetric("cost/nfe_per_sample")),
                    )
                ),
            ],
        ),
        ws.Section(name="Samples", is_open=True, panels=[wr.MediaBrowser(media_keys=["samples"], num_columns=4)]),
    ]
    if swept and scores:
        columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(_path(key, table))) for key in swept]
        columns += [wr.ParallelCoordinatesPlotColumn(metric=_summary(wr, score)) for score in scores[:2]]
        sections.append(
            ws.Section(name="Swept settings", is_open=True, panels=[wr.ParallelCoordinatesPlot(columns=columns)])
        )
    return ws.Workspace(
        entity=entity or "",
        project=project,
        name=name,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(filters=ws.And(ws.Metric("Group") == group)),
    )


def model(workspace: Any) -> str:
    """The workspace as JSON, in the form that is uploaded."""
    return json.dumps(workspace._to_model().model_dump(mode="json", by_alias=True), indent=1) + "\n"


def logged_in() -> bool:
    """Whether W&B finds an API key."""
    netrc = Path.home() / ".netrc"
    return "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8"))


def _summary(wr: Any, score: str) -> Any:
    return wr.SummaryMetric(f"evaluation/{score}")


def _path(key: str, table: Table) -> str:
    """A setting's key in W&B's config: a part's own choice is its class."""
    part = any(name.startswith(f"{key}.") for row in table.rows for name in row.settings)
    return f"{key}._target_" if part else key
