"""Mean and covariance from other projects' files: ADM's and EDM's ``.npz``, EDM2's ``.pkl``.

Known layouts: ``mu`` and ``sigma`` of Inception's 2048 features (EDM; Dhariwal & Nichol 2021 add ``mu_s`` and
``sigma_s`` of the spatial features), or in a pickle the same below ``fid``.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.evaluation.metrics.frechet import Statistics
from diffusion.files import sha256_of

_ARRAYS_ONLY = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("_codecs", "encode"),  # bytes in old pickles
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS_ONLY:
            raise ValueError(f"it refers to {module}.{name}, and only arrays are read from a pickle")
        return super().find_class(module, name)


def external(path: Path, features: str, spatial: str) -> tuple[dict[str, Statistics], dict[str, Any]]:
    """{layer: statistics} under the extractor's names of the two layers, and their provenance.

    Raises:
        ValueError: not a file of that kind, or arrays of the wrong shape or with values that are not finite.
    """
    found = _arrays(path)
    out = {}
    for layer, mu, sigma in ((features, "mu", "sigma"), (spatial, "mu_s", "sigma_s")):
        if mu in found and sigma in found:
            out[layer] = _checked(path, mu, np.asarray(found[mu]), np.asarray(found[sigma]))
    if not out:
        raise ValueError(f"{path} has no arrays 'mu' and 'sigma'; it has {', '.join(sorted(found)) or 'none'}")
    return out, {"file": path.name, "sha256": sha256_of(path), "arrays": sorted(found)}


def _arrays(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if name in ("mu", "sigma", "mu_s", "sigma_s")}
        with open(path, "rb") as stream:
            found = _Unpickler(stream).load()
    except (OSError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no file of statistics that can be read safely: {error}") from error
    found = found.get("fid", found) if isinstance(found, dict) else {}
    return {str(name): value for name, value in found.items() if isinstance(value, np.ndarray)}


def _checked(path: Path, name: str, mu: np.ndarray, sigma: np.ndarray) -> Statistics:
    fits = mu.ndim == 1 and sigma.shape == (len(mu), len(mu)) and mu.dtype.kind == sigma.dtype.kind == "f"
    if not fits or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(
            f"'{name}' of {path} is no mean (D,) with a covariance (D, D) of finite floats: "
            f"got {mu.dtype} {mu.shape} and {sigma.dtype} {sigma.shape}"
        )
    return Statistics(mu, sigma)
