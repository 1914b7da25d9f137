"""The Medical Segmentation Decathlon layout: a training list in ``dataset.json``, channels in one 4-D file.

Source: Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13, 2022, and its ``dataset.json`` files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import ChiasmError
from ..recognition import stem
from .case import LabelledCase, inside, mistake, numbered_names, raise_all, read_dataset_json


def is_msd(root: Path) -> bool:
    """Whether `root` has a ``dataset.json`` with a training list."""
    if not (root / "dataset.json").is_file():
        return False
    return isinstance(read_dataset_json(root).get("training"), list)


def cases(root: Path) -> list[LabelledCase]:
    """Return the training cases in the order of the list's names; each case counts as a patient.

    Raises
    ------
    InputError, SeveralErrors
        ``CHI-IN-140``, ``141``, ``142``, ``145``, ``148``, all mistakes at once.
    """
    values = read_dataset_json(root)
    root = root.resolve()
    channels, errors = numbered_names(values.get("modality"), "modality", "CHI-IN-141")
    labels, wrong = numbered_names(values.get("labels"), "labels", "CHI-IN-142")
    errors += wrong
    if labels and len(labels) < 2:
        errors.append(mistake("CHI-IN-142", "'labels' has no label besides background.", "Name every label."))
    training = values.get("training")
    if not isinstance(training, list) or not training:
        errors.append(
            mistake(
                "CHI-IN-148",
                "'training' is missing, no list, or empty.",
                'Write [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}, ...].',
            )
        )
        training = []
    declared = values.get("numTraining")
    if training and declared is not None and declared != len(training):
        errors.append(
            mistake(
                "CHI-IN-145",
                f"'numTraining' is not the {len(training)} entries of 'training'.",
                "Correct the number or the list.",
            )
        )
    found = [_case(root, entry, number, channels, errors) for number, entry in enumerate(training)]
    whole = [case for case in found if case is not None]
    names = [case.name for case in whole]
    if len(set(names)) < len(names):
        errors.append(mistake("CHI-IN-148", "'training' lists an image twice.", "List each image once."))
    raise_all(errors)
    return sorted(whole, key=lambda case: case.name)


def _case(
    root: Path, entry: object, number: int, channels: list[str], errors: list[ChiasmError]
) -> LabelledCase | None:
    files: dict[str, Path] = {}
    for key in ("image", "label"):
        path = inside(root, entry.get(key)) if isinstance(entry, Mapping) else None
        if path is None:
            errors.append(
                mistake(
                    "CHI-IN-148",
                    f"entry {number} of 'training': its {key} is missing, not there, or outside the data set.",
                    "Give paths below the folder of dataset.json.",
                )
            )
            return None
        files[key] = path
    name = stem(files["image"].name)
    volumes = {channel: index for index, channel in enumerate(channels)} if len(channels) > 1 else {}
    return LabelledCase(
        name=name,
        patient=name,
        images=dict.fromkeys(channels, files["image"]),
        label=files["label"],
        volumes=volumes,
    )
