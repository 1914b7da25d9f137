"""The nnU-Net raw layout: ``imagesTr/<case>_0000.nii.gz``, ``labelsTr/<case>.nii.gz`` and ``dataset.json``.

Source: nnU-Net's documentation of the data set format, version 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..containment import entries
from ..errors import ChiasmError
from .case import LabelledCase, mistake, numbered_names, raise_all, read_dataset_json

_ENDINGS = (".nii.gz", ".nii")
_IGNORE = "ignore"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What ``dataset.json`` says.

    Parameters
    ----------
    channels : tuple of str
    labels : dict of str to tuple of int
        Name to the label values that it covers: one, or several for a region. Without background and ignore.
    regions_class_order : tuple of int
        Value that each region is written with, in order; empty for exclusive labels.
    ignore : int, optional
        Value of voxels without annotation.
    file_ending : str
    n_training : int
    """

    channels: tuple[str, ...]
    labels: dict[str, tuple[int, ...]]
    regions_class_order: tuple[int, ...]
    ignore: int | None
    file_ending: str
    n_training: int


def is_nnunet(root: Path) -> bool:
    """Whether `root` has the folders of the layout and images with channel numbers."""
    if not ((root / "dataset.json").is_file() and (root / "labelsTr").is_dir()):
        return False
    names = [entry.name for entry in entries(root / "imagesTr")]
    return any(re.search(r"_\d{4}\.nii(\.gz)?$", name) for name in names)


def describe(root: Path) -> Description:
    """Read and check ``dataset.json``.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-140`` to ``CHI-IN-145``, all mistakes at once.
    """
    values = read_dataset_json(root)
    channels, errors = numbered_names(values.get("channel_names"), "channel_names", "CHI-IN-141")
    labels, ignore = _labels(values.get("labels"), errors)
    order = _regions_order(values.get("regions_class_order"), labels, errors)
    ending = values.get("file_ending")
    if ending not in _ENDINGS:
        errors.append(
            mistake("CHI-IN-144", "'file_ending' is missing or no NIfTI ending.", 'Write ".nii.gz" or ".nii".')
        )
    count = values.get("numTraining")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        errors.append(
            mistake("CHI-IN-145", "'numTraining' is missing or no positive number.", "Write the number of cases.")
        )
    raise_all(errors)
    return Description(
        channels=tuple(channels),
        labels=labels,
        regions_class_order=order,
        ignore=ignore,
        file_ending=str(ending),
        n_training=int(str(count)),
    )


def _labels(value: object, errors: list[ChiasmError]) -> tuple[dict[str, tuple[int, ...]], int | None]:
    def wrong(message: str, remedy: str = 'Write "labels": {"background": 0, "name": 1, ...}.') -> None:
        errors.append(mistake("CHI-IN-142", message, remedy))

    if not isinstance(value, Mapping) or len(value) < 2:
        wrong("'labels' is missing, no object, or has no label besides background.")
        return {}, None
    labels: dict[str, tuple[int, ...]] = {}
    for name, given in value.items():
        numbers = given if isinstance(given, list) else [given]
        if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 65536 for n in numbers):
            wrong(f"label {len(labels) + 1} of 'labels' is no whole number or list of them.")
            return {}, None
        labels[str(name)] = tuple(numbers)
    if labels.pop("background", None) != (0,):
        wrong("'background' is missing or not 0.")
        return {}, None
    ignored = labels.pop(_IGNORE, None)
    present = sorted({number for numbers in labels.values() for number in numbers})
    if present and present[0] == 0:
        wrong("a label other than background is or holds 0.")
    elif present != list(range(1, len(present) + 1)):
        wrong(f"label values do not count 1, 2, 3 ... without a gap: {present[:10]}.")
    if ignored is not None and (len(ignored) != 1 or ignored[0] != len(present) + 1):
        wrong("'ignore' is not the highest value plus one.", "Give ignore the value after the last label.")
    return labels, ignored[0] if ignored else None


def _regions_order(value: object, labels: Mapping[str, tuple[int, ...]], errors: list[ChiasmError]) -> tuple[int, ...]:
    regions = any(len(numbers) > 1 for numbers in labels.values())
    if not regions:
        return ()
    numbers: list[Any] = value if isinstance(value, list) else []
    if len(numbers) != len(labels) or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        errors.append(
            mistake(
                "CHI-IN-143",
                f"'regions_class_order' has {len(numbers)} numbers for {len(labels)} regions.",
                "Give one value a region, in the order of 'labels', outer regions first.",
            )
        )
        return ()
    return tuple(numbers)


def cases(root: Path) -> list[LabelledCase]:
    """Return the training cases, sorted by name; each case counts as a patient.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-140`` to ``CHI-IN-146``, all mistakes at once.
    """
    description = describe(root)
    ending = description.file_ending
    images = _by_case(root / "imagesTr", ending)
    labels = {
        entry.name.removesuffix(ending): Path(entry.path)
        for entry in entries(root / "labelsTr")
        if entry.name.endswith(ending)
    }
    errors: list[ChiasmError] = []
    wanted = list(range(len(description.channels)))
    for name in sorted({*images, *labels}):
        got = sorted(images.get(name, {}))
        if got != wanted:
            listed = ", ".join(f"_{index:04d}" for index in got) or "none"
            message = f"The case has the channel files {listed}; {len(wanted)} channels are declared."
            errors.append(mistake("CHI-IN-146", message, "Add or remove files in imagesTr.", file=f"imagesTr/{name}"))
        if name not in labels:
            errors.append(
                mistake("CHI-IN-146", "The case has no label map.", "Add it to labelsTr.", file=f"labelsTr/{name}")
            )
    if not errors and len(labels) != description.n_training:
        errors.append(
            mistake(
                "CHI-IN-145",
                f"'numTraining' is {description.n_training}, but {len(labels)} cases are there.",
                "Correct the number, or add the missing cases.",
            )
        )
    raise_all(errors)
    return [
        LabelledCase(
            name=name,
            patient=name,
            images={channel: images[name][index] for index, channel in enumerate(description.channels)},
            label=path,
        )
        for name, path in labels.items()
    ]


def _by_case(folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    found: dict[str, dict[int, Path]] = {}
    pattern = re.compile(rf"(?P<case>.+)_(?P<index>\d{{4}}){re.escape(ending)}")
    for entry in entries(folder):
        match = pattern.fullmatch(entry.name)
        if match:
            found.setdefault(match["case"], {})[int(match["index"])] = Path(entry.path)
    return found
