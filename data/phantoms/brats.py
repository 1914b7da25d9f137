"""Cohorts in the layout of BraTS 2021 with planted tumours: four contrasts, labels 1, 2, 4, everything known.

A tumour is a blob in the white matter, its outline a thresholded smooth random field: a necrotic core (1) in an
enhancing rim (4), in oedema (2) that follows the white matter and spares the ventricles. Oedema is bright in FLAIR
and T2 and fades over some millimetres about its labelled border; the rim is bright in contrast-enhanced T1, the core
dark there. How bright differs from patient to patient, and `mimics` puts in what is as bright and no tumour. The mass
displaces nothing: a simplification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecipeError
from .heads import (
    TISSUES,
    Cohort,
    Labels,
    Scanner,
    brain,
    paint,
    refuse_non_empty,
    template,
    volumes_ml,
    write_marker,
    write_nifti,
)
from .label_maps import CSF, GREY, WHITE, Draw, TissueMaps
from .mimics import SIGNALS, mimics

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4
"""Labels of BraTS 2021 (2023 and later write 3 for the enhancing tumour)."""

TUMOUR: Mapping[str, int] = {"necrosis": NECROSIS, "oedema": OEDEMA, "enhancing": ENHANCING}
CONTRASTS = ("flair", "t1ce", "t1", "t2")

_OFFSET = 10  # a tumour label inside the array that is painted: tissue labels are 1 to 3

MEANS: Mapping[str, Mapping[int, float]] = {
    # relative to white matter in T1; orders as in the clinic: CSF dark in FLAIR and T1, bright in T2; oedema bright
    # in FLAIR, T2
    "flair": {CSF: 0.20, GREY: 0.80, WHITE: 0.65, 11: 0.55, 12: 1.25, 14: 1.00},
    "t1ce": {CSF: 0.25, GREY: 0.65, WHITE: 0.90, 11: 0.35, 12: 0.65, 14: 1.50},
    "t1": {CSF: 0.25, GREY: 0.65, WHITE: 0.95, 11: 0.45, 12: 0.65, 14: 0.60},
    "t2": {CSF: 1.40, GREY: 0.80, WHITE: 0.55, 11: 1.25, 12: 1.15, 14: 0.90},
}


@dataclass(frozen=True, kw_only=True)
class Tumours:
    """How tumours are drawn.

    Parameters
    ----------
    core_mm : tuple of float
        Range of the radius of the core with its rim.
    oedema : tuple of float
        Range of the oedema's radius relative to the core's.
    roughness : float
        Standard deviation of the outline, relative to the radius.
    without_rim : float
        Share of patients without enhancing tumour (an empty region, as in low-grade glioma).
    contrast : tuple of float
        Range over patients of the difference from white matter, relative to `MEANS`; drawn by part and contrast.
    edge_mm : float
        Standard deviation of the fading of the oedema about its border.
    strength : float
        1: contrast as above; 0: oedema looks like the tissue around it, the core like white matter (a null cohort).
    """

    core_mm: tuple[float, float] = (9.0, 20.0)
    oedema: tuple[float, float] = (1.4, 2.1)
    roughness: float = 0.18
    without_rim: float = 0.05
    contrast: tuple[float, float] = (0.65, 1.1)
    edge_mm: float = 2.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 2.0:
            raise RecipeError(
                "CHI-RC-070", f"strength must be 0 to 2, got {self.strength}.", "1 is the usual contrast."
            )


@dataclass(frozen=True, eq=False)
class Patient:
    """One phantom patient.

    Parameters
    ----------
    images : dict of ndarray of int16, shape (X, Y, Z)
        By contrast; exactly 0 outside the brain. RAS+ order.
    labels, tissue : ndarray of uint8, shape (X, Y, Z)
        Tumour labels 0, 1, 2, 4; tissue labels of the healthy brain.
    """

    images: dict[str, NDArray[np.int16]]
    labels: Labels
    tissue: Labels


def plant(tissue: Labels, draw: Draw, spacing_mm: float, tumours: Tumours) -> Labels:
    """Draw a tumour into a brain.

    Parameters
    ----------
    tissue : ndarray of uint8, shape (X, Y, Z)
        1 CSF, 2 grey matter, 3 white matter.

    Returns
    -------
    ndarray of uint8, shape (X, Y, Z)
        0, 1 necrosis, 2 oedema, 4 enhancing tumour.
    """
    from scipy.ndimage import distance_transform_edt

    shape = tissue.shape
    radius = float(np.exp(draw.uniform(*np.log(tumours.core_mm))))
    depth = distance_transform_edt(tissue > 0, sampling=spacing_mm)
    inside = np.argwhere((tissue == WHITE) & (depth >= min(radius, 0.5 * float(depth.max()))))
    centre = inside[int(draw.scalars.integers(len(inside)))]
    stretch = np.exp(draw.scalars.normal(0.0, 0.15, 3))
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    squares = [((g - c) * spacing_mm * s) ** 2 for g, c, s in zip(grids, centre, stretch, strict=True)]
    distance = np.sqrt(sum(squares, np.zeros(1))) / radius

    def rough(step_mm: float, share: float) -> NDArray[np.float32]:
        field: NDArray[np.float32] = draw.smooth(1, shape, step_mm / spacing_mm)[0].numpy()
        return field * (tumours.roughness * share)

    outline = distance + rough(max(8.0, 0.8 * radius), 1.0) + rough(6.0, 0.4)
    brain_mask = tissue > 0
    core = (outline < 1.0) & brain_mask
    necrosis = core & (outline + rough(6.0, 0.5) < draw.uniform(0.5, 0.75))
    reach = draw.uniform(*tumours.oedema)
    spread = outline + rough(max(10.0, radius), 1.0)
    # Oedema runs along white matter, stops in the cortex, and never enters fluid.
    limit = np.array([0.0, 0.0, 0.75 * reach, reach], dtype=np.float32)[tissue]
    labels = np.where(spread < limit, OEDEMA, 0).astype(np.uint8)
    labels[core] = NECROSIS if draw.chance(tumours.without_rim) else ENHANCING
    labels[necrosis] = NECROSIS
    return labels


def patient(
    maps: TissueMaps, cohort: Cohort, index: int, *, tumours: Tumours | None = None, scanner: Scanner | None = None
) -> Patient:
    """Make patient `index` (from 1) of a cohort; it depends on the seed and the index only."""
    draw, tumours, scanner = cohort.draw(index), tumours or Tumours(), scanner or Scanner()
    tissue = brain(maps, draw, cohort.shape, cohort.spacing_mm)
    labels = plant(tissue, draw, cohort.spacing_mm, tumours)
    core = (labels == NECROSIS) | (labels == ENHANCING)
    painted = np.where(core, labels + _OFFSET, tissue).astype(np.uint8)
    oedema, patches = _oedema(tissue, labels, draw, cohort.spacing_mm, tumours)
    others = mimics(np.where(core, 0, tissue).astype(np.uint8), draw, cohort.spacing_mm)
    images = {}
    for name in CONTRASTS:
        means = dict(MEANS[name])
        for label in (NECROSIS, OEDEMA, ENHANCING):
            gain = tumours.strength * draw.uniform(*tumours.contrast)
            means[label + _OFFSET] = means[WHITE] + gain * (means[label + _OFFSET] - means[WHITE])
        added = oedema * (means[OEDEMA + _OFFSET] - means[WHITE])
        added += patches * (means[ENHANCING + _OFFSET] - means[WHITE])
        for kind, amount in others.items():
            added += amount * SIGNALS[kind][name]
        images[name] = paint(painted, means, draw, cohort.spacing_mm, scanner=scanner, added=added)
    return Patient(images, labels, tissue)


def _oedema(
    tissue: Labels, labels: Labels, draw: Draw, spacing_mm: float, tumours: Tumours
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the amount of oedema (about 0.5 at its border) and the patchiness of the rim (mean 0)."""
    from scipy.ndimage import gaussian_filter

    patchy = draw.smooth(1, tissue.shape, 10.0 / spacing_mm)[0].numpy()
    amount = gaussian_filter((labels > 0).astype(np.float32), tumours.edge_mm / spacing_mm)
    amount *= np.array([0.0, 0.0, 0.6, 1.0], dtype=np.float32)[tissue] * np.exp(0.25 * patchy)
    amount[(labels == NECROSIS) | (labels == ENHANCING)] = 0.0
    return amount, (0.3 * patchy * (labels == ENHANCING)).astype(np.float32)


def write_brats(out: Path, cohort: Cohort, *, tumours: Tumours | None = None) -> list[str]:
    """Write ``BraTS2021_XXXXX/BraTS2021_XXXXX_{flair,t1ce,t1,t2,seg}.nii.gz`` for a cohort.

    Returns
    -------
    list of str
        Case names.

    Raises
    ------
    RecipeError
        CHI-RC-071 where `out` holds something already.
    """
    refuse_non_empty(out)
    maps = template()
    affine = brats_affine(cohort)
    names, rows = [], []
    for index in range(1, cohort.patients + 1):
        made, name = patient(maps, cohort, index, tumours=tumours), f"BraTS2021_{index:05d}"
        for contrast, image in made.images.items():
            write_nifti(out / name / f"{name}_{contrast}.nii.gz", _as_lps(image), affine)
        write_nifti(out / name / f"{name}_seg.nii.gz", _as_lps(made.labels), affine)
        names.append(name)
        rows.append(row(name, made, cohort.spacing_mm))
    write_marker(out, "Phantom cohort in the layout of BraTS 2021", rows)
    return names


def row(name: str, made: Patient, spacing_mm: float) -> dict[str, Any]:
    """Return the line of ``participants.tsv``: true volumes of tumour and tissue in ml."""
    return (
        {"participant_id": name}
        | volumes_ml(made.labels, TUMOUR, spacing_mm)
        | volumes_ml(made.tissue, TISSUES, spacing_mm)
    )


def brats_affine(cohort: Cohort) -> NDArray[np.float64]:
    """Affine of the published files: voxels run to the patient's left and back, the origin in a corner."""
    affine = np.diag([-cohort.spacing_mm, -cohort.spacing_mm, cohort.spacing_mm, 1.0])
    affine[1, 3] = (cohort.shape[1] - 1) * cohort.spacing_mm
    return affine


def _as_lps(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values[::-1, ::-1])
