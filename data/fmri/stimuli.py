"""The images of a data set, from an HDF5 file, a folder of files or memory, all read to one size the same way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..containment import contained, entries, inside
from ..errors import ChiasmError, InputError, SeveralErrors
from .hdf5 import open_table

CODES: dict[str, str] = {
    "CHI-IN-263": "Stimuli are not images: a wrong shape or type, an unreadable or far too large file, or none at all.",
    "CHI-IN-264": "A trial names an image that the stimuli do not have; a table may count from 1 where 0 is meant, or the other way.",
}
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000
"""Of one image: a file of a few kB may claim billions."""
MAX_SIDE = 4096
MAX_RATIO = 50
"""Longer to shorter side: with its shorter side enlarged, a strip of 1 pixel would fill the memory."""


class ArrayStimuli:
    """Stimuli in memory.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, H, W, 3)
    names : sequence of str
        Numbers from 0 where none are given.
    categories : sequence of str
    """

    def __init__(self, pixels: NDArray[np.uint8], names: Sequence[str] = (), categories: Sequence[str] = ()) -> None:
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise ValueError(f"uint8 images (n, H, W, 3) are needed, got {pixels.dtype} {pixels.shape}")
        self.pixels = pixels
        self._names, self._categories = _labels(pixels.shape[0], names, categories)

    @property
    def n(self) -> int:
        """How many there are."""
        return int(self.pixels.shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """A name each."""
        return self._names

    @property
    def categories(self) -> tuple[str, ...]:
        """A category each, or an empty tuple."""
        return self._categories

    def read(self, images: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
        """Return some images, (k, size, size, 3)."""
        check_images(images, self.n)
        return _stack([_fitted(Image.fromarray(self.pixels[i]), size) for i in images], size)


class Hdf5Stimuli:
    """Stimuli in an HDF5 file: NSD's ``imgBrick`` (n, H, W, 3) uint8, MindEye2's ``images`` (n, 3, H, W) from 0 to 1.

    Parameters
    ----------
    path : Path
    key : str
        Name of the table.
    names, categories : sequence of str
    relative : str
        For messages.

    Raises
    ------
    InputError
        ``CHI-IN-262``, ``CHI-IN-263``.
    """

    def __init__(
        self,
        path: Path,
        key: str = "imgBrick",
        *,
        names: Sequence[str] = (),
        categories: Sequence[str] = (),
        relative: str = "",
    ) -> None:
        self.path, self.key, self._relative = path, key, relative or path.name
        with open_table(path, key, relative=self._relative) as table:
            shape, dtype = table.shape, table.dtype
        self._channels_first = len(shape) == 4 and shape[-1] != 3 and shape[1] == 3
        sides = shape[2:] if self._channels_first else shape[1:3]
        fits = len(shape) == 4 and (shape[-1] == 3 or self._channels_first) and max(sides) <= MAX_SIDE
        if not fits or not (dtype == np.uint8 or dtype.kind == "f"):
            raise InputError(
                "CHI-IN-263",
                f"'{key}' holds {dtype} {shape}, which are not images.",
                "Give uint8, or numbers from 0 to 1, of shape (n, H, W, 3) or (n, 3, H, W), "
                f"of at most {MAX_SIDE} pixels a side.",
                file=self._relative,
            )
        self._n = int(shape[0])
        self._names, self._categories = _labels(self._n, names, categories)

    @property
    def n(self) -> int:
        """How many there are."""
        return self._n

    @property
    def names(self) -> tuple[str, ...]:
        """A name each."""
        return self._names

    @property
    def categories(self) -> tuple[str, ...]:
        """A category each, or an empty tuple."""
        return self._categories

    def read(self, images: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
        """Return some images, (k, size, size, 3).

        Raises
        ------
        InputError
            ``CHI-IN-262`` to ``CHI-IN-264``.
        """
        check_images(images, self.n)
        stored: dict[int, NDArray[Any]] = {}
        with open_table(self.path, self.key, relative=self._relative) as table:
            for image in np.unique(images):  # ascending: a disk reads on; a repeated image is read once
                stored[int(image)] = table[int(image)]
        fitted = {image: _fitted(Image.fromarray(self._bytes(values)), size) for image, values in stored.items()}
        return _stack([fitted[int(image)] for image in images], size)

    def _bytes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        pixels = values.transpose(1, 2, 0) if self._channels_first else values
        if pixels.dtype.kind == "f":
            if not (np.isfinite(pixels).all() and pixels.min() > -0.01 and pixels.max() < 1.01):
                raise InputError(
                    "CHI-IN-263",
                    f"'{self.key}' holds an image with values outside 0 to 1.",
                    "Store images as uint8, or as numbers from 0 to 1.",
                    file=self._relative,
                )
            pixels = np.rint(pixels.astype(np.float32).clip(0.0, 1.0) * 255.0)
        return np.ascontiguousarray(pixels.clip(0, 255), dtype=np.uint8)


class FolderStimuli:
    """Stimuli as image files, in the order of their names; a name is what stands before the last dot.

    Parameters
    ----------
    source : Path or sequence of Path
        A folder, of which the image files are taken, or files, in the order given.
    categories : sequence of str
    root : Path, optional
        Links must not lead out of it; the folder itself where it is not given.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-263``, ``CHI-IN-067``, ``CHI-IN-068``.
    """

    def __init__(
        self, source: Path | Sequence[Path], *, categories: Sequence[str] = (), root: Path | None = None
    ) -> None:
        files = _image_files(source, root) if isinstance(source, Path) else list(source)
        names = [file.stem for file in files]
        if not files or len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})[:3] if len(names) < 100_000 else []
            raise InputError(
                "CHI-IN-263",
                f"two stimuli have one name: {', '.join(twice)}." if files else "there is no image file in the folder.",
                f"Give image files ({', '.join(sorted(SUFFIXES))}) whose names before the dot differ.",
                file=source.name if isinstance(source, Path) else "",
            )
        self.files = tuple(files)
        self._names, self._categories = _labels(len(files), names, categories)

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """File stems."""
        return self._names

    @property
    def categories(self) -> tuple[str, ...]:
        """A category each, or an empty tuple."""
        return self._categories

    def read(self, images: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
        """Return some images, (k, size, size, 3).

        Raises
        ------
        InputError
            ``CHI-IN-263``, ``CHI-IN-264``.
        """
        check_images(images, self.n)
        return _stack([_read_file(self.files[i], size) for i in images], size)


def check_images(images: NDArray[np.int64], n: int, *, file: str = "") -> None:
    """Refuse image numbers outside 0 .. n - 1.

    Raises
    ------
    InputError
        ``CHI-IN-264``.
    """
    if not len(images):
        return
    low, high = int(images.min()), int(images.max())
    if low < 0 or high >= n:
        wrong = low if low < 0 else high
        hint = {-1: " (0 in a table that counts from 1?)", n: " (a table that counts from 1, read as if from 0?)"}
        raise InputError(
            "CHI-IN-264",
            f"a trial names image {wrong}, and the {n} stimuli are numbers 0 to {n - 1}{hint.get(wrong, '')}.",
            "Check from which number the table counts, and that all stimuli are there.",
            file=file,
        )


def _labels(n: int, names: Sequence[str], categories: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if len(names) not in {0, n} or len(categories) not in {0, n}:
        raise ValueError(f"{n} images, {len(names)} names and {len(categories)} categories")
    return tuple(names) or tuple(map(str, range(n))), tuple(categories)


def _image_files(folder: Path, root: Path | None) -> list[Path]:
    real = (root or folder).resolve()
    found, wrong = [], list[ChiasmError]()
    for link in [folder] if root is not None and folder.is_symlink() else []:
        wrong += filter(None, [contained(link, real)])
    for entry in entries(folder):
        if Path(entry.name).suffix.lower() in SUFFIXES:
            problem = inside(entry, real)
            wrong += [problem] if problem else []
            found.append(Path(entry.path))
    if wrong:
        raise wrong[0] if len(wrong) == 1 else SeveralErrors(wrong)
    return found


def _read_file(path: Path, size: int) -> Image.Image:
    problem = "it is damaged, or no image of a known format"
    try:
        if path.is_file():  # a named pipe would block
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height <= MAX_PIXELS:
                    return _fitted(image, size)
                problem = f"it claims {image.width} x {image.height} pixels"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problem = "it claims far too many pixels"
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, EOFError):
        pass  # what Pillow's decoders raise for damaged files, by experience with mutated ones
    raise InputError("CHI-IN-263", f"the image cannot be used: {problem}.", "Save it again as PNG.", file=path.name)


def _fitted(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size` (bicubic over all source pixels, as PIL and torchvision do), then the centre; transparency on white."""
    if size < 1:
        raise ValueError("size is 1 pixel or more")
    if image.mode.startswith("I"):  # 16 bits: `convert` would cut everything above 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    short = min(image.size)
    if max(image.size) > MAX_RATIO * short:
        raise InputError(
            "CHI-IN-263",
            f"an image of {image.width} x {image.height} pixels is a strip.",
            f"Its sides may differ {MAX_RATIO} times at most.",
        )
    # torchvision's rounding: down for the longer side, to the nearest for the centre.
    width, height = (int(size * side / short) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size)) if (width, height) != (size, size) else image


def _stack(images: Sequence[Image.Image], size: int) -> NDArray[np.uint8]:
    out = np.empty((len(images), size, size, 3), np.uint8)
    for row, image in zip(out, images, strict=True):
        row[...] = np.asarray(image)
    return out
