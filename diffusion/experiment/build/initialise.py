"""A training that starts from the weights of another run."""

from __future__ import annotations

from torch import nn

from diffusion.errors import ConfigError
from diffusion.experiment.build.load import PREFIX, part_of, read_checkpoint, run_folder
from diffusion.experiment.run.saved_config import checkpoint_path


def initialise(model: nn.Module, run: str, checkpoint: str = "last", weights: str = "ema") -> str:
    """Copies what fits of a run's weights into ``model`` -> one line that says what did and what did not.

    Raises:
        ConfigError: no run folder, no such checkpoint, or nothing that fits.
    """
    if weights not in PREFIX:
        raise ConfigError(f"initial.weights is ema or raw, got {weights!r}")
    path = checkpoint_path(run_folder(run, checkpoint, "initial"), checkpoint)
    theirs, mine = part_of(read_checkpoint(path)["state_dict"], PREFIX[weights]), model.state_dict()
    fits = {name: value for name, value in theirs.items() if name in mine and mine[name].shape == value.shape}
    if not fits:
        raise ConfigError(f"initial.run={run}: none of its {len(theirs)} tensors fits this model; choose another run")
    model.load_state_dict({**mine, **fits})
    new, unused = sorted(mine.keys() - fits.keys()), sorted(theirs.keys() - fits.keys())
    return (
        f"{len(fits)} of {len(mine)} tensors start from {path}; new: {', '.join(new) or 'none'}; "
        f"not used: {', '.join(unused) or 'none'}"
    )
