"""From a recording's log-Mel picture, of any length, to the pictures of fixed size that an image encoder takes.

A recording of a minute has some 2,600 frames, the encoder 224 columns. ``resize`` squeezes it (one patch of 16 columns is
then several seconds of speech), ``crop`` keeps the middle, ``chunks`` cuts it into windows at the full resolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class PlaneStatistics:
    """Mean and standard deviation of each plane over a training set."""

    mean: Triple
    std: Triple


@dataclass(frozen=True, kw_only=True)
class SpeechImageConfig:
    """How a recording becomes pictures.

    Parameters
    ----------
    mode : 'resize', 'crop' or 'chunks'
    size : (int, int)
        Height (Mel) and width (time) of a picture.
    chunk_frames : int or None
        Frames of a window with 'chunks'; None: the width, so that time is not squeezed.
    overlap : float
        Share of a window that the next one repeats, in [0, 1).
    max_chunks : int or None
        Most windows of a recording; of more, this many are taken at even distances, the first and the last among them.
    normalise : 'min-max', 'mean-std' or 'none'
        Each plane on its own: to -1..1 by the extremes of this recording's pictures, or by the statistics given.
    statistics : PlaneStatistics or None
        For 'mean-std'; see `plane_statistics`.

    Raises
    ------
    ValueError
        Naming every field that is out of its range.
    """

    mode: Literal["resize", "crop", "chunks"] = "resize"
    size: tuple[int, int] = (224, 224)
    chunk_frames: int | None = None
    overlap: float = 0.0
    max_chunks: int | None = None
    normalise: Literal["min-max", "mean-std", "none"] = "min-max"
    statistics: PlaneStatistics | None = None

    def __post_init__(self) -> None:
        sensible = {
            "mode": self.mode in ("resize", "crop", "chunks"),
            "size": min(self.size) > 0,
            "chunk_frames": self.chunk_frames is None or self.chunk_frames > 0,
            "overlap": 0 <= self.overlap < 1,
            "max_chunks": self.max_chunks is None or self.max_chunks > 0,
            "normalise": self.normalise in ("min-max", "mean-std", "none"),
            "statistics": self.normalise != "mean-std"
            or (self.statistics is not None and min(self.statistics.std) > 0),
        }
        wrong = [f"{name}={getattr(self, name)!r}" for name, fine in sensible.items() if not fine]
        if wrong:
            raise ValueError(f"out of range: {', '.join(wrong)}")


@dataclass(frozen=True)
class SpeechImages:
    """Pictures of one recording, in order of time.

    Parameters
    ----------
    pixels : Tensor, shape (K, 3, H, W)
    spans : Tensor of float32, shape (K, 2)
        Seconds of the recording that the columns of each picture stand for. Where a picture was filled up with silence
        its span goes on beyond the end of the recording.
    """

    pixels: Tensor
    spans: Tensor


def to_images(image: Tensor, hop_s: float, config: SpeechImageConfig) -> SpeechImages:
    """Cut and scale a recording's log-Mel picture.

    With 'chunks' windows follow one another at ``(1 - overlap) * chunk_frames``. What is left behind the last whole one
    becomes a window of its own, filled up with silence, where it has at least half a window of new frames; otherwise the
    last window takes it in and is squeezed a little. A recording shorter than one window is filled up. So no frame is
    lost, except by 'crop' and `max_chunks`.

    Parameters
    ----------
    image : Tensor, shape (3, M, T)
        Of `LogMelImage`, frames of this recording only.
    hop_s : float
        Seconds between frames; column t is taken to last from t * hop_s to (t + 1) * hop_s.
    config : SpeechImageConfig
    """
    if image.ndim != 3 or len(image) != 3 or not image.shape[2]:
        raise ValueError(f"a log-Mel picture has shape (3, M, T) with T > 0, not {tuple(image.shape)}")
    windows = _windows(image.shape[2], config)
    # Silence is the recording's lowest level and no change; it moves neither extreme of a plane.
    silence = torch.stack([image[0].amin(), *image.new_zeros(2)])[:, None, None]
    pixels = torch.cat([_picture(image, start, stop, used, silence, config.size) for start, stop, used in windows])
    spans = torch.tensor([(start * hop_s, stop * hop_s) for start, stop, _ in windows], dtype=torch.float32)
    return SpeechImages(_normalised(pixels, config), spans)


def plane_statistics(pictures: Iterable[Tensor]) -> PlaneStatistics:
    """Return the statistics of a training set's pixels, each of shape (K, 3, H, W), made with ``normalise='none'``."""
    count, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for pixels in pictures:
        values = pixels.double().transpose(0, 1).flatten(1)
        count, total, squares = count + values.shape[1], total + values.sum(1), squares + values.square().sum(1)
    if not count:
        raise ValueError("statistics of no picture")
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    return PlaneStatistics(mean=_triple(mean), std=_triple(std))


def token_spans(
    spans: Tensor,
    grid: tuple[int, int],
    n_mels: int,
    *,
    reduce: Literal["patches", "time", "chunk"] = "patches",
) -> Tensor:
    """Say where each audio token lies, for tokens as `image_transformer.reduce_tokens` leaves them.

    Parameters
    ----------
    spans : Tensor, shape (K, 2)
        Seconds, of `SpeechImages`.
    grid : (int, int)
        Rows (Mel) and columns (time) of the encoder's patches.
    n_mels : int
        Bands of the log-Mel picture.
    reduce : 'patches', 'time' or 'chunk'

    Returns
    -------
    Tensor of float32, shape (K * n, 4)
        start_s, end_s, lowest and highest band (exclusive); n is rows * cols, cols or 1; pictures in order, within a
        picture row by row from the lowest band. Special tokens have no place and are not in it.
    """
    if reduce not in ("patches", "time", "chunk"):
        raise ValueError(f"reduce must be 'patches', 'time' or 'chunk', not {reduce!r}")
    rows, cols = {"patches": grid, "time": (1, grid[1]), "chunk": (1, 1)}[reduce]
    seconds = spans.double()[:, :1] + (spans[:, 1:] - spans[:, :1]).double() * torch.arange(cols + 1) / cols
    bands = torch.arange(rows + 1, dtype=torch.float64) * n_mels / rows
    out = torch.empty(len(spans), rows, cols, 4, dtype=torch.float64)
    out[..., 0], out[..., 1] = seconds[:, None, :-1], seconds[:, None, 1:]
    out[..., 2], out[..., 3] = bands[:-1, None], bands[1:, None]
    return out.flatten(0, 2).float()


def _windows(n_frames: int, config: SpeechImageConfig) -> list[tuple[int, int, int]]:
    """Return start, stop, and last frame that exists, of each picture; stop may lie beyond it."""
    width = config.size[1]
    if config.mode == "resize":
        return [(0, n_frames, n_frames)]
    if config.mode == "crop":
        start = max(0, (n_frames - width) // 2)
        return [(start, start + width, min(n_frames, start + width))]
    length = config.chunk_frames or width
    step = max(1, round(length * (1 - config.overlap)))
    starts = list(range(0, max(1, n_frames - length + 1), step))
    windows = [(start, start + length, min(n_frames, start + length)) for start in starts]
    rest = n_frames - windows[-1][1]
    if rest >= length / 2:
        start = starts[-1] + step
        windows.append((start, start + length, n_frames))
    elif rest > 0:
        windows[-1] = (starts[-1], n_frames, n_frames)
    if config.max_chunks is None or len(windows) <= config.max_chunks:
        return windows
    chosen = torch.linspace(0, len(windows) - 1, config.max_chunks, dtype=torch.float64).round().int().tolist()
    return [windows[i] for i in chosen]


def _picture(image: Tensor, start: int, stop: int, used: int, silence: Tensor, size: tuple[int, int]) -> Tensor:
    part = image[:, :, start:used]
    if stop > used:
        part = torch.cat([part, silence.expand(-1, image.shape[1], stop - used)], dim=2)
    if tuple(part.shape[1:]) == tuple(size):
        return part[None]
    return F.interpolate(part[None], size=size, mode="bilinear", align_corners=False, antialias=True)


def _normalised(pixels: Tensor, config: SpeechImageConfig) -> Tensor:
    if config.normalise == "none":
        return pixels
    if config.normalise == "mean-std" and config.statistics is not None:
        mean, std = (pixels.new_tensor(v)[None, :, None, None] for v in (config.statistics.mean, config.statistics.std))
        return (pixels - mean) / std
    low, high = pixels.amin((0, 2, 3), keepdim=True), pixels.amax((0, 2, 3), keepdim=True)
    scale = torch.where(high > low, high - low, torch.ones_like(high))
    # A plane without contrast is 0, the middle, not one end of the range.
    return torch.where(high > low, ((pixels - low) / scale - 0.5) / 0.5, torch.zeros_like(pixels))


def _triple(values: Tensor) -> Triple:
    first, second, third = values.tolist()
    return first, second, third
