"""The pictures that `train_small_decoder.py` trains on: Fashion-MNIST's training half, half of an emoji set, drawn shapes.

An emoji is taken where the first byte of the sha256 of its first code point is even; the project's phantoms show the odd ones
and Fashion-MNIST's t10k images, so that no picture of a phantom is seen here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.Image import Resampling, Transform

SIZE = 32
FILTERS = (Resampling.BILINEAR, Resampling.BOX, Resampling.LANCZOS, Resampling.BICUBIC)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures (n, 32, 32, 3) of uint8 by kind."""

    fashion: np.ndarray
    emoji: np.ndarray
    shapes: np.ndarray


def fashion(path: Path, *, padded: bool = False) -> np.ndarray:
    """Fashion-MNIST images from an idx3 file, three equal channels.

    As the phantoms show them and `small-16x64` takes them (28 to 64, then to 32, bicubic), or padded from 28 to 32.
    """
    with gzip.open(path) as stream:
        data = stream.read()
    images = np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2))) if padded else np.stack([_shown(image) for image in images])
    return np.repeat(images[..., None], 3, axis=3)


def emoji_files(folder: Path, *, even: bool) -> list[list[Path]]:
    """Files of one half of the emoji set: for every emoji, its picture and those of other skin tones."""
    groups = []
    for entry in json.loads((folder / "emoji.json").read_text("utf-8")):
        first = entry["unified"].split("-")[0]
        if (hashlib.sha256(first.encode("ascii")).digest()[0] % 2 == 0) != even:
            continue
        names = [entry["image"], *(one["image"] for one in entry.get("skin_variations", {}).values())]
        files = [path for name in names if (path := folder / "img" / "google" / "64" / name).is_file()]
        if files:
            groups.append(files)
    return groups


def on_white(path: Path, resample: Resampling = Resampling.BOX) -> np.ndarray:
    """One emoji on white, 32 x 32."""
    with Image.open(path) as image:
        return _composite(image.convert("RGBA"), (255, 255, 255), resample)


def emoji(folder: Path, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `n` emoji of the even half: a third as they are, the others moved, turned, recoloured or put together."""
    images = []
    for files in emoji_files(folder, even=True):
        group = []
        for path in files:
            with Image.open(path) as image:
                group.append(image.convert("RGBA"))
        images.append(group)
    out = np.empty((n, SIZE, SIZE, 3), np.uint8)
    for i in range(n):
        image = _pick(images, rng)
        resample = FILTERS[rng.integers(len(FILTERS))]
        if i % 3 == 0:
            out[i] = _composite(image, (255, 255, 255), resample)
            continue
        image = _moved(image, rng, (0.7, 1.15))
        if rng.random() < 0.25:
            image = Image.alpha_composite(image, _moved(_pick(images, rng), rng, (0.35, 0.7)))
        colour = (255, 255, 255) if rng.random() < 0.75 else tuple(int(v) for v in rng.integers(0, 256, 3))
        out[i] = _composite(image, colour, resample)
        if rng.random() < 0.35:
            out[i] = _recoloured(out[i], rng)
    return out


def shapes(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `n` pictures of gratings, gradients, ellipses, polygons and lines."""
    out = np.empty((n, SIZE, SIZE, 3), np.uint8)
    rows, cols = np.mgrid[0:64, 0:64] / 64.0
    for i in range(n):
        first, second = rng.integers(0, 256, (2, 3))
        if rng.random() < 0.3:
            first = second = np.full(3, 255 * rng.integers(0, 2))
        angle, cycles, phase = rng.uniform(0, np.pi), np.exp(rng.uniform(-1, 2.2)), rng.uniform(0, 2 * np.pi)
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * cycles * (np.cos(angle) * cols + np.sin(angle) * rows) + phase)
        ground = wave[..., None] * first + (1 - wave[..., None]) * second
        image = Image.fromarray(ground.astype(np.uint8))
        pen = ImageDraw.Draw(image)
        for _ in range(rng.integers(0, 5)):
            _draw_one(pen, rng)
        out[i] = np.asarray(image.resize((SIZE, SIZE), Resampling.BOX))
    return out


def gather(
    fashion_file: Path, emoji_folder: Path, *, seed: int, n_emoji: int = 36000, n_shapes: int = 12000
) -> Pictures:
    """Read and draw all pictures; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    clothes = np.concatenate([fashion(fashion_file), fashion(fashion_file, padded=True)[::3]])
    return Pictures(fashion=clothes, emoji=emoji(emoji_folder, n_emoji, rng), shapes=shapes(n_shapes, rng))


def _shown(image: np.ndarray) -> np.ndarray:
    large = Image.fromarray(image).resize((64, 64), Resampling.BICUBIC)
    return np.asarray(large.resize((SIZE, SIZE), Resampling.BICUBIC))


def _draw_one(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    colour = tuple(int(v) for v in rng.integers(0, 256, 3))
    kind = rng.integers(4)
    centre, radius = rng.uniform(8, 56, 2), rng.uniform(4, 22, 2)
    if kind == 0:
        pen.ellipse([*(centre - radius), *(centre + radius)], fill=colour)
    elif kind == 1:
        pen.rectangle([*(centre - radius), *(centre + radius)], fill=colour)
    elif kind == 2:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        points = centre + radius.max() * np.stack([np.cos(angles), np.sin(angles)], 1)
        pen.polygon([(float(x), float(y)) for x, y in points], fill=colour)
    else:
        pen.line([*rng.uniform(0, 64, 2), *rng.uniform(0, 64, 2)], fill=colour, width=int(rng.integers(1, 7)))


def _pick(images: list[list[Image.Image]], rng: np.random.Generator) -> Image.Image:
    group = images[rng.integers(len(images))]
    return group[0] if rng.random() < 0.6 else group[rng.integers(len(group))]


def _moved(image: Image.Image, rng: np.random.Generator, scales: tuple[float, float]) -> Image.Image:
    """Turn, scale and shift a picture about its middle, mirrored or not; what is new is transparent."""
    angle = rng.normal(0, 0.25)
    scale = rng.uniform(*scales)
    side = rng.choice([-1.0, 1.0])
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    matrix[:, 0] *= side
    middle = np.array(image.size) / 2
    spare = np.abs(1 - scale) * 20 + 3
    shift = middle - matrix @ (middle + rng.uniform(-spare, spare, 2))
    data = [*matrix[0], shift[0], *matrix[1], shift[1]]
    return image.transform(image.size, Transform.AFFINE, [float(v) for v in data], Resampling.BILINEAR)


def _composite(image: Image.Image, colour: tuple[int, ...], resample: Resampling) -> np.ndarray:
    ground = Image.new("RGBA", image.size, (*colour, 255))
    ground.alpha_composite(image)
    return np.asarray(ground.convert("RGB").resize((SIZE, SIZE), resample))


def _recoloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the colours about the grey axis, which leaves white white."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle) / np.sqrt(3)
    first, second, third = cos + (1 - cos) / 3, (1 - cos) / 3 - sin, (1 - cos) / 3 + sin
    matrix = np.array([[first, second, third], [third, first, second], [second, third, first]])
    return np.clip(image @ matrix.T, 0, 255).astype(np.uint8)
