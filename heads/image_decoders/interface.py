"""What every decoder of images is to the rest: tokens in, pictures out, with noise that belongs to the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate


class ImageDecoder(Protocol):
    """From tokens of one target space to pictures.

    Attributes
    ----------
    target : str
        Name of the target space whose tokens it takes.
    resolution : int
        Side S of its pictures.
    settings : mapping
        Everything that decides a picture beside weights, tokens and seed; for reports.
    """

    @property
    def target(self) -> str:
        """Target space."""

    @property
    def resolution(self) -> int:
        """Side of a picture."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """For reports."""

    def decode(
        self,
        tokens: Tensor,
        *,
        text: Tensor | None = None,
        start: Tensor | None = None,
        start_strength: float = 0.85,
        seed: int,
        indices: Sequence[int],
    ) -> Tensor:
        """Decode.

        Parameters
        ----------
        tokens : Tensor, shape (B, N, d)
        text : Tensor, shape (B, M, d_text), optional
            For decoders that take caption tokens too; others do not look at it.
        start : Tensor, shape (B, 3, s, s), optional
            Pictures from 0 to 1 to begin from.
        start_strength : float
            Share of the schedule that is run from the start: 1 forgets it, 0 returns it.
        seed : int
        indices : sequence of int, length B
            Numbers of the pictures. A picture's noise depends on `seed` and its number and on nothing else, so batches
            and devices do not change it.

        Returns
        -------
        Tensor, shape (B, S, S, 3), uint8, on the CPU
        """


def image_noise(
    shape: tuple[int, ...], *, seed: int, indices: Sequence[int], purpose: str = "latents", device: Any = "cpu"
) -> Tensor:
    """Draw normal noise (B, *shape), float32, on the CPU, each row from a generator of its own.

    Parameters
    ----------
    shape : tuple of int
        Of one picture.
    seed : int
    indices : sequence of int
    purpose : str
        Two draws for one picture with different purposes have nothing to do with each other.
    device : torch.device or str
        Where the noise is moved to.
    """
    rows = []
    for index in indices:
        digest = hashlib.sha256(f"{int(seed)}:{int(index)}:{purpose}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        rows.append(torch.randn(shape, generator=generator))
    return torch.stack(rows).to(device) if rows else torch.zeros((0, *shape), device=device)


def to_pixels(images: Tensor) -> Tensor:
    """Return uint8 (B, S, S, 3) on the CPU of images (B, 3, S, S) from 0 to 1; values beyond are cut."""
    return (images.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()


def fitted_start(start: Tensor, size: int) -> Tensor:
    """Return start pictures (B, 3, size, size) from 0 to 1, resized by antialiased bicubic where needed."""
    if start.shape[-1] == size == start.shape[-2]:
        return start.float()
    return interpolate(start.float(), size=(size, size), mode="bicubic", align_corners=False, antialias=True).clamp(
        0, 1
    )


def check_request(
    tokens: Tensor, shape: tuple[int, int], *, start: Tensor | None, start_strength: float, indices: Sequence[int]
) -> None:
    """Refuse what no decoder can mean.

    Raises
    ------
    ValueError
        For tokens of another shape than (B, *shape), a start that is no batch of B pictures, a strength outside 0..1, or
        another number of indices.
    """
    wrong = []
    if tokens.ndim != 3 or tuple(tokens.shape[1:]) != shape:
        wrong.append(f"tokens must be (B, {shape[0]}, {shape[1]}), got {tuple(tokens.shape)}")
    if len(indices) != len(tokens):
        wrong.append(f"{len(tokens)} pictures and {len(indices)} indices")
    if start is not None and (start.ndim != 4 or start.shape[:2] != (len(tokens), 3)):
        wrong.append(f"start must be ({len(tokens)}, 3, S, S), got {tuple(start.shape)}")
    if not 0 <= start_strength <= 1:
        wrong.append(f"start_strength must lie in 0..1, got {start_strength}")
    if wrong:
        raise ValueError("; ".join(wrong))
