"""A labelled case, and the reading of ``dataset.json`` that nnU-Net and the Decathlon share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..containment import contained
from ..errors import ChiasmError, InputError, SeveralErrors

CODES: dict[str, str] = {
    "CHI-IN-140": "dataset.json is missing, unreadable or no JSON object.",
    "CHI-IN-141": "The channels in dataset.json are wrong.",
    "CHI-IN-142": "The labels in dataset.json are wrong.",
    "CHI-IN-143": "regions_class_order in dataset.json is missing or does not fit the labels.",
    "CHI-IN-144": "file_ending in dataset.json is missing or no NIfTI ending.",
    "CHI-IN-145": "numTraining in dataset.json is not the number of cases.",
    "CHI-IN-146": "A case lacks its label map or a channel, or a label map has no images.",
    "CHI-IN-148": "An entry of the training list in dataset.json is wrong.",
    "CHI-IN-149": "The folder is in none of the known data set layouts.",
    "CHI-IN-150": "The channels of the data set do not fit the recipe's.",
}
_MAX_JSON_BYTES = 1 << 26
_MAX_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class LabelledCase:
    """One training example.

    Parameters
    ----------
    name : str
        Unique in the data set.
    patient : str
        Cases of one patient share it, and are never split between training and validation.
    images : mapping of str to Path
        Channel to file, in the data set's channel order.
    label : Path
    volumes : mapping of str to int
        Channel to the index of its 3-D volume, where one 4-D file holds several channels; else empty.
    """

    name: str
    patient: str
    images: Mapping[str, Path]
    label: Path
    volumes: Mapping[str, int] = field(default_factory=dict)


def read_dataset_json(root: Path) -> dict[str, Any]:
    """Read ``dataset.json``.

    Raises
    ------
    InputError
        ``CHI-IN-140``.
    """
    path = root / "dataset.json"
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise _unreadable("it is larger than 64 MiB")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(error.strerror or "it cannot be opened") from error
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise _unreadable(f"it is not JSON (line {line})" if line else "it is not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise _unreadable("it holds no JSON object")
    return value


def _unreadable(reason: str) -> InputError:
    return mistake("CHI-IN-140", f"cannot be used: {reason}.", "Write it as the layout's documentation says.")


def mistake(code: str, message: str, remedy: str, *, file: str = "dataset.json") -> InputError:
    """Return the error for one mistake in a data set."""
    return InputError(code, message, remedy, file=file)


def raise_all(errors: list[ChiasmError]) -> None:
    """Raise what was collected, if anything was (at most 20, and how many more)."""
    if len(errors) > _MAX_NAMED:
        more = len(errors) - _MAX_NAMED
        last = errors[_MAX_NAMED - 1]
        note = InputError(last.code, f"{more + 1} more mistakes like the ones before.", last.remedy)
        errors = [*errors[: _MAX_NAMED - 1], note]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralErrors(errors)


def numbered_names(value: object, key: str, code: str) -> tuple[list[str], list[ChiasmError]]:
    """Read ``{"0": "T1", "1": "T2"}`` into ``["T1", "T2"]``, with what is wrong about it."""
    remedy = f'Write "{key}": {{"0": "T1w", "1": ...}}.'
    if not isinstance(value, Mapping) or not value:
        return [], [mistake(code, f"'{key}' is missing or no object.", remedy)]
    if not all(isinstance(index, str) and re.fullmatch(r"\d{1,4}", index) for index in value):
        return [], [mistake(code, f"'{key}' has keys that are not numbers.", remedy)]
    if not all(isinstance(name, str) and name for name in value.values()):
        return [], [mistake(code, f"'{key}' has values that are no names.", remedy)]
    if sorted(int(index) for index in value) != list(range(len(value))):
        return [], [mistake(code, f"'{key}' does not count 0, 1, 2 ... without a gap.", remedy)]
    names = [str(value[index]) for index in sorted(value, key=int)]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        # Names become dictionary keys: equal ones would make one channel of two.
        return [], [mistake(code, f"'{key}' names a channel twice.", "Give each channel its own name.")]
    return names, []


def inside(root: Path, text: object) -> Path | None:
    """Return the path of an entry below `root`, or None where it leaves `root` or is not there."""
    if not isinstance(text, str) or not text or "\0" in text:
        return None
    given = Path(text)
    if given.is_absolute() or ".." in given.parts:
        return None
    path = Path(os.path.normpath(root / given))
    return path if contained(path, root) is None and path.is_file() else None
