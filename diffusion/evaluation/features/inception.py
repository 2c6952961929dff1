"""torch-fidelity's Inception, with the spatial features of sFID, and its weights from a file or from the network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from diffusion.evaluation.features.checked import verified

SHA256 = "6726825d"
"""First digits of the sha256 of torch-fidelity's weights; the file's name holds them."""


class InceptionSpatial(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception with one more layer, ``spatial`` (B, 17 * 17 * 7): what sFID is measured on.

    The first seven channels after the 1 x 1 convolution of block mixed_6 (Nash et al. 2021), flattened with channels
    last as in the statistics files of Dhariwal & Nichol 2021.
    """

    registered = "inception-v3-compat-spatial"

    def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
        super().__init__(name, features_list, **kwargs)
        self.features_list: list[str] = list(features_list)
        self._spatial: Tensor | None = None
        self.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self._spatial = output[:, :7].permute(0, 2, 3, 1).flatten(1).float()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        wanted = self.features_list
        try:
            # The parent stops at the last requested layer, so one after mixed_6 is requested.
            self.features_list = [layer for layer in wanted if layer != "spatial"] or ["2048"]
            found = dict(zip(self.features_list, super().forward(image), strict=True))
        finally:
            self.features_list = wanted
        assert self._spatial is not None  # the hook has run
        found["spatial"], self._spatial = self._spatial, None
        return tuple(found[layer] for layer in wanted)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (*FeatureExtractorInceptionV3.get_provided_features_list(), "spatial")


def weights(path: str | None, sha256: str | None) -> Path:
    """The weights file: ``path``, or torch-fidelity's own in torch's cache, downloaded where it is missing.

    sha256: what a given file must hash to; torch-fidelity's own hash where ``None``.

    Raises:
        ValueError: another hash, or no file and no network.
    """
    if path is not None:
        return verified(path, sha256 or SHA256)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(cached), hash_prefix=SHA256, progress=False)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"the Inception weights could not be fetched ({error}); download {URL_INCEPTION_V3} on a "
                "machine with a network and set evaluation.weights to the file"
            ) from error
    return verified(cached, SHA256)
