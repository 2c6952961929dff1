"""Trains a shipped feature extractor.

python scripts/train_extractor.py digits-cnn-v1 out.safetensors

Plain cross-entropy on the training split alone, Adam 1e-3, batches of 64, shifts of up to one pixel. The test split is
looked at once, after training, for the accuracy that is printed. A new training run is a new version: features differ
from one seed to the next, so the name's number goes up with the weights.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from diffusion.files import sha256_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="digits-cnn-v1 or another that is shipped with its recipe")
    parser.add_argument("file", help="where the weights go (.safetensors)")
    parser.add_argument("--data", default="data", help="folder of the data set, where it is not embedded")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import torch
    from safetensors.torch import save_file

    from diffusion.evaluation.features.training import RECIPES, accuracy, data_of, train

    if args.name not in RECIPES:
        parser.error(f"there is no recipe for '{args.name}'; there are {', '.join(RECIPES)}")
    extractor, epochs = RECIPES[args.name]
    data = data_of(args.name, args.data)
    (images, labels), (held_out, answers) = (
        (split.images[:].float() / 255, split.labels) for split in (data.split("train"), data.split("test"))
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
