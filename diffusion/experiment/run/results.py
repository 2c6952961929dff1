"""``diffusion.results``: runs as a pandas table, without torch."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion.experiment.run.status import read_status
from diffusion.reporting.frame import frame
from diffusion.reporting.runs import find

if TYPE_CHECKING:
    import pandas


def results(folder: str | os.PathLike[str], *more: str | os.PathLike[str]) -> pandas.DataFrame:
    """All runs below the folders: one row a run and evaluation, or a run without one.

    Columns, in this order where a row has them:

    * ``run``, ``status``, ``run_folder``, ``evaluation_folder`` (paths as text);
    * ``protocol``: equal where the numbers of two rows may be compared, ``protocol_likelihood`` for bits per dimension;
    * every key of the run's resolved config, dotted (``network.channels``, ``sampler._target_``), lists as tuples;
      these are the training's, and those that drew the scored samples are ``fingerprint.samples.sampler.steps`` ...;
    * every metric under its name, ``real.<metric>`` of as many real images, and the whole record of what the numbers
      depend on and cost, dotted, below ``fingerprint.``.

    What cannot be read is left out with a warning.

    Raises:
        ReportError: a folder that does not exist, or no runs in any of them.
    """
    runs, notes = find([Path(folder), *map(Path, more)], read_status)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return frame(runs)
