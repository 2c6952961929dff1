"""Posterior sampling of latents: down the error of the decoded image, and of what the encoder makes of it."""

from __future__ import annotations

from torch import Tensor

from diffusion.guidance.dps import DPSGuidance
from diffusion.operator.base import Operator
from diffusion.types import Denoiser


class PSLDGuidance(DPSGuidance):
    """After each step z moves by -grad (scale ||y - A x|| + gluing ||z_0 - E(A^T y + x - A^T A x)||) with
    z_0 = E[z_0 | z_t], x = D(z_0) and the autoencoder's E and D, the gradient at the level it left (Rout et al. 2023,
    Solving linear inverse problems provably via posterior sampling with latent diffusion models, algorithm 2), in any
    sampler. Where x are images themselves and A a mask it is :class:`diffusion.guidance.dps.DPSGuidance` with
    scale + gluing.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`, of images.
        scale: the paper's omega; its code has 1 for Stable Diffusion (0.1 for a hidden box), and 0.1 for the latent
            diffusion model of faces (0.9 for superresolution), with 1000 steps of DDIM.
        gluing: the paper's gamma; its code has 0.1 (0.01 for a hidden box with Stable Diffusion). 0 is DPS on latents,
            for any operator.

    Raises:
        ValueError: a scale or gluing below 0, or gluing with an operator that is not linear.
    """

    key = "guidance.psld"
    off = {"scale": 0.0, "gluing": 0.0}  # noqa: RUF012 - of the base

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        scale: float = 1.0,
        gluing: float = 0.1,
    ) -> None:
        if not gluing >= 0:
            raise ValueError(f"gluing is 0 or above, got {gluing}; set {self.key}.gluing")
        if gluing > 0 and not operator.linear:
            raise ValueError(
                f"gluing is by the adjoint of a linear operator and {type(operator).__name__} is not one; "
                f"set {self.key}.gluing=0"
            )
        super().__init__(denoiser, operator, measurement, simulate, scale)
        self.gluing = gluing

    def error(self, x0: Tensor) -> Tensor:
        image = x0 if self.autoencoder is None else self.autoencoder.decode(x0)
        y = self.y(image)
        residual = y - self.operator(image)
        measured = self.scale * residual.flatten(1).norm(dim=1)
        if self.gluing == 0:
            return measured
        glued = image + self.operator.adjoint(residual, tuple(image.shape))
        glued = glued if self.autoencoder is None else self.autoencoder.encode(glued)
        return measured + self.gluing * (x0 - glued).flatten(1).norm(dim=1)
