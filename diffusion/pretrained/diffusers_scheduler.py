"""What a scheduler of diffusers decides: the table, the target, the spacing, what is clipped, and the sampler.

Every field of its config is honoured, known to change nothing here, or refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from diffusion.errors import ConfigError
from diffusion.pretrained.flags import Flags

TABLES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
TARGETS = {"epsilon": "epsilon", "v_prediction": "velocity", "sample": "x0"}
VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "fixed_large_log": "large",
             "learned": "learned", "learned_range": "learned"}  # fmt: skip
FLOW_ONLY = ("base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift", "time_shift_type")


def scheduler(config: Mapping[str, Any], latent: bool = False) -> dict[str, Any]:
    """The overrides that a ``scheduler_config.json`` stands for.

    latent: what is sampled are latents, which are not clipped where the config does not say so.

    Raises:
        ConfigError: a scheduler, or a field of one, that is not supported.
    """
    name = str(config.get("_class_name", ""))
    if name not in KINDS:
        raise ConfigError(f"the scheduler {name or 'of this folder'} is not supported; {', '.join(KINDS)} are")
    flags = Flags({k: v for k, v in config.items() if not k.startswith("_")}, f"the config of {name}")
    if name != "PNDMScheduler":  # left over from it in converted folders
        flags.ignore("skip_prk_steps", *(["set_alpha_to_one"] if name != "DDIMScheduler" else []))
    overrides = KINDS[name](flags, latent)
    flags.finish()
    return overrides


def _table(flags: Flags) -> dict[str, Any]:
    """The betas, rescaled to zero terminal SNR or not, and the target."""
    T = int(flags.get("num_train_timesteps", 1000))
    flags.only("beta_schedule", *TABLES)
    flags.only("trained_betas", None)
    flags.only("prediction_type", *TARGETS)
    kind = TABLES[flags.get("beta_schedule", "linear")]
    ends = {"beta_start": float(flags.get("beta_start", 1e-4)), "beta_end": float(flags.get("beta_end", 0.02))}
    rescaled = bool(flags.get("rescale_betas_zero_snr", False))
    node, first = ("schedule.table", {"schedule": "zero_snr", "schedule@schedule.table": kind}) if rescaled else (
        "schedule", {"schedule": kind})  # fmt: skip
    return {
        **first,
        f"{node}.T": T,
        **({} if kind == "cosine" else {f"{node}.{key}": value for key, value in ends.items()}),
        "parameterization": TARGETS[flags.get("prediction_type", "epsilon")],
    }


def _spacing(flags: Flags, usual: str, linspace: bool = False) -> dict[str, Any]:
    """linspace: it is supported; DDIM's, DDPM's and PNDM's steps there do not end where the next ones begin."""
    flags.only("timestep_spacing", "leading", "trailing", *(["linspace"] if linspace else []))
    kind, offset = flags.get("timestep_spacing", usual), int(flags.get("steps_offset", 0))
    if kind == "leading":
        return {"spacing": "uniform", "spacing.offset": offset}
    return {"spacing": kind}


def _clipped(flags: Flags, clips: bool, keep_eps: bool) -> dict[str, Any]:
    """Static or dynamic thresholds of the predicted x_0."""
    bound, highest = float(flags.get("clip_sample_range", 1.0)), float(flags.get("sample_max_value", 1.0))
    clips = bool(flags.get("clip_sample", clips))
    percentile = float(flags.get("dynamic_thresholding_ratio", 0.995))
    if flags.get("thresholding", False):
        return {
            "guidance": "dynamic_threshold",
            "guidance.dynamic_threshold.percentile": percentile,
            "guidance.dynamic_threshold.highest": highest,
            "guidance.dynamic_threshold.keep_eps": keep_eps,
        }
    if not clips:
        return {"guidance": "none"}
    own = {"low": -bound, "high": bound, "keep_eps": keep_eps}
    return {"guidance": "clip", **{f"guidance.clip.{key}": value for key, value in own.items()}}


def _ddpm(flags: Flags, latent: bool) -> dict[str, Any]:
    flags.only("variance_type", None, *VARIANCES)
    variance = VARIANCES[flags.get("variance_type", "fixed_small")]
    table = _table(flags)
    return {
        **table,
        "parameterization.learned_variance": variance == "learned",
        **_spacing(flags, "leading"),
        "sampler": "ancestral",
        "sampler.steps": table.get("schedule.T", table.get("schedule.table.T")),
        "sampler.variance": variance,
        **_clipped(flags, not latent, keep_eps=False),
    }


def _ddim(flags: Flags, latent: bool) -> dict[str, Any]:
    clean = bool(flags.get("set_alpha_to_one", True))
    return {
        **_table(flags),
        **_spacing(flags, "leading"),
        "sampler": "ddim",
        "sampler.steps": 50,
        "sampler.final": "clean" if clean else "first",
        **_clipped(flags, not latent, keep_eps=True),
    }


def _pndm(flags: Flags, latent: bool) -> dict[str, Any]:
    """As Stable Diffusion has it; its last level is the table's first."""
    flags.only("skip_prk_steps", True)
    flags.get("skip_prk_steps", True)
    clean = bool(flags.get("set_alpha_to_one", False))
    flags.ignore("clip_sample", "clip_sample_range")  # never read by that scheduler
    return {
        **_table(flags),
        **_spacing(flags, "leading"),
        "sampler": "plms",
        "sampler.steps": 50,
        "sampler.final": "clean" if clean else "first",
        "guidance": "none",
    }


def _sigmas(flags: Flags) -> dict[str, Any]:
    """Schedulers in sigma / alpha: the spacing, and the noise that they start from."""
    for key in ("use_exponential_sigmas", "use_beta_sigmas"):
        flags.only(key, False, None)
    for key in ("sigma_min", "sigma_max"):
        flags.only(key, None)
    flags.only("final_sigmas_type", "zero")
    flags.only("interpolation_type", "linear")
    flags.only("timestep_type", "discrete")
    leading = flags.values.get("timestep_spacing", "linspace") == "leading"
    own = _spacing(flags, "linspace", linspace=True)
    if flags.get("use_karras_sigmas", False):
        own = {"spacing": "karras"}
    elif own["spacing"] == "linspace":
        own["spacing.rounded"] = False
    return {**own, "sampler.prior": "schedule" if leading else "noise"}


def _solver(name: str) -> Callable[[Flags, bool], dict[str, Any]]:
    def read(flags: Flags, latent: bool) -> dict[str, Any]:
        table, sigmas = _table(flags), _sigmas(flags)
        sampler = {key: value for key, value in sigmas.items() if key.startswith("sampler.")}
        spacing = {key: value for key, value in sigmas.items() if not key.startswith("sampler.")}
        clip = _clipped(flags, False, keep_eps=False)
        return {**table, **spacing, "sampler": name, "sampler.steps": 50, **sampler, **clip}

    return read


def _dpm(flags: Flags, latent: bool) -> dict[str, Any]:
    flags.only("algorithm_type", "dpmsolver++")
    flags.only("solver_order", 2)
    flags.only("solver_type", "midpoint")
    flags.only("lower_order_final", True)
    flags.only("euler_at_final", False)
    flags.only("use_lu_lambdas", False)
    flags.only("use_flow_sigmas", False)
    flags.only("use_dynamic_shifting", False)
    flags.only("lambda_min_clipped", float("-inf"), None, "-Infinity")
    flags.only("variance_type", None)
    flags.ignore("flow_shift", "time_shift_type")  # of flow sigmas
    table, spacing = _table(flags), _sigmas(flags)
    spacing.pop("sampler.prior")  # this scheduler starts from N(0, 1)
    clip = _clipped(flags, False, keep_eps=False)
    return {**table, **spacing, "sampler": "dpm_solver_pp_2m", "sampler.steps": 25, **clip}


def _flow(flags: Flags, latent: bool) -> dict[str, Any]:
    for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting",
                "invert_sigmas", "stochastic_sampling"):  # fmt: skip
        flags.only(key, False, None)
    flags.only("num_train_timesteps", 1000)
    flags.only("shift_terminal", None)
    flags.ignore(*FLOW_ONLY)  # of dynamic shifting
    shift = float(flags.get("shift", 1.0))
    return {
        "schedule": "flow",
        "schedule.shift": shift,
        "parameterization": "flow",
        "spacing": "linspace",
        "spacing.end": shift * 0.001 / (1 + (shift - 1) * 0.001),  # its last sigma is shifted twice
        "sampler": "euler",
        "sampler.steps": 28,
        "guidance": "none",
    }


def _consistency(flags: Flags, latent: bool) -> dict[str, Any]:
    ends = {key: float(flags.get(key, usual)) for key, usual in (("sigma_min", 0.002), ("sigma_max", 80.0))}
    flags.only("s_noise", 1.0)
    flags.ignore("num_train_timesteps")  # of timesteps by number, which are times here
    clips = bool(flags.get("clip_denoised", True))
    return {
        "schedule": "edm",
        **{f"schedule.{key}": value for key, value in ends.items()},
        "schedule.rho": float(flags.get("rho", 7.0)),
        "parameterization": "consistency",
        "parameterization.sigma_data": float(flags.get("sigma_data", 0.5)),
        "parameterization.sigma_min": ends["sigma_min"],
        "module.model.denoiser.time_scale": 1000.0,
        "sampler": "consistency",
        "sampler.steps": 1,
        "guidance": "clip" if clips else "none",
    }


def _unclip(flags: Flags, latent: bool) -> dict[str, Any]:
    """Karlo's steps, from the last index to the first."""
    flags.only("beta_schedule", "squaredcos_cap_v2")
    flags.only("variance_type", *VARIANCES)
    flags.only("prediction_type", *TARGETS)
    variance = VARIANCES[flags.get("variance_type", "fixed_small_log")]
    return {
        "schedule": "cosine",
        "schedule.T": int(flags.get("num_train_timesteps", 1000)),
        "parameterization": TARGETS[flags.get("prediction_type", "epsilon")],
        "parameterization.learned_variance": variance == "learned",
        "spacing": "linspace",
        "sampler": "ancestral",
        "sampler.steps": 25,
        "sampler.variance": variance,
        **_clipped(flags, True, keep_eps=False),
    }


def exploding(low: float, high: float) -> dict[str, Any]:
    """Score SDE's variance-exploding process: images of [0, 1] there, of [-1, 1] here, where sigma is twice as large.

    The network reads log(sigma) of theirs. Levels are even in t between 1 and 1e-5.
    """
    return {
        "schedule": "geometric",
        "schedule.sigma_min": 2 * low,
        "schedule.sigma_max": 2 * high,
        "parameterization": "epsilon",
        "module.model.denoiser.time_scale": 4.0,
        "module.model.denoiser.time_shift": -math.log(2),  # c_noise is log(2 sigma) / 4
        "sampler": "predictor_corrector",
        "spacing": "linspace",
        "spacing.end": 1e-5,
        "guidance": "none",
    }


def _ve(flags: Flags, latent: bool) -> dict[str, Any]:
    ends = {key: float(flags.get(f"sigma_{key}", usual)) for key, usual in (("min", 0.01), ("max", 1348.0))}
    flags.ignore("tensor_format")  # of what its first version computed with
    return {
        **exploding(ends["min"], ends["max"]),
        "sampler.steps": int(flags.get("num_train_timesteps", 2000)),
        "sampler.corrections": int(flags.get("correct_steps", 1)),
        "sampler.snr": float(flags.get("snr", 0.15)),
        "spacing.end": float(flags.get("sampling_eps", 1e-5)),
    }


KINDS: Mapping[str, Callable[[Flags, bool], dict[str, Any]]] = {
    "DDPMScheduler": _ddpm,
    "DDIMScheduler": _ddim,
    "PNDMScheduler": _pndm,
    "EulerDiscreteScheduler": _solver("euler"),
    "EulerAncestralDiscreteScheduler": _solver("euler_ancestral"),
    "HeunDiscreteScheduler": _solver("heun"),
    "DPMSolverMultistepScheduler": _dpm,
    "FlowMatchEulerDiscreteScheduler": _flow,
    "CMStochasticIterativeScheduler": _consistency,
    "UnCLIPScheduler": _unclip,
    "ScoreSdeVeScheduler": _ve,
}
