"""Compares runs, here or copied from elsewhere: a table, its files, and one page to look at. No server, no torch.

python scripts/compare.py outputs/demo
python scripts/compare.py outputs/demo outputs/other output=comparison
python scripts/compare.py copied/wandb
python scripts/compare.py outputs/demo 'columns=[sampler.steps:steps,fid_50k:FID]' 'plot=[sampler.steps,sampler]'
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from diffusion.errors import ReportError
from diffusion.experiment.config.folder import CONF
from diffusion.experiment.run.status import read_status
from diffusion.files import write_atomic
from diffusion.reporting import options, text
from diffusion.reporting.page import page
from diffusion.reporting.paper_files import write
from diffusion.reporting.paper_items import of_comparison
from diffusion.reporting.runs import find
from diffusion.reporting.table import compare, over_seeds


def run(folders: list[Path], settings: dict[str, Any]) -> None:
    runs, notes = find(folders, read_status)
    runs = [run for run in runs if settings["filter"] in str(run.folder)]
    if not runs:
        raise ReportError(f"filter={settings['filter']} leaves no run; leave it out")
    table = compare(runs, notes)
    groups = over_seeds(table)
    output = Path(settings["output"] or folders[0] / "compare")
    shown = groups or table
    title = settings["title"] or " and ".join(str(folder) for folder in folders)
    items = of_comparison(shown, grouped=groups is not None)
    said, files = write(items, settings["columns"], settings["plot"], output / "table", output / "plot")
    write_atomic(output / "runs.csv", text.as_csv(table))
    write_atomic(output / "index.html", page(table, groups, title))
    console = Console()
    over = " (mean ± standard deviation over seeds)" if groups else ""
    console.print(text.for_terminal(shown, f"{title}: {len(runs)} runs{over}", console.width, settings["rows"]))
    for note in said:
        console.print(f"* {note}", markup=False, highlight=False)
    names = ", ".join(["index.html", "runs.csv", *(path.name for path in files)])
    console.print(f"{output}: {names}", markup=False, highlight=False)


def main() -> None:
    options.run(run, __doc__, CONF / "compare.yaml")
