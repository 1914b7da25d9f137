"""Reconstructions in a folder: what ``chiasm run`` wrote for its subjects, or one ``NNNNN.png`` a stimulus from any other decoder."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ....data.containment import contained
from ....data.errors import InputError

CODES: dict[str, str] = {
    "CHI-IN-314": "A folder holds no reconstructions: neither a run's output nor NNNNN.png.",
    "CHI-IN-315": "A reconstruction cannot be read, is not square, or has another size than the others of its subject.",
    "CHI-IN-319": "A subject's results are not clear: several of them, two images of one stimulus, or a damaged table or result.json.",
}
FOLDER, TRIALS, RESULT = "_images", "_trials.tsv", "_result.json"
MAX_SIDE = 4096
MAX_JSON_BYTES = 64 << 20
_OF_RUN = re.compile(r"image-(\d{1,9})\.png")
_FLAT = re.compile(r"(\d{1,9})\.png")

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class Reconstructions:
    """Where one set of reconstructions lies.

    Parameters
    ----------
    subject : str
        Label; empty for a flat folder.
    files : mapping of int to Path
        Number of the stimulus, from 0 -> image; ascending.
    names : mapping of int to str
        Of the stimuli, as the run knew them; empty where nothing was written of that.
    result : mapping
        What ``result.json`` says; empty where there is none.
    """

    subject: str
    files: Mapping[int, Path]
    names: Mapping[int, str] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Of the stimuli, ascending."""
        return np.array(list(self.files), dtype=np.int64)

    def read(self) -> Images:
        """Read all images, uint8 (n, S, S, 3), in the order of `numbers`.

        Raises
        ------
        InputError
            ``CHI-IN-315``.
        """
        found = [_read_png(path) for path in self.files.values()]
        first = found[0].shape[0]
        for path, image in zip(self.files.values(), found, strict=True):
            if image.shape[0] != first:
                raise _image_error(
                    f"its side is {image.shape[0]} pixels, that of the first one of the set {first}", path
                )
        return np.stack(found)


def find_reconstructions(folder: Path, *, label: str) -> dict[str, Reconstructions | InputError]:
    """Find the sets of a folder by subject; a flat folder has one, of the subject ``""``.

    Parameters
    ----------
    folder : Path
    label : str
        Of the recipe (``desc-<label>``): says which results are meant where a subject has several.

    Returns
    -------
    dict
        Subject -> its reconstructions, or ``CHI-IN-319``.

    Raises
    ------
    InputError
        ``CHI-IN-314``; ``CHI-IN-319`` of a flat folder.
    """
    by_subject: dict[str, set[Path]] = {}
    for ending in (FOLDER, RESULT):
        for path in folder.glob(f"sub-*/func/*{ending}"):
            stem = path.with_name(path.name.removesuffix(ending))
            by_subject.setdefault(path.parents[1].name.removeprefix("sub-"), set()).add(stem)
    if not by_subject:
        return {"": Reconstructions(subject="", files=_numbered(folder, _FLAT))}
    found: dict[str, Reconstructions | InputError] = {}
    for subject, stems in sorted(by_subject.items()):
        try:
            found[subject] = _of_run(subject, _chosen(stems, label))
        except InputError as error:
            found[subject] = error
    return found


def _chosen(stems: set[Path], label: str) -> Path:
    meant = [stem for stem in stems if stem.name.endswith(f"_desc-{label}")] if len(stems) > 1 else list(stems)
    if len(meant) != 1:
        raise InputError(
            "CHI-IN-319",
            f"the subject has {len(stems)} results, and {len(meant)} of them belong to the recipe.",
            "Name the recipe of the run, or give the output of one run.",
            file=next(iter(stems)).parents[1].name,
        )
    return meant[0]


def _of_run(subject: str, stem: Path) -> Reconstructions:
    return Reconstructions(
        subject=subject,
        files=_numbered(stem.with_name(stem.name + FOLDER), _OF_RUN),
        names=_names(stem.with_name(stem.name + TRIALS)),
        result=_result(stem.with_name(stem.name + RESULT)),
    )


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*.png")):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        if (problem := contained(path, folder.resolve())) is not None:
            raise problem
        if int(match[1]) in found:
            raise InputError(
                "CHI-IN-319", f"two images are of stimulus {int(match[1])}.", "Keep one of them.", file=path.name
            )
        found[int(match[1])] = path
    if not found:
        raise InputError(
            "CHI-IN-314",
            "there are no reconstructions in the folder.",
            "Give the output of `chiasm run` (sub-*/func/*_images/image-NNNNN.png), or a folder of NNNNN.png, named by the "
            "stimulus' number from 0.",
            file=folder.name,
        )
    return dict(sorted(found.items()))


def _names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            return {int(row["image"]): row["name"] for row in rows if row["name"] not in (None, "n/a")}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise InputError(
            "CHI-IN-319", "the table of trials cannot be read.", "Run the subject again.", file=path.name
        ) from None


def _result(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError
        tree = json.loads(path.read_bytes(), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise InputError("CHI-IN-319", "the result cannot be read as JSON.", "Run the subject again.", file=path.name)
    return tree


def _no_number(text: str) -> None:
    raise ValueError(text)  # NaN and infinities, which JSON does not have


def _read_png(path: Path) -> Images:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            width, height = image.size
            if width == height and width <= MAX_SIDE:
                if image.mode not in {"RGB", "L", "P"} or "transparency" in image.info:
                    raise _image_error(
                        f"its colours are of the kind {image.mode}, not 8-bit RGB without transparency", path
                    )
                return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _image_error("it is damaged, or no PNG", path) from None
    raise _image_error(f"it has {width} x {height} pixels; images are square, {MAX_SIDE} a side at most", path)


def _image_error(problem: str, path: Path) -> InputError:
    return InputError(
        "CHI-IN-315",
        f"the reconstruction cannot be used: {problem}.",
        "Save the images in one size as PNG.",
        file=path.name,
    )
