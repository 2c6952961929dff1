"""How the shipped feature extractors were trained: cross-entropy on the training split alone, Adam 1e-3, batches of 64,
shifts of up to one pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from diffusion.data.base import ImageData
from diffusion.evaluation.features.classifier import DigitsClassifier, FashionClassifier, SmallCNN

RECIPES = {"digits-cnn-v1": (DigitsClassifier, 30), "fashion-cnn-v1": (FashionClassifier, 2)}


def shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image (B, 1, R, R) moved by -1, 0 or 1 pixel both ways, zeros coming in."""
    side = images.shape[-1]
    moved, padded = torch.empty_like(images), pad(images, (1, 1, 1, 1))
    where = torch.randint(9, (len(images),), generator=random)
    for k in range(9):
        moved[where == k] = padded[where == k, :, k // 3 : k // 3 + side, k % 3 : k % 3 + side]
    return moved


def train(network: SmallCNN, images: Tensor, labels: Tensor, epochs: int, random: torch.Generator) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=random).split(64):
            loss = cross_entropy(network(shifted(images[rows], random))["logits"], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(network: SmallCNN, images: Tensor, labels: Tensor) -> float:
    right = [network(images[r])["logits"].argmax(1) == labels[r] for r in torch.arange(len(images)).split(500)]
    return float(torch.cat(right).float().mean())


def data_of(name: str, folder: str) -> ImageData:
    if name == "digits-cnn-v1":
        from diffusion.data.digits import Digits

        return Digits()
    from diffusion.data.mnist import MNIST

    return MNIST(dataset="FashionMNIST", root=folder)
