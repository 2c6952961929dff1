"""Perceptual distances: LPIPS as torchmetrics computes it, and what holds for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion.evaluation.features.perceptual import NAMES, VGG, perceptual

SIZES = {"digits-cnn-v1": (1, 8), "fashion-cnn-v1": (1, 28), "efficientnet-lite0": (3, 32)}


def pair(channels: int, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(3, channels, side, side, generator=generator) * 2 - 1 for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("name", SIZES)
def test_a_distance_is_symmetric_and_zero_of_equal_images_and_has_a_gradient(name: str) -> None:
    distance, (x, y) = perceptual(name), pair(*SIZES[name])
    assert distance is not None
    assert distance(x, x).eq(0).all()
    torch.testing.assert_close(distance(x, y), distance(y, x))
    torch.testing.assert_close(distance(x, y)[1:2], distance(x[1:2], y[1:2]))
    y.requires_grad_()
    distance(x, y).sum().backward()
    assert y.grad is not None
    with torch.no_grad():  # down the gradient it becomes smaller
        assert (distance(x, y - 0.01 * y.grad / y.grad.norm()) < distance(x, y)).any()
    assert not any(p.requires_grad for p in distance.parameters())
    blank = torch.full((1, *x.shape[1:]), -1.0, requires_grad=True)
    distance(blank.detach(), blank).sum().backward()
    assert blank.grad is not None
    assert blank.grad.isfinite().all()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="one of " + ", ".join(NAMES)):
        perceptual("vgg")
    assert perceptual() is None


def test_an_extractor_of_grey_images_refuses_others() -> None:
    distance = perceptual("fashion-cnn-v1")
    assert distance is not None
    with pytest.raises(ValueError, match="grey images of 28 pixels"):
        distance(*pair(3, 28))


@pytest.mark.slow
def test_lpips_is_that_of_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On random weights of VGG-16 in the place of torchvision's file; its linear layers are not read."""
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vgg16(weights=None).state_dict().items()}
    torch.manual_seed(0)
    weights = {
        name: torch.zeros(1).expand(shape) if name.startswith("classifier") else torch.randn(shape) / 30
        for name, shape in shapes.items()
    }
    path = tmp_path / "hub" / "checkpoints" / VGG
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    x, y = pair(3, 48)
    expected = learned_perceptual_image_patch_similarity(x, y, net_type="vgg")
    for distance in (perceptual("lpips"), perceptual("lpips", str(path))):
        assert distance is not None
        torch.testing.assert_close(distance(x, y).mean(), expected)
    path.unlink()
    with pytest.raises(ValueError, match=r"vgg16-397923af\.pth is not there; download"):
        perceptual("lpips")
