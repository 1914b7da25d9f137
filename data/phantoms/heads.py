"""Heads with known anatomy: deformed from the MNI template, painted with the intensities of a named contrast.

Anatomy comes from `label_maps`; here it is painted as a scanner would show it (tissue means, texture, partial volume,
bias field, Rician noise), so that the truth behind every voxel is known. A phantom shows that software does what it
says; it is no evidence of accuracy on people.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_bytes, write_json, write_tsv
from ..errors import RecipeError
from .label_maps import CSF, GREY, WHITE, Draw, Ranges, TissueMaps, generate, template_maps

CODES: dict[str, str] = {
    "CHI-RC-070": "a setting of a phantom cohort is outside what is allowed",
    "CHI-RC-071": "the output folder of a phantom cohort is not empty",
}

Shape = tuple[int, int, int]
Labels = NDArray[np.uint8]

SKULL, SCALP = 8, 9
"""Labels of the shells around the brain (whole heads only; never written)."""

GENTLE = Ranges(rotation_deg=8.0, scale=0.05, shear=0.03, mask_error=0.0, low_resolution=0.0)
"""Anatomy within what a normal, roughly aligned head looks like (the training ranges go far beyond)."""

T1_MEANS: Mapping[int, float] = {CSF: 0.25, GREY: 0.65, WHITE: 1.0, SKULL: 0.08, SCALP: 1.1}


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """What an acquisition adds to the anatomy, relative to the white-matter signal.

    Parameters
    ----------
    noise, bias, texture : float
        Standard deviation of the noise; of the logarithm of the bias field; of the smooth variation inside a tissue.
    jitter : float
        Relative standard deviation of each tissue's mean from patient to patient.
    blur_mm : float
        Gaussian point spread of the head itself.
    blur_voxels : float
        Gaussian point spread that a voxel adds (partial volume); the default is as wide at half height as a voxel.
    """

    noise: float = 0.035
    bias: float = 0.08
    texture: float = 0.04
    jitter: float = 0.05
    blur_mm: float = 0.7
    blur_voxels: float = 0.42


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Size and seed of a phantom cohort; patient i depends on (seed, i) only.

    Parameters
    ----------
    patients, seed : int
    shape : tuple of int
        Voxels of each volume.
    spacing_mm : float
        Isotropic voxel size.

    Raises
    ------
    RecipeError
        CHI-RC-070, every wrong setting at once.
    """

    patients: int
    seed: int = 0
    shape: Shape = (240, 240, 155)
    spacing_mm: float = 1.0

    def __post_init__(self) -> None:
        wrong = []
        if not 1 <= self.patients <= 99_999:
            wrong.append(f"patients must be 1 to 99999, got {self.patients}")
        if self.seed < 0:
            wrong.append(f"seed must be >= 0, got {self.seed}")
        if any(not 16 <= n <= 512 for n in self.shape):
            wrong.append(f"shape must be three sizes of 16 to 512 voxels, got {self.shape}")
        if not 0.5 <= self.spacing_mm <= 6.0:
            wrong.append(f"spacing must be 0.5 to 6 mm, got {self.spacing_mm}")
        if wrong:
            raise RecipeError("CHI-RC-070", "; ".join(wrong) + ".", "Give values inside these ranges.")

    def draw(self, index: int) -> Draw:
        """Return the random numbers of one patient."""
        return Draw(self.seed, index)


def shape_for(spacing_mm: float) -> Shape:
    """Voxels that cover the field of view of BraTS (240 x 240 x 155 mm), at least 16 along each axis.

    Raises
    ------
    RecipeError
        CHI-RC-070 for a voxel size outside 0.5 to 6 mm.
    """
    if not 0.5 <= spacing_mm <= 6.0:
        raise RecipeError("CHI-RC-070", f"spacing must be 0.5 to 6 mm, got {spacing_mm}.", "3 is quick, 1 is usual.")
    x, y, z = (max(16, round(mm / spacing_mm)) for mm in (240, 240, 155))
    return x, y, z


@cache
def template() -> TissueMaps:
    """Return the template's maps, read once a process (2 s)."""
    return template_maps()


def brain(maps: TissueMaps, draw: Draw, shape: Shape, spacing_mm: float) -> Labels:
    """Draw an anatomy: 0 background, 1 CSF, 2 grey matter, 3 white matter, in RAS+ order, centred."""
    sample = generate(maps, draw, shape=shape, spacing_mm=spacing_mm, ranges=GENTLE, whole=True, contrast="t1")
    return sample.labels.numpy().astype(np.uint8)


def with_shells(labels: Labels, spacing_mm: float, *, skull_mm: float = 6.0, scalp_mm: float = 6.0) -> Labels:
    """Put a dark shell (skull) and a bright one (scalp) around a brain."""
    from scipy.ndimage import distance_transform_edt

    away = distance_transform_edt(labels == 0, sampling=spacing_mm)
    out = labels.copy()
    out[(labels == 0) & (away <= skull_mm + scalp_mm)] = SCALP
    out[(labels == 0) & (away <= skull_mm)] = SKULL
    return out


def paint(
    labels: Labels,
    means: Mapping[int, float],
    draw: Draw,
    spacing_mm: float,
    *,
    scanner: Scanner,
    stripped: bool = True,
    added: NDArray[np.float32] | None = None,
) -> NDArray[np.int16]:
    """Turn labels into an image of one contrast.

    Parameters
    ----------
    labels : ndarray, shape (X, Y, Z)
    means : mapping
        Label -> signal; labels that are not named give none.
    draw : Draw
    spacing_mm : float
    scanner : Scanner
    stripped : bool
        Set everything outside the labels to exactly 0, as skull stripping does.
    added : ndarray of float32, shape (X, Y, Z), optional
        Signal on top of the means, in their unit.

    Returns
    -------
    ndarray of int16, shape (X, Y, Z)
        Arbitrary units; inside the labels at least 1, so that "not zero" is the brain.
    """
    from scipy.ndimage import gaussian_filter

    shape: Shape = labels.shape
    table = np.zeros(256, dtype=np.float32)
    for label, mean in means.items():
        table[label] = mean * (1 + scanner.jitter * float(draw.scalars.standard_normal()))
    image = table[labels]
    if added is not None:
        image += added
    # Variances of the two scales add up to one: `texture` and `bias` keep their meaning.
    coarse, fine = (draw.smooth(1, shape, step / spacing_mm)[0].numpy() for step in (12.0, 4.0))
    image *= 1 + scanner.texture * (0.8 * coarse + 0.6 * fine)
    inside, sigma = labels > 0, float(np.hypot(scanner.blur_mm / spacing_mm, scanner.blur_voxels))
    image = gaussian_filter(image, sigma)
    if stripped:  # the brain was not surrounded by nothing when it was measured
        image /= np.maximum(gaussian_filter(inside.astype(np.float32), sigma), 0.05)
    wide, near = (draw.smooth(1, shape, step / spacing_mm)[0].numpy() for step in (80.0, 40.0))
    image *= np.exp(scanner.bias * (0.8 * wide + 0.6 * near))
    noise = scanner.noise * draw.normal(2, *shape).numpy()
    image = np.hypot(image + noise[0], noise[1])  # the magnitude of a complex signal: Rician
    image *= draw.uniform(400.0, 900.0)
    image = np.where(inside, np.maximum(image, 1.0), 0.0 if stripped else image)
    return np.rint(np.minimum(image, 32767.0)).astype(np.int16)


def write_heads(out: Path, cohort: Cohort, *, scanner: Scanner | None = None) -> list[str]:
    """Write a BIDS data set of whole-head T1w volumes; the true tissue labels go to ``derivatives/truth``.

    Returns
    -------
    list of str
        Patient labels.

    Raises
    ------
    RecipeError
        CHI-RC-071 where `out` holds something already.
    """
    refuse_non_empty(out)
    maps, scanner = template(), scanner or Scanner()
    affine = centred_affine(cohort.shape, cohort.spacing_mm)
    rows = []
    for index in range(1, cohort.patients + 1):
        draw, name = cohort.draw(index), f"{index:05d}"
        labels = brain(maps, draw, cohort.shape, cohort.spacing_mm)
        image = paint(
            with_shells(labels, cohort.spacing_mm), T1_MEANS, draw, cohort.spacing_mm, scanner=scanner, stripped=False
        )
        write_nifti(out / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz", image, affine)
        truth = out / "derivatives" / "truth" / f"sub-{name}" / "anat" / f"sub-{name}_dseg.nii.gz"
        write_nifti(truth, labels, affine)
        rows.append({"participant_id": f"sub-{name}"} | volumes_ml(labels, TISSUES, cohort.spacing_mm))
    write_marker(out, "Phantom heads: T1w", rows)
    return [f"{index:05d}" for index in range(1, cohort.patients + 1)]


TISSUES: Mapping[str, int] = {"csf": CSF, "grey_matter": GREY, "white_matter": WHITE}


def volumes_ml(labels: Labels, names: Mapping[str, int], spacing_mm: float) -> dict[str, float]:
    """Volume of each named label, as ``<name>_ml``."""
    return {f"{name}_ml": round(int((labels == v).sum()) * spacing_mm**3 / 1000, 3) for name, v in names.items()}


def centred_affine(shape: Shape, spacing_mm: float) -> NDArray[np.float64]:
    """RAS+ affine with the middle of the volume at the origin."""
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [-spacing_mm * (n - 1) / 2 for n in shape]
    return affine


def write_nifti(path: Path, values: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write a gzipped NIfTI-1 file in which equal voxels are equal bytes (no time in the gzip header)."""
    import nibabel

    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def write_marker(out: Path, title: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Write ``participants.tsv`` and the ``dataset_description.json`` that says that nothing here is a person."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    write_tsv(out / "participants.tsv", rows, columns)
    description = {
        "Name": title,
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "chiasm phantom", "Description": "Synthetic: no person was measured."}],
        "chiasm_phantom": True,
    }
    write_json(out / "dataset_description.json", description | more)


def refuse_non_empty(out: Path) -> None:
    """Refuse a folder that holds something: two cohorts must not mix.

    Raises
    ------
    RecipeError
        CHI-RC-071.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError("CHI-RC-071", "the output folder is not empty.", "Give a new folder for the phantom cohort.")


def scaled(scanner: Scanner, strength: float) -> Scanner:
    """Scale all disturbances of a scanner together (0 gives clean images)."""
    return replace(
        scanner,
        noise=scanner.noise * strength,
        bias=scanner.bias * strength,
        texture=scanner.texture * strength,
        jitter=scanner.jitter * strength,
    )
