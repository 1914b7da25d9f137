"""Bright structures of a head that are no tumour: what a single threshold on one contrast mistakes for one.

White-matter hyperintensities (bright in FLAIR and T2) hug the ventricles and are scattered in the white matter. Vessels,
remnants of dura and choroid plexus take up contrast agent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .heads import Labels
from .label_maps import CSF, WHITE, Draw

Field = NDArray[np.float32]

SIGNALS: Mapping[str, Mapping[str, float]] = {
    # what a full amount adds, relative to white matter in T1
    "lesions": {"flair": 0.50, "t1ce": -0.12, "t1": -0.15, "t2": 0.45},
    "vascular": {"flair": 0.10, "t1ce": 0.70, "t1": 0.05, "t2": -0.15},
}

DEEP_MM = 25.0
"""Fluid this far below the surface of the brain is taken for ventricle."""

BURDEN = (0.003, 0.05)
"""Range of the share of the white matter that is hyperintense (log-uniform): about 2 to 25 ml."""

VESSEL_MM = 1.2


def mimics(tissue: Labels, draw: Draw, spacing_mm: float) -> dict[str, Field]:
    """Draw how much of each kind of bright structure there is in each voxel.

    Parameters
    ----------
    tissue : ndarray of uint8, shape (X, Y, Z)
        1 CSF, 2 grey matter, 3 white matter.
    draw : Draw
    spacing_mm : float

    Returns
    -------
    dict of ndarray of float32, shape (X, Y, Z)
        Amount in 0 to 1 by name in `SIGNALS`; 0 outside the brain.
    """
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(tissue > 0, sampling=spacing_mm).astype(np.float32)
    ventricle = (tissue == CSF) & (depth > DEEP_MM)
    return {
        "lesions": _lesions(tissue, ventricle, draw, spacing_mm),
        "vascular": _vascular(tissue, ventricle, depth, draw, spacing_mm),
    }


def _lesions(tissue: Labels, ventricle: NDArray[np.bool_], draw: Draw, spacing_mm: float) -> Field:
    from scipy.ndimage import distance_transform_edt

    score: Field = draw.smooth(1, tissue.shape, 6.0 / spacing_mm)[0].numpy()
    if ventricle.any():
        away = distance_transform_edt(~ventricle, sampling=spacing_mm).astype(np.float32)
        score = score + 2.5 * np.exp(-((away / 6.0) ** 2))
    white = tissue == WHITE
    share = float(np.exp(draw.uniform(*np.log(BURDEN))))
    strongest = draw.uniform(0.5, 1.0)
    if not white.any():
        return np.zeros(tissue.shape, dtype=np.float32)
    cut = np.quantile(score[white], 1.0 - share)
    amount = strongest * np.clip((score - cut) / 0.5 + 0.5, 0.0, 1.0) * white
    return np.asarray(amount, dtype=np.float32)


def _vascular(tissue: Labels, ventricle: NDArray[np.bool_], depth: Field, draw: Draw, spacing_mm: float) -> Field:
    step_mm = 16.0
    a, b, patches = draw.smooth(3, tissue.shape, step_mm / spacing_mm).numpy()
    # Two smooth fields vanish together on curves. A tube thinner than the voxels is widened, and fainter for it.
    width_mm = max(VESSEL_MM, 0.5 * spacing_mm)
    tubes = np.exp(-(a**2 + b**2) / (2 * (1.3 * width_mm / step_mm) ** 2)) * (VESSEL_MM / width_mm) ** 2
    tubes *= np.array([0.0, 1.0, 0.8, 0.4], dtype=np.float32)[tissue]
    dura = np.exp(-((depth / 3.0) ** 2)) * np.clip(patches, 0.0, 1.0) * (tissue > 0)
    plexus = np.clip(draw.smooth(1, tissue.shape, 8.0 / spacing_mm)[0].numpy() - 0.3, 0.0, 1.0) * ventricle
    amount = draw.uniform(0.6, 1.0) * np.maximum(np.maximum(tubes, dura), plexus)
    return np.asarray(amount, dtype=np.float32)
