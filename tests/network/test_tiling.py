"""Textures: a U-Net whose convolutions pad round the edges commutes with shifts, and so do samples."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pipelines import pipeline
from torch import Tensor, nn

from diffusion.autoencoder.base import Autoencoder
from diffusion.conditioner.low_resolution import LowResolutionConditioner
from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.dit import DiT
from diffusion.network.unet import UNet
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.pipeline.tiling import tiling
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import RandnLike

SHAPE = (2, 8, 12)


def unet(**settings: object) -> UNet:
    torch.manual_seed(0)
    sizes = {"in_channels": 2, "resolution": 8, "channels": 8, "channel_mult": [1, 2, 2], "num_res_blocks": 1}
    network = UNet(**sizes | {"attention": [4]} | settings)
    for parameter in network.parameters():
        if parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.2)
    return network.eval()


def rolled(x: Tensor) -> Tensor:
    """By the pixels of one of the smallest level."""
    return x.roll((4, 8), (-2, -1))


@pytest.mark.parametrize("settings", [{}, {"resblock_updown": True}, {"variant": "ddpm"}], ids=str)
@torch.no_grad()
def test_a_network_commutes_with_shifts(settings: dict[str, object]) -> None:
    network, x = unet(**settings), torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    level = torch.tensor([0.3, 0.7])
    plain = network(x, level)
    assert not torch.allclose(network(rolled(x), level), rolled(plain), atol=1e-3), "zeros at the edges are seen"
    with tiling([network]):
        tiled = network(x, level)
        torch.testing.assert_close(network(rolled(x), level), rolled(tiled), rtol=1e-4, atol=1e-5)
        last = x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(network(last, level), tiled, rtol=1e-4, atol=1e-5)
    assert torch.equal(network(x, level), plain), "as before"


class Doubled(Autoencoder):
    """Latents are half as large; a convolution decodes them, outside of the module as diffusers' are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.held = SimpleNamespace(decoder=nn.Conv2d(2, 2, 3, padding=1))

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.held.decoder,)

    def encode(self, image: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        return image[..., ::2, ::2]

    def decode(self, latent: Tensor) -> Tensor:
        repeated = latent.repeat_interleave(2, -1).repeat_interleave(2, -2)
        out: Tensor = self.held.decoder(repeated)
        return out


@torch.no_grad()
def test_samples_of_shifted_noise_are_shifted() -> None:
    denoiser = NetworkDenoiser(unet(), CosineSchedule(), VelocityParameterization())
    model = DiffusionModel(denoiser, autoencoder=Doubled(), sampler=DDIMSampler(2), shape=(2, 16, 24)).eval()
    start = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(2)) / 2, 0.6
    shifted = rolled(start[0]), 0.6
    index = torch.arange(1)
    plain, tiled = (model.pipeline(batch_size=1, tile=tile) for tile in (False, True))
    one, other = (tiled.state(index, 0, start=each) for each in (start, shifted))
    torch.testing.assert_close(other, rolled(one), rtol=1e-4, atol=1e-5)
    assert (tiled.state(index, 0, start=start) - plain.state(index, 0, start=start)).abs().max() > 1e-3
    assert tiled.describe()["tile"] is True
    assert "tile" not in plain.describe()
    with tiled._tiled():
        decoded = model.decode(rolled(one))
    with tiled._tiled():
        torch.testing.assert_close(decoded, model.decode(one).roll((8, 16), (-2, -1)), rtol=1e-4, atol=1e-5)
    assert torch.equal(tiled.images(index, 0), tiled.images(index, 0))
    assert not torch.equal(model.sample(1, tile=True), model.sample(1))
    assert torch.equal(model.sample(1, tile=True), tiled.draw(index, 0))


@torch.no_grad()
def test_an_image_may_have_another_size() -> None:
    """Whose noise is that of its own shape; the network of another shape, its convolutions alike."""
    denoiser = NetworkDenoiser(unet(), CosineSchedule(), VelocityParameterization())
    model = DiffusionModel(denoiser, autoencoder=Doubled(), sampler=DDIMSampler(2), shape=(2, 16, 16)).eval()
    wide = DiffusionModel(denoiser, autoencoder=Doubled(), sampler=DDIMSampler(2), shape=(2, 16, 24)).eval()
    index = torch.arange(2)
    drawn = model.pipeline(image_size=(16, 24)).images(index, 0)
    assert torch.equal(drawn, wide.pipeline().images(index, 0))
    assert torch.equal(model.sample(2, image_size=(16, 16)), model.sample(2))
    for size in ((16, 20), (16,), (0, 16)):
        with pytest.raises(ValueError, match="multiples of 8 for this run"):
            model.sample(1, image_size=size)


def test_networks_that_know_places_and_images_with_edges_are_refused() -> None:
    network = DiT(in_channels=2, resolution=8, width=16, depth=1, heads=2, patch=2)
    denoiser = NetworkDenoiser(network, CosineSchedule(), VelocityParameterization())
    with pytest.raises(ValueError, match="DiT knows places by other means; leave it out"):
        pipeline(denoiser, DDIMSampler(1), (2, 8, 8), batch_size=1, tile=True)
    with pytest.raises(ValueError, match="image_size is for a U-Net that is given no image but one to enlarge"):
        pipeline(denoiser, DDIMSampler(1), (2, 8, 8), batch_size=1, image_size=(8, 16))
    small = NetworkDenoiser(unet(image_channels=2), CosineSchedule(), VelocityParameterization())
    conditioner = LowResolutionConditioner(image_channels=2, factor=2)
    with pytest.raises(ValueError, match="is given an image, which has some"):
        pipeline(small, DDIMSampler(1), (2, 8, 8), conditioner=conditioner, batch_size=1, tile=True)
