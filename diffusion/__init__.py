r"""Diffusion experiments from config. The notation, the same in every file:

========== =================================================================================================
symbol     meaning
========== =================================================================================================
t, s       time in [0, 1], 0 = data, 1 = noise; s < t is a later point of sampling
x, x0, eps the state x_t (B, ...), the data x_0, standard normal noise; x_t = alpha(t) x_0 + sigma(t) eps
alpha      signal scale of the level, sqrt(alpha-bar) for a DDPM table
sigma      noise scale of the level, sqrt(1 - alpha-bar) for a DDPM table
noise      sigma / alpha, EDM's sigma: the schedule-free coordinate
lam        log(alpha / sigma), half the log-SNR; log_snr = 2 lam
v          alpha eps - sigma x_0, the velocity target
T          number of betas of a discrete table; index i of DDPM stands at t = (i + 1) / T
cur, nxt   the level that a sampler step leaves, and the one that it reaches
cond       the condition, one slot a mechanism
NFE        calls of the network for one sample, guidance included
========== =================================================================================================
"""

__version__ = "0.2.0"
__all__ = ["load", "results"]


def __getattr__(name: str) -> object:
    """:func:`load` and :func:`results` without the price of torch and pandas for everybody who imports the package."""
    if name == "load":
        from diffusion.experiment.build.load import load

        return load
    if name == "results":
        from diffusion.experiment.run.results import results

        return results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
