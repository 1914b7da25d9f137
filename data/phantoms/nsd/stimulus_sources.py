"""Real images for phantom brains to look at: Fashion-MNIST, emoji, or any folder, as squares of one size with a category each.

Nothing that a decoder was trained on may be a phantom's stimulus: of Fashion-MNIST only the test file is used (decoders train on the
training file), of the emoji only the odd half (`is_phantom_emoji`; decoders train on the even half).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, ToolError

CODES: dict[str, str] = {
    "CHI-TL-020": "the images of Fashion-MNIST are not installed",
    "CHI-TL-021": "the emoji images are not installed",
    "CHI-IN-330": "a folder of stimuli is not there, or has too few images",
    "CHI-IN-331": "a stimulus is damaged, too large, or no image",
    "CHI-IN-332": "a file of Fashion-MNIST or the table of the emoji is damaged",
}

SIZE = 64
"""Pixels a side of every stimulus: the emoji's own size, and the finest grating of the forward model stays below Nyquist."""

SOURCES = ("fashion-mnist-small", "fashion-mnist", "emoji")
"""Names that `load_stimuli` knows; anything else is a folder."""

FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

_SHIPPED = Path(__file__).resolve().parents[1] / "stimuli"
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_MAX_BYTES, _MAX_PIXELS, _MAX_FILES = 64 << 20, 50_000_000, 200_000

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class StimulusImages:
    """Images with their categories.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, SIZE, SIZE, 3)
    names, categories : tuple of str
        One an image.
    source : str
        Where they come from, for the data set's description.
    licence : str
    """

    images: Images
    names: tuple[str, ...]
    categories: tuple[str, ...]
    source: str
    licence: str

    def __len__(self) -> int:
        return len(self.images)


def load_stimuli(name: str, *, folder: Path | None = None) -> StimulusImages:
    """Read a source of stimuli.

    Parameters
    ----------
    name : str
        One of `SOURCES`, or the path of a folder of PNG or JPEG images whose subfolders are the categories.
    folder : Path, optional
        Where Fashion-MNIST or the emoji lie, if not at their usual place.

    Raises
    ------
    ToolError
        CHI-TL-020, CHI-TL-021 where a source is not installed.
    InputError
        CHI-IN-330 to 332.
    """
    if name == "fashion-mnist-small":
        return _fashion_small()
    if name == "fashion-mnist":
        return _fashion(folder or _DEBIAN)
    if name == "emoji":
        return _emoji(folder or (Path(os.environ["CHIASM_EMOJI"]) if os.environ.get("CHIASM_EMOJI") else None))
    return _folder(Path(name))


def is_phantom_emoji(unified: str) -> bool:
    """Whether an emoji belongs to phantoms and not to the training of decoders.

    The first code point decides, by the lowest bit of the first byte of its SHA-256: skin tones and the variants of a person follow
    their base, so that no near-duplicate stands on both sides.
    """
    return hashlib.sha256(unified.split("-", 1)[0].encode("ascii")).digest()[0] % 2 == 1


def idx_array(path: Path, *, most: int) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of bytes, of at most `most` values.

    Raises
    ------
    InputError
        CHI-IN-332.
    """
    try:
        with gzip.open(path) as stream:
            data = stream.read(most + 17)
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(path.name) from error
    n_axes = data[3] if data[:3] == b"\0\0\x08" else 0  # two zeros, 8 for unsigned bytes, how many axes
    shape = np.frombuffer(data[4 : 4 + 4 * n_axes], dtype=">u4").tolist() if 1 <= n_axes <= 3 else []
    values = np.frombuffer(data, dtype=np.uint8, offset=min(len(data), 4 + 4 * n_axes))
    if len(shape) != n_axes or not shape or int(np.prod(shape)) != len(values):
        raise _damaged(path.name)
    return values.reshape(shape)


def _damaged(name: str) -> InputError:
    return InputError("CHI-IN-332", "the file is damaged or of another kind.", "Install its package again.", file=name)


def _fashion_small() -> StimulusImages:
    from PIL import Image

    with Image.open(_SHIPPED / "fashion-mnist-small.png") as image:
        mosaic = np.asarray(image)
    rows, columns = mosaic.shape[0] // 28, mosaic.shape[1] // 28
    tiles = mosaic.reshape(rows, 28, columns, 28).swapaxes(1, 2).reshape(-1, 28, 28)
    lines = (_SHIPPED / "fashion-mnist-small.tsv").read_text("ascii").split("\n")[1:-1]
    numbers = [tuple(int(cell) for cell in line.split("\t")) for line in lines]
    return _dressed(tiles, numbers, "2,000 test images of Fashion-MNIST")


def _fashion(folder: Path) -> StimulusImages:
    paths = [folder / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1")]
    if not all(path.is_file() for path in paths):
        raise ToolError(
            "CHI-TL-020",
            "the images of Fashion-MNIST are not installed.",
            "Run `apt-get install dataset-fashion-mnist`, give the folder of its four files with --stimuli-folder, or take "
            "--stimuli fashion-mnist-small, which needs nothing.",
        )
    tiles, labels = idx_array(paths[0], most=10_000 * 28 * 28), idx_array(paths[1], most=10_000)
    if tiles.ndim != 3 or labels.shape != tiles.shape[:1] or labels.max(initial=0) >= len(FASHION_CLASSES):
        raise _damaged(paths[0].name)
    return _dressed(tiles, list(enumerate(labels.tolist())), "the 10,000 test images of Fashion-MNIST")


def _dressed(tiles: NDArray[np.uint8], numbers: list[tuple[int, ...]], source: str) -> StimulusImages:
    from PIL import Image

    images = np.stack(
        [np.asarray(Image.fromarray(tile).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for tile in tiles]
    )
    return StimulusImages(
        images=np.repeat(images[..., None], 3, axis=3),
        names=tuple(f"t10k-{index:05d}" for index, _ in numbers),
        categories=tuple(FASHION_CLASSES[label] for _, label in numbers),
        source=source,
        licence="MIT, Copyright (c) 2017 Zalando SE",
    )


def _emoji(folder: Path | None) -> StimulusImages:
    places = [folder / "img" / "google" / "64", folder / "package" / "img" / "google" / "64"] if folder else []
    place = next((place for place in places if place.is_dir()), None)
    table = place.parents[2] / "emoji.json" if place else None
    if place is None or table is None or not table.is_file():
        raise ToolError(
            "CHI-TL-021",
            "the emoji images are not installed.",
            "Run `npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz`, then set CHIASM_EMOJI to the "
            "folder `package`, or give it with --stimuli-folder.",
        )
    found: list[tuple[str, str, Path]] = []
    try:
        if table.stat().st_size > _MAX_BYTES:
            raise _damaged(table.name)
        for entry in json.loads(table.read_text("utf-8")):
            if is_phantom_emoji(entry["unified"]):
                for one in (entry, *entry.get("skin_variations", {}).values()):
                    path = place / Path(one["image"]).name
                    found += [(path.stem, entry["category"], path)] if path.is_file() else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(table.name) from error
    return _gathered(
        sorted(found), "the odd half of emoji-datasource-google", "Apache-2.0 (Noto emoji), MIT (the package)"
    )


def _folder(folder: Path) -> StimulusImages:
    if not folder.is_dir():
        raise InputError(
            "CHI-IN-330",
            "the stimuli are neither a known source nor a folder.",
            f"Give one of {', '.join(SOURCES)}, or a folder of PNG or JPEG images.",
        )
    paths = sorted(path for path in _files(folder) if path.suffix.lower() in _SUFFIXES)
    found = [(p.relative_to(folder).with_suffix("").as_posix(), _category(p, folder), p) for p in paths]
    return _gathered(found, "a folder of images", "as the folder says")


def _files(folder: Path) -> Iterator[Path]:
    """Walk a folder without following links, and not for ever."""
    n = 0
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            n += 1
            path = Path(place, name)
            if n > _MAX_FILES:
                return
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _category(path: Path, folder: Path) -> str:
    return path.relative_to(folder).parent.as_posix() if path.parent != folder else "uncategorised"


def _gathered(found: list[tuple[str, str, Path]], source: str, licence: str) -> StimulusImages:
    if len(found) < 2:
        raise InputError(
            "CHI-IN-330", f"{len(found)} images were found.", "At least two PNG or JPEG images are needed."
        )
    return StimulusImages(
        images=np.stack([read_square(path, relative=name) for name, _, path in found]),
        names=tuple(name for name, _, _ in found),
        categories=tuple(category for _, category, _ in found),
        source=source,
        licence=licence,
    )


def read_square(path: Path, *, relative: str = "") -> Images:
    """Read an image: transparency on white, shorter side to `SIZE` (bicubic), centre cropped; (SIZE, SIZE, 3).

    Raises
    ------
    InputError
        CHI-IN-331.
    """
    from PIL import Image, ImageOps

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("more bytes than an image of a screen has")
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError("more pixels than an image of a screen has")
            rgba = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            "CHI-IN-331",
            "the stimulus is damaged, too large, or no image.",
            "Remove it, or save it again as PNG or JPEG.",
            file=relative or path.name,
        ) from error
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return np.asarray(ImageOps.fit(flat, (SIZE, SIZE), Image.Resampling.BICUBIC))
