"""A folded sheet of visual cortex in a small volume: voxels that are neighbours on the sheet do similar things.

Each hemisphere is a corrugated rectangle. Along it (posterior to anterior) eccentricity grows with cortical magnification;
across it lie the areas, from lateral cortex through V3d, V2d, V1, V2v, V3v and hV4 to ventral cortex, with polar angle
turning round at each border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .forward_model import ForwardModel

BANDS: tuple[tuple[str, float, float, float], ...] = (
    # name, share of the width, polar angle at the two borders (degrees above the horizontal meridian)
    ("lateral", 0.14, 90, -90),
    ("V3d", 0.08, -90, 0),
    ("V2d", 0.09, 0, -90),
    ("V1d", 0.11, -90, 0),
    ("V1v", 0.11, 0, 90),
    ("V2v", 0.09, 90, 0),
    ("V3v", 0.08, 0, 90),
    ("hV4", 0.10, 90, -90),
    ("ventral", 0.20, -90, 90),
)
AREAS = tuple(name for name, *_ in BANDS)
SPACING_MM = 1.8
BEYOND = 0.25
"""How far the sheet goes on past the visual areas: cortex outside nsdgeneral."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cortex:
    """Voxels of one subject, in C order of the volume.

    Parameters
    ----------
    shape : tuple of int
        X, Y, Z.
    voxel : ndarray of int64, shape (V, 3)
        Indices.
    sheet_mm : ndarray of float64, shape (V, 2)
        Place on the sheet: along, across; the two hemispheres are far apart.
    area : ndarray of int64, shape (V,)
        Index into `AREAS`, -1 beyond the visual areas.
    left : ndarray of bool, shape (V,)
        Hemisphere.
    eccentricity, angle : ndarray of float64, shape (V,)
        Degrees; the angle is above the horizontal meridian, in the contralateral field.
    """

    shape: tuple[int, int, int]
    voxel: NDArray[np.int64]
    sheet_mm: NDArray[np.float64]
    area: NDArray[np.int64]
    left: NDArray[np.bool_]
    eccentricity: NDArray[np.float64]
    angle: NDArray[np.float64]

    @property
    def visual(self) -> NDArray[np.bool_]:
        """Which voxels are in nsdgeneral."""
        return self.area >= 0

    @property
    def centre_deg(self) -> NDArray[np.float64]:
        """Place in the visual field that the map assigns: x (right), y (up); (V, 2)."""
        side = np.where(self.left, 1.0, -1.0)  # the left hemisphere sees the right half
        turn = np.deg2rad(self.angle)
        return np.stack([side * self.eccentricity * np.cos(turn), self.eccentricity * np.sin(turn)], axis=1)

    def painted(self, values: NDArray[np.generic], fill: float = 0) -> NDArray[np.generic]:
        """Put values of the voxels into a volume."""
        volume = np.full(self.shape, fill, dtype=values.dtype)
        volume[tuple(self.voxel.T)] = values
        return volume


def grow_cortex(rng: np.random.Generator, model: ForwardModel) -> Cortex:
    """Draw the geometry of one subject: 900 to 1,200 voxels in the visual areas."""
    x, y, z = (int(n) for n in rng.integers((24, 27, 22), (30, 33, 27)))
    shape, wanted = (x, y, z), int(rng.integers(950, 1150))
    folds = rng.uniform((3.0, 16.0, 0.0, 1.0, 14.0, 0.0), (5.0, 22.0, 6.28, 2.0, 20.0, 6.28), (2, 6))
    side, rows = 36.0, np.zeros((0, 6))
    for _ in range(4):  # how many voxels a sheet meets depends on its folds
        side *= float(np.sqrt(wanted / max(int((rows[:, 3] < side).sum()), 1))) if len(rows) else 1.0
        rows = np.concatenate([_sheet(shape, side, folds[i], left=i == 0) for i in range(2)])
    # C order, and one owner where the hemispheres touch.
    _, first = np.unique(rows[:, :3].astype(np.int64) @ np.array((y * z, z, 1)), return_index=True)
    return _with_maps(rows[first], shape, side, model)


def _sheet(shape: tuple[int, int, int], side: float, fold: NDArray[np.float64], *, left: bool) -> NDArray[np.float64]:
    """Voxels that one hemisphere's sheet meets: rows of i, j, k, along (mm), across (mm), left."""
    step = 0.4
    along, across = np.meshgrid(np.arange(0, side * (1 + BEYOND), step), np.arange(0, side, step), indexing="ij")
    depth = fold[0] * np.sin(2 * np.pi * across / fold[1] + fold[2]) + fold[3] * np.sin(
        2 * np.pi * along / fold[4] + fold[5]
    )
    middle = SPACING_MM * (np.array(shape) - 1) / 2
    x = middle[0] + (-1 if left else 1) * (10.0 + depth)
    y = middle[1] - side * (1 + BEYOND) / 2 + along
    z = middle[2] + side / 2 - across
    place = np.rint(np.stack([x, y, z], axis=-1).reshape(-1, 3) / SPACING_MM).astype(np.int64)
    place = np.clip(place, 1, np.array(shape) - 2)
    unique, inverse, counts = np.unique(place, axis=0, return_inverse=True, return_counts=True)
    means = [np.bincount(inverse.ravel(), weights=v.ravel()) / counts for v in (along, across)]
    return np.column_stack([unique, *means, np.full(len(unique), float(left))])


def _with_maps(rows: NDArray[np.float64], shape: tuple[int, int, int], side: float, model: ForwardModel) -> Cortex:
    along, across, left = rows[:, 3], rows[:, 4], rows[:, 5] > 0
    borders = np.cumsum([0.0, *(share for _, share, _, _ in BANDS)])
    across_share = np.clip(across / side, 0, 1 - 1e-9)
    area = np.minimum(np.searchsorted(borders, across_share, side="right") - 1, len(BANDS) - 1)
    within = (across_share - borders[area]) / (borders[area + 1] - borders[area])
    first, last = (np.array([band[i] for band in BANDS])[area] for i in (2, 3))
    a, edge = model.magnification_deg, model.field_deg / 2
    eccentricity = a * (np.exp(np.clip(along / side, 0, 1) * np.log1p(edge / a)) - 1)
    return Cortex(
        shape=shape,
        voxel=rows[:, :3].astype(np.int64),
        sheet_mm=np.column_stack([along, across + np.where(left, 0.0, 1000.0)]),
        area=np.where(along < side, area, -1),
        left=left,
        eccentricity=eccentricity,
        angle=first + (last - first) * within,
    )


def smooth_field(cortex: Cortex, rng: np.random.Generator, n: int, *, length_mm: float) -> NDArray[np.float64]:
    """Draw random fields of unit variance that change over `length_mm` on the sheet; (V, n)."""
    waves = 96
    turns = rng.standard_normal((n, waves, 2)) / length_mm
    phases = rng.uniform(0, 2 * np.pi, (n, waves))
    fields: NDArray[np.float64] = np.sqrt(2 / waves) * np.cos(
        np.einsum("vi,nwi->vnw", cortex.sheet_mm, turns) + phases
    ).sum(axis=-1)
    return fields
