"""Stimuli as JPEG files inside tars (or beside the betas), found by position and decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from .stimuli import MAX_PIXELS, ArrayStimuli, check_images
from .tar_index import Part

CODES = {"CHI-IN-287": "An image inside a tar is damaged, is no JPEG or PNG, or is far too large."}


class PackedStimuli:
    """Images by where their bytes are.

    Parameters
    ----------
    parts : sequence of Part
    names : sequence of str
        A name each.
    root : Path
        Messages name files relative to it.
    """

    def __init__(self, parts: Sequence[Part], names: Sequence[str], *, root: Path) -> None:
        if len(parts) != len(names):
            raise ValueError(f"{len(parts)} images and {len(names)} names")
        self.parts, self._names, self.root = tuple(parts), tuple(names), root

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """A name each: the data set's own number."""
        return self._names

    @property
    def categories(self) -> tuple[str, ...]:
        """None: tars have no categories."""
        return ()

    def read(self, images: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
        """Return some images, (k, size, size, 3).

        Raises
        ------
        InputError
            ``CHI-IN-264``, ``CHI-IN-287``.
        """
        check_images(images, self.n)
        found = np.empty((len(images), size, size, 3), dtype=np.uint8)
        first = np.zeros(1, dtype=np.int64)
        for place, image in enumerate(images):
            found[place] = ArrayStimuli(self._pixels(int(image))[None]).read(first, size=size)[0]
        return found

    def _pixels(self, image: int) -> NDArray[np.uint8]:
        part = self.parts[image]
        try:
            with Image.open(BytesIO(part.read()), formats=("JPEG", "PNG")) as opened:
                if opened.width * opened.height <= MAX_PIXELS:
                    return np.asarray(opened.convert("RGB"))
        except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, EOFError):
            pass  # as `stimuli`: what Pillow raises for damaged files
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            pass
        raise InputError(
            "CHI-IN-287",
            f"the image '{self._names[image]}' in it is damaged, is no JPEG or PNG, or is far too large.",
            "Fetch the file again.",
            file=part.path.relative_to(self.root).as_posix(),
        )
