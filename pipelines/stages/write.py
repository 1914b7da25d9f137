"""Labels, mask, probabilities, tables and sidecars as a BIDS derivative, each file whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...data.atomic import write_json, write_tsv
from ...data.nifti import write_labels, write_values
from ...data.patients import Session
from ..engine.records import label_of, sha256_of_file
from ..engine.stage import Context, Stage
from ..engine.weights import find
from ..recipes import Recipe
from .items import LabelMeasure, Measured, Written
from .prepare_channels import reference_channel
from .read_channels import MASK_CHANNEL

SUFFIX_FOLDER = "anat"


class Write(Stage):
    """Write what was measured.

    Parameters
    ----------
    recipe : Recipe
        Its name becomes the ``desc-`` of the files.
    """

    name = "write"
    consumes = Measured
    produces = Written

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.desc = label_of(recipe.name)

    def run(self, item: Measured, context: Context) -> Written:
        """Write one patient's files; returns their hashes for the done-record."""
        case = item.labelled.case
        stem = stem_of(context.out, case.session)
        grid = case.output_grid
        files: list[Path] = []

        labels = stem.with_name(f"{stem.name}_desc-{self.desc}_dseg.nii.gz")
        write_labels(labels, item.labelled.labels, grid)
        table = stem.with_name(f"{stem.name}_desc-{self.desc}_dseg.tsv")
        write_tsv(table, [{"index": 0, "name": "background"}, *self._lookup()], ("index", "name"))
        files += [
            labels,
            table,
            self._sidecar(labels, context, {"Labels": {str(v): n for v, n in self.recipe.label_names.items()}}),
        ]

        if item.labelled.mask is not None:
            mask = stem.with_name(f"{stem.name}_desc-brain_mask.nii.gz")
            write_labels(mask, item.labelled.mask.view(np.uint8), grid)
            files += [mask, self._sidecar(mask, context, {"Type": "Brain", "MaskSource": case.mask_source})]
        for name, values in item.labelled.probabilities.items():
            path = stem.with_name(f"{stem.name}_label-{label_of(name)}_desc-{self.desc}_probseg.nii.gz")
            write_values(path, values.astype(np.float32) / 255, grid, dtype=np.uint8)
            files += [path, self._sidecar(path, context, {"Label": name, "Range": [0, 1]})]

        volumes = stem.with_name(f"{stem.name}_desc-{self.desc}_volumes.tsv")
        write_tsv(
            volumes,
            [_row(m) for m in item.measures],
            ("name", "index", "volume_ml", "voxels", "centre_x_mm", "centre_y_mm", "centre_z_mm"),
        )
        files.append(volumes)
        files += self._dicom_seg(item, stem)

        outputs = {path.relative_to(context.out).as_posix(): sha256_of_file(path) for path in files}
        return Written(measured=item, outputs=outputs, row=item.row)

    def _lookup(self) -> list[dict[str, Any]]:
        return [{"index": value, "name": name} for value, name in sorted(self.recipe.label_names.items())]

    def _sidecar(self, path: Path, context: Context, own: Mapping[str, Any]) -> Path:
        sidecar = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
        write_json(
            sidecar,
            {
                **own,
                "Sources": dict(context.notes.get("sources", {})),
                "SpatialReference": "orig",
                "SpatialNote": "Same voxels, affine, units and qform/sform codes as the first source.",
                "Recipe": self.recipe.name,
                "RecipeSha256": self.recipe.sha256(),
                "Models": self._models(),
                "Plan": context.plan.as_json(),
                "Preparation": context.notes.get("preparation", []),
                "QualityFlags": list(context.flags),
            },
        )
        return sidecar

    def _models(self) -> dict[str, dict[str, str]]:
        return {
            component: {name: find(name).sha256 for name in spec.weight_names}
            for component, spec in self.recipe.components.items()
            if spec.weight_names
        }

    def _dicom_seg(self, item: Measured, stem: Path) -> list[Path]:
        case = item.labelled.case
        # Labels lie on the grid of the first channel or, after `--prepare`, of the reference channel.
        read = [name for name in self.recipe.channels if name != MASK_CHANNEL and case.session.channel(name)]
        first = case.session.channel(reference_channel(read) if case.target is not None else next(iter(case.channels)))
        if first is None or first.kind != "dicom":
            return []
        if not item.labelled.labels.any():
            return []  # a segmentation object without one segment voxel is not valid; the NIfTI says that it is empty
        from ...data.dicom_seg import write_segmentation

        path = stem.with_name(f"{stem.name}_desc-{self.desc}_dseg.dcm")
        write_segmentation(path, item.labelled.labels, first.files, self.recipe.label_names, seed=self.recipe.sha256())
        return [path]


def stem_of(out: Path, session: Session) -> Path:
    """Return ``OUT/sub-<p>[/ses-<s>]/anat/<key>``: what every output file's name begins with."""
    return out / session.folder / SUFFIX_FOLDER / session.key


def _row(measure: LabelMeasure) -> dict[str, Any]:
    x, y, z = measure.centre_mm or (None, None, None)
    return {
        "name": measure.name,
        "index": measure.values[0] if measure.exclusive else None,
        "volume_ml": round(measure.volume_ml, 3),
        "voxels": measure.n_voxels,
        "centre_x_mm": x,
        "centre_y_mm": y,
        "centre_z_mm": z,
    }
