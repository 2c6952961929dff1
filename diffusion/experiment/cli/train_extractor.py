"""Trains a shipped feature extractor.

python scripts/train_extractor.py digits-cnn-v1 out.safetensors

Plain cross-entropy on the training split alone, Adam 1e-3, batches of 64, shifts of up to one pixel. The test split is
looked at once, after training, for the accuracy that is printed. A new training run is a new version: features differ
from one seed to the next, so the name's number goes up with the weights.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from diffusion.data.base import ImageData
from diffusion.evaluation.features.classifier import DigitsClassifier, FashionClassifier, SmallCNN
from diffusion.files import sha256_of

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("file", help="where the weights go (.safetensors)")
    parser.add_argument("--data", default="data", help="folder of the data set, where it is not embedded")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    extractor, epochs = RECIPES[args.name]
    data = data_of(args.name, args.data)
    (images, labels), (held_out, answers) = (
        (split.images.float() / 255, split.labels) for split in (data.split("train"), data.split("test"))
    )
    random = torch.Generator().manual_seed(args.seed)
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        network = extractor.fresh()
    train(network, images, labels, epochs, random)
    # Half precision halves the file; what is shipped is what is measured.
    weights = (
        {key: value.half() for key, value in network.state_dict().items()}
        if images.shape[-1] > 8
        else dict(network.state_dict())
    )
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    save_file(weights, args.file)
    console = Console()
    console.print(f"test accuracy {accuracy(network, held_out, answers):.4f} on {len(held_out)} images")
    console.print(f"sha256 {sha256_of(args.file)}  {args.file}")
