"""The scheduler of diffusers that draws as a run's sampler does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffusion.errors import ConfigError
from diffusion.model import DiffusionModel
from diffusion.pretrained.diffusers_scheduler import TABLES, TARGETS
from diffusion.schedule.base import DiscreteSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.schedule.zero_snr import ZeroSNRSchedule

NAMES = {option: name for name, option in TABLES.items()}
PREDICTIONS = {option: name for name, option in TARGETS.items()}
SPACINGS = {"uniform": "leading", "trailing": "trailing"}


def option(node: Mapping[str, Any]) -> str:
    """The file that a node's class is in, which is the name of its option: linear, epsilon, trailing."""
    return str(node["_target_"]).split(".")[-2]


def scheduler_config(model: DiffusionModel, config: Mapping[str, Any]) -> dict[str, Any]:
    """``scheduler_config.json`` of the scheduler that steps as the run's sampler: DDPM's for the ancestral one, DDIM's,
    PNDM's, Euler's (its ancestral one where DDIM's eta is 1), Heun's, DPM-Solver++'s, rectified flow's for Euler, and
    for the consistency sampler that of consistency models on EDM's noise and that of latent consistency on a table.

    Raises:
        ConfigError: a schedule, a target, a sampler or a spacing that these do not have.
    """
    schedule, target, sampler = model.schedule, option(config["parameterization"]), option(config["sampler"])
    scale = float(config["module"]["model"]["denoiser"].get("time_scale", 1.0))
    if sampler == "consistency" and isinstance(schedule, EDMSchedule):
        return _consistency(model, config, target, scale)
    if isinstance(schedule, FlowSchedule) and target == "flow" and scale == 1:
        return _flow(schedule, config["sampler"])
    if not isinstance(schedule, DiscreteSchedule) or target not in PREDICTIONS or scale != 1:
        raise ConfigError(
            f"schedulers of diffusers are written for tables of betas with the targets {', '.join(PREDICTIONS)}, and "
            f"for rectified flow, not for {type(schedule).__name__} with {target}; use format=safetensors"
        )
    table = schedule.table if isinstance(schedule, ZeroSNRSchedule) else schedule
    name = option(config["schedule"]["table"] if isinstance(schedule, ZeroSNRSchedule) else config["schedule"])
    known = name in NAMES and (name != "cosine" or (table.s, table.beta_max) == (0.008, 0.999))  # type: ignore[attr-defined]
    found: dict[str, Any] = {
        "num_train_timesteps": table.steps,
        "beta_schedule": NAMES.get(name, "linear"),
        "beta_start": getattr(table, "beta_start", 1e-4),
        "beta_end": getattr(table, "beta_end", 0.02),
        "trained_betas": None if known else table.betas.tolist(),
        "prediction_type": PREDICTIONS[target],
        **_stepped(sampler, config["sampler"], config["guidance"].get("clip"), table.betas),
    }
    zero = isinstance(schedule, ZeroSNRSchedule)
    if zero and found["_class_name"] in NEVER_ZERO:
        raise ConfigError(
            f"{found['_class_name']} of diffusers has no terminal SNR of zero; import or train with sampler=ddim, or "
            "use format=safetensors"
        )
    return {**found, **({} if found["_class_name"] in NEVER_ZERO else {"rescale_betas_zero_snr": zero})}


NEVER_ZERO = ("PNDMScheduler", "HeunDiscreteScheduler")
CLASSES = {"ancestral": "DDPMScheduler", "ddim": "DDIMScheduler", "pndm": "PNDMScheduler",
           "euler": "EulerDiscreteScheduler", "heun": "HeunDiscreteScheduler",
           "dpm_solver_pp_2m": "DPMSolverMultistepScheduler", "consistency": "LCMScheduler"}  # fmt: skip
"""By the file of the sampler's class."""


def _stepped(sampler: str, node: Mapping[str, Any], clip: Mapping[str, Any] | None, betas: Tensor) -> dict[str, Any]:
    """The class of a scheduler on a table, and what depends on it."""
    ancestral = sampler == "ddim" and node["eta"] == 1
    name = "EulerAncestralDiscreteScheduler" if ancestral else CLASSES.get(sampler, "")
    final, prior = node.get("final", "clean") == "clean", node.get("prior", "schedule")
    if name == "LCMScheduler":
        return _latent_consistency(node, clip, len(betas))
    indexed = name in ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
    wrong = {
        "eta": sampler == "ddim" and node["eta"] not in (0, 1),
        "start": node.get("start") == "runge_kutta",
        "churn": bool(node.get("churn", 0)),
        "final": not indexed and not final,
        "prior": indexed and prior != "schedule",
    }
    if not name or any(wrong.values()):
        said = ", ".join(f"{key}={node[key]}" for key, there in wrong.items() if there)
        raise ConfigError(
            f"the run samples with {sampler}{' and ' if said else ''}{said}, and {', '.join(CLASSES)} (without churn, "
            "final=clean but for ddim and pndm, eta 0 or 1) have a scheduler in diffusers that is written here; train "
            "or import with such a sampler"
        )
    spaced = _spaced(sampler, node) if indexed else _sigmas(sampler, node, prior, betas)
    if clip is not None and name not in ("DDPMScheduler", "DDIMScheduler"):
        raise ConfigError(f"{name} of diffusers clips nothing, and the run samples with guidance=clip; leave it out")
    clipped = {"clip_sample": clip is not None, "clip_sample_range": 1.0 if clip is None else float(clip["high"])}
    more: dict[str, dict[str, Any]] = {
        "DDIMScheduler": {**clipped, "thresholding": False, "set_alpha_to_one": final},
        "PNDMScheduler": {"skip_prk_steps": True, "set_alpha_to_one": final},
        "DPMSolverMultistepScheduler": {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint",
                                        "lower_order_final": True, "final_sigmas_type": "zero"},
    }  # fmt: skip
    if sampler == "ancestral":
        variance = str(node["variance"])
        named = {"learned": "learned_range"}.get(variance, f"fixed_{variance}")
        more["DDPMScheduler"] = {**clipped, "thresholding": False, "variance_type": named}
    return {"_class_name": name, **spaced, **more.get(name, {})}


def _spaced(sampler: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Steps that are indices of the table."""
    own = node.get("spacing") or {"_target_": "spacing.trailing.TrailingSpacing"}
    if (spacing := option(own)) not in SPACINGS:
        raise ConfigError(
            f"the run samples with {sampler} and spacing={spacing}, and its scheduler in diffusers has "
            f"{' and '.join(SPACINGS)}; train or import with one of them"
        )
    return {"timestep_spacing": SPACINGS[spacing], "steps_offset": int(own.get("offset", 0))}


def _sigmas(sampler: str, node: Mapping[str, Any], prior: str, betas: Tensor) -> dict[str, Any]:
    """Schedulers in sigma / alpha: each of their spacings starts from a noise of its own."""
    own = node.get("spacing") or {"_target_": "spacing.trailing.TrailingSpacing"}
    spacing, free = option(own), sampler == "dpm_solver_pp_2m"  # that one starts from N(0, 1)
    kinds = {"uniform": ("leading", "schedule"), "trailing": ("trailing", "noise"), "linspace": ("linspace", "noise"),
             "karras": ("leading" if prior == "schedule" and not free else "linspace", prior)}  # fmt: skip
    kind, due = kinds.get(spacing, ("", prior))
    ends = ((1 - betas).cumprod(0).reciprocal() - 1).sqrt()
    inside = spacing != "karras" or (own["noise_min"] <= float(ends[0]) and own["noise_max"] >= float(ends[-1]))
    if not kind or own.get("rounded") or own.get("rho", 7.0) != 7.0 or not inside or (due != prior and not free):
        raise ConfigError(
            f"the run samples with {sampler}, spacing={spacing} and prior={prior}, and its scheduler in diffusers has "
            "uniform with prior=schedule, trailing or linspace (spacing.rounded=false) with prior=noise, and karras "
            "over the whole table with rho 7; train or import with one of them"
        )
    found = {"timestep_spacing": kind, "steps_offset": int(own.get("offset", 0))}
    return {**found, "use_karras_sigmas": spacing == "karras"} if sampler != "ddim" else found


def _flow(schedule: FlowSchedule, node: Mapping[str, Any]) -> dict[str, Any]:
    """Its last step begins at 0.001, shifted twice."""
    shift, spacing = schedule.shift, node["spacing"]
    end = shift * 0.001 / (1 + (shift - 1) * 0.001)
    spaced = option(spacing) == "linspace" and math.isclose(spacing["end"], end, rel_tol=1e-6)
    if option(node) != "euler" or node["churn"] or not spaced:
        raise ConfigError(
            f"rectified flow is sampled in diffusers by Euler's steps with spacing=linspace spacing.end={end:.6g}, and "
            f"this run by {option(node)} and {option(spacing)}; train or import with them"
        )
    return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": shift}


POINTS = 841
"""Of the grid of consistency models' scheduler: its even strides of 1 to 8 steps, and of other divisors of 840, are
those of spacing=trailing."""
NEVER = 1e4
"""LCM's scheduler mixes 0.25 / ((scale index)^2 + 0.25) of x into the prediction: with this scale nothing from index 1
on, as here."""


def _consistency(model: DiffusionModel, config: Mapping[str, Any], target: str, scale: float) -> dict[str, Any]:
    """Its timesteps are points of a grid that is even in sigma^(1 / rho), as the times of EDM's schedule are."""
    name, own, schedule, sampler = (
        "CMStochasticIterativeScheduler",
        config["parameterization"],
        model.schedule,
        model.sampler,
    )
    assert isinstance(schedule, EDMSchedule)
    assert sampler is not None
    clip, least = config["guidance"].get("clip"), float(own.get("sigma_min", 0.0))
    times = [level.t for level in sampler.levels(schedule)[:-1]]
    wrong = {
        f"the target consistency or edm, and this is {target}": target not in ("consistency", "edm"),
        f"time_scale=1000 (it gives the network 250 log sigma), and this is {scale:g}; train with "
        "module.model.denoiser.time_scale=1000": scale != 1000,
        f"one sigma_min, of its grid and where the data stay as they are, and these are {schedule.sigma_min:g} and "
        f"{least:g}; train with parameterization=consistency, or sample with one step": least != schedule.sigma_min
        and len(times) > 1,
        "a first step at sigma_max; begin sampler.times with 1": times[0] != 1,
        "a range of [-1, 1] that it clips to; set guidance.clip.low=-1 guidance.clip.high=1": clip is not None
        and (clip["low"], clip["high"]) != (-1, 1),
    }
    for what, there in wrong.items():
        if there:
            raise ConfigError(f"{name} of diffusers has {what}, or use format=safetensors")
    steps = len(times)
    if any(abs(t - (1 - k / steps)) > 1e-9 for k, t in enumerate(times)) or (POINTS - 1) % steps:
        raise ConfigError(
            f"the run samples at the times {', '.join(f'{t:.4g}' for t in times)}, and {name} of diffusers is written "
            f"here for even ones (spacing=trailing) of a number that divides {POINTS - 1}; export another number of "
            "steps, or use format=safetensors"
        )
    return {
        "_class_name": name,
        "num_train_timesteps": POINTS,
        "sigma_min": least,
        "sigma_max": schedule.sigma_max,
        "sigma_data": float(own["sigma_data"]),
        "rho": schedule.rho,
        "s_noise": 1.0,
        "clip_denoised": clip is not None,
    }


def _latent_consistency(node: Mapping[str, Any], clip: Mapping[str, Any] | None, T: int) -> dict[str, Any]:
    """Steps at even indices of the table, noised anew."""
    steps = int(node["steps"])
    even = node.get("times") is None and option(node.get("spacing") or {"_target_": "spacing.trailing."}) == "trailing"
    if not even or T % steps:
        raise ConfigError(
            f"the run samples with consistency at times that LCMScheduler of diffusers does not have: it has those of "
            f"spacing=trailing, of a number of steps that divides {T}; train with them, or use format=safetensors"
        )
    return {
        "_class_name": "LCMScheduler",
        "original_inference_steps": T,
        "timestep_scaling": NEVER,
        "set_alpha_to_one": True,
        "clip_sample": clip is not None,
        "clip_sample_range": 1.0 if clip is None else float(clip["high"]),
    }
