"""A W&B workspace for a sweep: losses per noise level, quality against cost, sample grids, parallel coordinates.

python scripts/workspace.py outputs/demo entity=me
python scripts/workspace.py outputs/demo save=false output=workspace.json

Needs `pip install 'alphabar[workspace]'`; saving needs `wandb login`.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from diffusion.errors import ReportError
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.run.status import read_status
from diffusion.files import write_atomic
from diffusion.reporting import options
from diffusion.reporting.runs import find
from diffusion.reporting.table import compare
from diffusion.reporting.workspace import build, logged_in, model


def run(folders: list[Path], settings: dict[str, Any]) -> None:
    runs, _ = find(folders, read_status)
    name = settings["name"] or folders[0].resolve().name
    workspace = build(
        compare(runs), name, project=settings["project"], entity=settings["entity"], group=settings["group"] or name
    )
    if settings["output"]:
        write_atomic(Path(settings["output"]), model(workspace))
    console = Console()
    if settings["save"] and not logged_in():
        raise ReportError("not logged in to W&B: run `wandb login` first, or add save=false output=<file>")
    if settings["save"] and not settings["entity"]:
        raise ReportError("a workspace belongs to somebody; add entity=<your W&B user or team>")
    if settings["save"]:
        workspace.save()
        console.print(workspace.url, markup=False, highlight=False)
    else:
        console.print(f"{len(workspace.sections)} sections, not saved", markup=False, highlight=False)


def main() -> None:
    options.run(run, __doc__, CONF / "workspace.yaml")
