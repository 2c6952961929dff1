"""What the authors' code of posterior samplers is given, and how each is called: for restoration_authors.py.

Their modules are imported from their repositories, whose folders are named in each function.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor

from benchmarks.restoration_peers import NOISE, Problem
from diffusion.operator import DownsampleOperator, MaskOperator
from diffusion.sampler import DDIMSampler
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser

UNUSED = ("cv2", "motionblur", "motionblur.motionblur", "skimage", "skimage.metrics", "forward_operator")
"""What the authors' files import at their head and nothing here calls."""


class Peer:
    """What the authors' code is given: a network of eps on a table of its own, and A as a matrix and as functions.

    Index i of the table is level ``n - 1 - i`` of ours, so that both visit the same levels.
    """

    def __init__(self, denoiser: Denoiser, problem: Problem, conds: dict[int, Cond], code: Path) -> None:
        self.denoiser, self.problem, self.conds, self.code = denoiser, problem, conds, code
        self.levels = DDIMSampler(problem.steps).levels(denoiser.schedule)[:-1][::-1]
        self.cumprod = torch.tensor([level.alpha**2 for level in self.levels], dtype=torch.float64)
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.cumprod[:-1]])
        self.betas = 1 - self.cumprod / before

    def x0(self, x: Tensor, level: Level) -> Tensor:
        """E[x_0 | x] in the dtype of x (B, C, H, W)."""
        return self.denoiser(x.float(), level.t, self.conds[len(x)]).x0.to(x.dtype)

    def eps(self, x: Tensor, level: Level) -> Tensor:
        return (x - level.alpha * self.x0(x, level)) / level.sigma

    def network(self, x: Tensor, index: Tensor, *rest: Any) -> Tensor:
        """eps at an index of the table (B,)."""
        return self.eps(x, self.levels[int(index.flatten()[0])])

    def matrix(self) -> Tensor:
        """A of images as columns, without the rows of what is not measured."""
        shape = tuple(self.problem.noise.shape[1:])
        columns = self.problem.operator(torch.eye(math.prod(shape)).reshape(-1, *shape)).flatten(1)
        self.kept = columns.abs().sum(0) > 0
        return columns[:, self.kept].T.double()

    def pseudo_inverse(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        operator = self.problem.operator
        return operator.adjoint(operator.solve(y, 1.0, 0.0), shape)

    @contextlib.contextmanager
    def authors(self, folder: str) -> Iterator[None]:
        """Their modules can be imported, say nothing, and find the processor where they ask for a GPU."""
        place, known, move = str(self.code / folder), set(sys.modules), Tensor.to

        def to(tensor: Tensor, *where: Any, **more: Any) -> Tensor:
            device = where[0] if where else None
            on_gpu = isinstance(device, (str, torch.device)) and str(device).startswith("cuda")
            return tensor if on_gpu else move(tensor, *where, **more)

        absent = {}
        for name in UNUSED:
            with contextlib.suppress(ImportError):
                if name != "forward_operator":
                    importlib.import_module(name)
                    continue
            absent[name] = MagicMock()
        default = torch.get_default_dtype()
        try:
            sys.path.insert(0, place)
            sys.modules.update(absent)
            torch.set_default_dtype(torch.float64)
            with (
                patch.object(Tensor, "to", to),
                Path(os.devnull).open("w") as nowhere,
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
            ):
                yield
        finally:
            torch.set_default_dtype(default)
            sys.path.remove(place)
            for name in set(sys.modules) - known:
                origin = getattr(sys.modules[name], "__file__", None)
                if name in absent or (isinstance(origin, str) and origin.startswith(place)):
                    del sys.modules[name]


def ddrm(peer: Peer) -> Tensor:
    with peer.authors("ddrm"):
        steps = importlib.import_module("functions.denoising").efficient_generalized_steps
        singular = importlib.import_module("functions.svd_replacement").GeneralH(peer.matrix())
        y = peer.problem.y.flatten(1)[:, peer.kept].double()
        found, _ = steps(
            peer.problem.noise.double(), range(len(peer.levels)), peer.network, peer.betas, singular, y, NOISE,
            etaB=1.0, etaA=0.85, etaC=0.85,
        )  # fmt: skip
    return found[-1]


def ddnm(peer: Peer, plus: bool) -> Tensor:
    """eta = 0.85, without time travel, as its configurations for images of this kind."""
    count = len(peer.levels)
    config = SimpleNamespace(
        diffusion=SimpleNamespace(num_diffusion_timesteps=count),
        time_travel=SimpleNamespace(T_sampling=count, travel_length=1, travel_repeat=1),
    )
    with peer.authors("DDNM"):
        module = importlib.import_module("functions.svd_ddnm")
        functions = _decomposed(peer, importlib.import_module("functions.svd_operators"))
        y, x = peer.problem.y.flatten(1)[:, peer.kept].double(), peer.problem.noise.double()
        if plus:
            found, _ = module.ddnm_plus_diffusion(x, peer.network, peer.betas, 0.85, functions, y, NOISE, config=config)
        else:
            found, _ = module.ddnm_diffusion(x, peer.network, peer.betas, 0.85, functions, y, config=config)
    return found[0]


def _decomposed(peer: Peer, module: Any) -> Any:
    """DDNM's decomposition of A. Its blur is built of the matrix of a kernel on a line, here of one on a circle; two of
    its methods take three channels for granted."""
    operator, side, matrix = peer.problem.operator, peer.problem.noise.shape[-1], peer.matrix()
    if isinstance(operator, MaskOperator):
        return module.Inpainting(1, side, (~peer.kept).nonzero().flatten(), "cpu")
    if isinstance(operator, DownsampleOperator):
        return module.SuperResolution(1, side, operator.factor, "cpu")

    class Blur(module.Deblurring):
        A_pinv = module.A_functions.A_pinv

        def singulars(self) -> Tensor:
            values: Tensor = self._singulars
            return values

    circle = matrix.reshape(side, side, side, side).sum((1, 3))  # rows of A by their first place, columns too
    whole = torch.svd
    with patch.object(torch, "svd", lambda _, some: whole(circle / circle.sum(1, keepdim=True), some=some)):
        return Blur(torch.ones(3), 1, side, "cpu")


def dps(peer: Peer, method: str, scale: float) -> Tensor:
    """One image at a time: its norm is over the batch."""
    problem = peer.problem

    class Measured:
        """A, and the images nearest to those that y measures."""

        @staticmethod
        def forward(data: Tensor, **_: Any) -> Tensor:
            return problem.operator(data)

        @staticmethod
        def project(data: Tensor, measurement: Tensor, **_: Any) -> Tensor:
            return data + peer.pseudo_inverse(measurement - problem.operator(data), tuple(data.shape))

    def gaussian() -> None:
        """the kind of noise, by its name"""

    with peer.authors("diffusion-posterior-sampling"):
        module = importlib.import_module("guided_diffusion.gaussian_diffusion")
        methods = importlib.import_module("guided_diffusion.condition_methods")
        condition = methods.get_conditioning_method(method, Measured(), gaussian, scale=scale).conditioning
        chain = module.DDPM(
            range(len(peer.levels)), betas=peer.betas.numpy(), model_mean_type="epsilon",
            model_var_type="fixed_small", dynamic_threshold=False, clip_denoised=False, rescale_timesteps=False,
        )  # fmt: skip
        found = [
            chain.p_sample_loop(peer.network, x[None], y[None], condition, False, "")
            for x, y in zip(problem.noise, problem.y, strict=True)
        ]
    return torch.cat(found)


def daps(peer: Peer, ode_steps: int) -> Tensor:
    """Their levels, from 100 towards 0.1, and their Langevin dynamics with the settings of its tasks."""
    problem = peer.problem
    rate = 5e-5 if isinstance(problem.operator, MaskOperator) else 1e-4

    class Network(torch.nn.Module):
        """The score of x_0 + sigma z."""

        def __init__(self) -> None:
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(1))

        def score(self, x: Tensor, sigma: Tensor) -> Tensor:
            schedule = peer.denoiser.schedule
            level = schedule.level(schedule.time(float(sigma)))
            return (peer.x0(level.alpha * x, level) - x) / sigma**2

    class Measured:
        """The gradient of their operators: of |A x - y|^2."""

        @staticmethod
        def gradient(x: Tensor, y: Tensor, return_loss: bool = False) -> tuple[Tensor, Tensor]:
            residual = problem.operator(x) - y
            slope = 2 * problem.operator.adjoint(residual, tuple(x.shape))
            return slope, residual.square().sum()

    with peer.authors("DAPS"):
        sampler = importlib.import_module("sampler").DAPS(
            {"name": "edm", "num_steps": problem.steps, "sigma_max": 100, "sigma_min": 0.1, "timestep": "poly-7"},
            {"name": "edm", "num_steps": ode_steps, "sigma_min": 0.01, "timestep": "poly-7"},
            {"num_steps": 100, "lr": rate, "tau": 0.01, "lr_min_ratio": 0.01, "prior_solver": "gaussian"},
        )
        return sampler.sample(Network(), problem.noise.double() * 100, Measured(), problem.y.double())


def _table(peer: Peer) -> SimpleNamespace:
    """A model of latent diffusion whose latents are images, with a table of 2 n levels: each second one is ours."""
    doubled = peer.cumprod.repeat_interleave(2)
    doubled[0] = 1.0

    def same(x: Tensor) -> Tensor:
        """the autoencoder"""
        return x

    return SimpleNamespace(
        num_timesteps=len(doubled), device="cpu", alphas_cumprod=doubled, betas=peer.betas.repeat_interleave(2),
        alphas_cumprod_prev=torch.cat([doubled.new_ones(1), doubled[:-1]]), parameterization="eps",
        apply_model=lambda x, t, c: peer.network(x, t // 2), differentiable_decode_first_stage=same,
        decode_first_stage=same, encode_first_stage=same, get_first_stage_encoding=same,
    )  # fmt: skip


def psld(peer: Peer, omega: float, gamma: float) -> Tensor:
    problem = peer.problem
    shape = tuple(problem.noise[:1].shape)
    operator = SimpleNamespace(
        forward=lambda x, **_: problem.operator(x), transpose=lambda y, **_: problem.operator.adjoint(y, shape)
    )
    with peer.authors("PSLD/stable-diffusion"):
        sampler = importlib.import_module("ldm.models.diffusion.psld").DDIMSampler(_table(peer))
        found = []
        for x, y in zip(problem.noise.double(), problem.y.double(), strict=True):
            images, _ = sampler.sample(
                S=problem.steps, batch_size=1, shape=shape[1:], x_T=x[None], eta=0.0, verbose=False, omega=omega,
                gamma=gamma, general_inverse=True, measurements=y[None], operator=operator, noiser=lambda y: y,
            )  # fmt: skip
            found.append(images)
    return torch.cat(found)


def resample(peer: Peer) -> Tensor:
    problem = peer.problem
    shape = tuple(problem.noise[:1].shape)

    def gaussian() -> None:
        """the kind of noise, by its name"""

    with peer.authors("resample"):
        methods = importlib.import_module("ldm_inverse.condition_methods")
        sampler = importlib.import_module("ldm.models.diffusion.ddim").DDIMSampler(_table(peer))
        forward = SimpleNamespace(forward=lambda x, **_: problem.operator(x))
        condition = methods.get_conditioning_method("ps", sampler.model, forward, gaussian).conditioning
        sampler.make_schedule(problem.steps, verbose=False)
        found = []
        for x, y in zip(problem.noise.double(), problem.y.double(), strict=True):
            image, _ = sampler.resample_sampling(y[None], condition, None, shape, problem.operator, x_T=x[None])
            found.append(image)
    return torch.cat(found)
