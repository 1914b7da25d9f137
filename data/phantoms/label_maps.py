"""Brain images made from tissue probability maps: random anatomy, contrast, artefacts and resolution.

The idea is SynthSeg's (Billot et al., Medical Image Analysis 86, 2023, doi:10.1016/j.media.2023.102789): a network that only
ever saw images of random contrast, made from label maps, segments images of any contrast. Here one template takes the place
of a cohort, so the anatomy is randomised as well: affine and elastic deformation, and smooth random fields added to the
log-probabilities *before* the label is decided, so that cortical thickness, sulci, ventricles and white-matter outlines vary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..errors import ToolError

CODES: dict[str, str] = {
    "CHI-TL-040": "the template maps that brain-tissue training needs are not installed (they are part of nilearn)",
}

CSF, GREY, WHITE = 1, 2, 3
CONTRASTS = ("t1", "pd", "inverted", "any")
"""Orders of the means: CSF < GM < WM; WM < GM; WM < GM < CSF; no order at all."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How far the generator goes; lengths in mm, intensities in units of the image's range of tissue means.

    Parameters
    ----------
    rotation_deg, scale, shear, flip : float
        Largest rotation about each axis, relative scale and shear; probability of a left-right flip.
    elastic_mm : tuple of (control spacing, largest standard deviation)
        Displacement fields that are added up.
    anatomy : tuple of (scale, largest standard deviation)
        Random fields added to the log-probability of each tissue.
    folds : float
        Largest amplitude of the sheet-like fields that cut sulci into grey matter and blades of white matter.
    mask_error : float
        Probability that the brain mask of a sample is wrong at its rim.
    low_resolution : float
        Probability that a sample is acquired coarser than the grid it is given on.
    contrasts : tuple of (name, weight)
        Which of `CONTRASTS` and how often.
    separation : tuple of float
        Range of |mean GM - mean WM| / noise SD (log-uniform).
    """

    rotation_deg: float = 20.0
    scale: float = 0.15
    shear: float = 0.08
    flip: float = 0.5
    elastic_mm: tuple[tuple[float, float], ...] = ((60.0, 6.0), (24.0, 3.0), (10.0, 1.2))
    anatomy: tuple[tuple[float, float], ...] = ((30.0, 0.5), (10.0, 0.7), (5.0, 0.7), (2.5, 0.6))
    folds: float = 3.0
    mask_error: float = 0.5
    low_resolution: float = 0.4
    contrasts: tuple[tuple[str, float], ...] = (("t1", 0.5), ("pd", 0.18), ("inverted", 0.18), ("any", 0.14))
    separation: tuple[float, float] = (2.5, 25.0)


@dataclass(frozen=True, eq=False)
class TissueMaps:
    """Probability maps on a 1 mm grid.

    Parameters
    ----------
    channels : Tensor, shape (4, X, Y, Z)
        Probability of grey matter, of white matter, of the rest inside the brain, and the signed distance to the border of
        the brain mask in mm (positive inside).
    """

    channels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (= mm) along each axis."""
        x, y, z = self.channels.shape[1:]
        return x, y, z


@dataclass(frozen=True, eq=False)
class Sample:
    """One generated image.

    Parameters
    ----------
    image : Tensor, shape (1, X, Y, Z)
        Zero outside the given mask, else of mean 0 and variance 1.
    labels : Tensor of int64, shape (X, Y, Z)
        0 background, 1 CSF, 2 grey matter, 3 white matter.
    contrast : str
    separation : float
        |mean GM - mean WM| / noise SD that the sample was made with.
    """

    image: Tensor
    labels: Tensor
    contrast: str
    separation: float


def maps_from_arrays(grey: NDArray[np.floating], white: NDArray[np.floating], mask: NDArray[np.bool_]) -> TissueMaps:
    """Build the maps from probabilities in [0, 1] on a 1 mm RAS grid, cropped to the mask with a margin of 8 mm."""
    from scipy.ndimage import distance_transform_edt

    where = np.nonzero(mask)
    low = [max(int(w.min()) - 8, 0) for w in where]
    high = [int(w.max()) + 9 for w in where]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    inside = mask[box]
    grey, white = grey[box] * inside, white[box] * inside
    rest = np.clip(1.0 - grey - white, 0.0, 1.0) * inside
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    stacked = np.stack([grey, white, rest, distance]).astype(np.float32)
    return TissueMaps(torch.from_numpy(stacked))


def template_maps(folder: Path | None = None) -> TissueMaps:
    """Read the MNI ICBM152 2009a maps that nilearn carries (Fonov et al. 2011).

    Raises
    ------
    ToolError
        nilearn is not installed and no folder is given (CHI-TL-040).
    """
    import nibabel

    if folder is None:
        spec = find_spec("nilearn")
        if spec is None or not spec.submodule_search_locations:
            raise ToolError("CHI-TL-040", "nilearn is not installed.", "Install it: pip install nilearn.")
        folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    arrays = {}
    for name in ("t1", "gm", "wm"):
        path = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.is_file():
            raise ToolError(
                "CHI-TL-040", f"{path.name} is not in the template folder.", "Install nilearn 0.10 or later."
            )
        image = nibabel.as_closest_canonical(nibabel.load(path))
        arrays[name] = np.asarray(image.dataobj, dtype=np.float32)
    return maps_from_arrays(arrays["gm"] / 255.0, arrays["wm"] / 255.0, arrays["t1"] > 0)


class Draw:
    """Random numbers of one sample: a numpy generator for scalars, a torch one for fields, both from (seed, index)."""

    def __init__(self, seed: int, index: int) -> None:
        self.scalars = np.random.default_rng([seed, index])
        self.fields = torch.Generator().manual_seed(int(self.scalars.integers(2**62)))

    def uniform(self, low: float, high: float) -> float:
        """Draw from U(low, high)."""
        return float(self.scalars.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.scalars.random() < probability)

    def normal(self, *shape: int) -> Tensor:
        """Draw independent standard normal values."""
        return torch.randn(shape, generator=self.fields)

    def smooth(self, n: int, shape: tuple[int, int, int], step: float) -> Tensor:
        """Draw n smooth fields of unit variance: normal values every `step` voxels, blended by cubic B-splines.

        Returns
        -------
        Tensor, shape (n, *shape)
        """
        blends = [_spline_blend(size, step, self.uniform(0.0, 1.0)) for size in shape]
        x, y, z = blends
        field = self.normal(n, x.shape[1], y.shape[1], z.shape[1])
        # One axis after the other, the longest products last: far cheaper than a trilinear interpolation of the volume.
        field = torch.einsum("nabc,xa->nxbc", field, x)
        field = torch.einsum("nxbc,yb->nxyc", field, y)
        return field @ z.T


def _spline_blend(size: int, step: float, phase: float) -> Tensor:
    """Weights (size, n_controls) of cubic B-splines, each row of unit length so that the blend keeps unit variance."""
    step = max(step, 1.0)
    n_controls = math.ceil((size - 1) / step + phase) + 4
    where = torch.arange(size, dtype=torch.float32) / step + phase + 1
    t = (where[:, None] - torch.arange(n_controls, dtype=torch.float32)).abs()
    inner = 2 / 3 - t**2 + t**3 / 2
    outer = (2 - t).clamp(min=0) ** 3 / 6
    weights = torch.where(t < 1, inner, outer)
    return F.normalize(weights, dim=1)


def generate(
    maps: TissueMaps,
    draw: Draw,
    *,
    shape: tuple[int, int, int],
    spacing_mm: float,
    ranges: Ranges,
    whole: bool = False,
    contrast: str | None = None,
) -> Sample:
    """Make one image with its labels.

    Parameters
    ----------
    maps : TissueMaps
    draw : Draw
        All randomness of the sample.
    shape : tuple of int
        Voxels of the patch.
    spacing_mm : float
        Voxel size of the patch.
    ranges : Ranges
    whole : bool
        Centre the patch on the brain instead of on a random place in it.
    contrast : str, optional
        One of `CONTRASTS`; drawn where None.
    """
    if contrast is None:
        names, weights = zip(*ranges.contrasts, strict=True)
        contrast = str(draw.scalars.choice(names, p=np.asarray(weights) / sum(weights)))
    field = _deform(maps, draw, shape, spacing_mm, ranges, whole)
    labels, depth = _anatomy(field, draw, shape, spacing_mm, ranges)
    support = _given_mask(labels, depth, draw, shape, spacing_mm, ranges)
    image, separation = _appearance(labels, depth, support, draw, shape, spacing_mm, ranges, contrast)
    labels = torch.where(support, labels, torch.zeros_like(labels))
    return Sample(_normalised(image, support)[None], labels, contrast, separation)


def _deform(
    maps: TissueMaps, draw: Draw, shape: tuple[int, int, int], spacing_mm: float, ranges: Ranges, whole: bool
) -> Tensor:
    """Sample the maps on a patch through a random affine and elastic deformation: (4, *shape)."""
    size = torch.tensor(maps.shape, dtype=torch.float32)
    matrix = torch.from_numpy(_affine(draw, ranges)).float() * spacing_mm
    centre = (size - 1) / 2
    if whole:
        centre = centre + (torch.from_numpy(draw.scalars.uniform(-4, 4, 3)).float())
    else:
        # Patches lie anywhere in the brain; the outermost ones still hold some of it.
        reach = torch.clamp(size / 2 - 0.35 * spacing_mm * torch.tensor(shape), min=4.0)
        centre = centre + torch.from_numpy(draw.scalars.uniform(-1, 1, 3)).float() * reach
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ matrix.T + centre
    for step_mm, largest in ranges.elastic_mm:
        shift = draw.smooth(3, shape, step_mm / spacing_mm) * draw.uniform(0, largest)
        position += shift.permute(1, 2, 3, 0)
    # grid_sample wants (z, y, x) in [-1, 1].
    grid = (position * (2 / (size - 1)) - 1).flip(-1)
    outside = maps.channels[:, :1, :1, :1].clone()
    outside[:3] = 0
    sampled = F.grid_sample((maps.channels - outside)[None], grid[None], mode="bilinear", align_corners=True)[0]
    return sampled + outside


def _affine(draw: Draw, ranges: Ranges) -> NDArray[np.float64]:
    matrix: NDArray[np.float64] = np.eye(3)
    for axis in range(3):
        angle = math.radians(draw.uniform(-ranges.rotation_deg, ranges.rotation_deg))
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    scale = np.exp(
        draw.scalars.uniform(-ranges.scale, ranges.scale) + draw.scalars.uniform(-ranges.scale / 2, ranges.scale / 2, 3)
    )
    shear = np.eye(3) + draw.scalars.uniform(-ranges.shear, ranges.shear, (3, 3)) * (1 - np.eye(3))
    matrix = matrix @ np.diag(scale) @ shear
    if draw.chance(ranges.flip):
        matrix = np.diag([-1.0, 1.0, 1.0]) @ matrix
    return matrix


def _anatomy(
    field: Tensor, draw: Draw, shape: tuple[int, int, int], spacing_mm: float, ranges: Ranges
) -> tuple[Tensor, Tensor]:
    """Decide the labels from the deformed maps; return them and the depth below the brain's surface in mm."""
    logits = torch.log(field[:3].clamp(min=0) + 0.02)
    for scale_mm, largest in ranges.anatomy:
        if scale_mm / spacing_mm < 1.0:
            continue
        logits += draw.smooth(3, shape, scale_mm / spacing_mm) * draw.uniform(0, largest)
    depth = field[3] + draw.smooth(1, shape, 12.0 / spacing_mm)[0] * draw.uniform(0, 1.0)
    if ranges.folds:
        # The zero sets of a smooth field are sheets: thin ones of CSF are sulci, thin ones of white matter are blades.
        near_surface = torch.sigmoid((24.0 - depth) / 4.0)
        for tissue, share in ((2, 1.0), (1, 0.8)):
            sheets = draw.smooth(1, shape, draw.uniform(7.0, 16.0) / spacing_mm)[0]
            thickness = draw.uniform(0.06, 0.2)
            logits[tissue] += (
                draw.uniform(0, ranges.folds * share) * torch.exp(-((sheets / thickness) ** 2)) * near_surface
            )
    logits += torch.from_numpy(draw.scalars.normal(0, 0.25, 3)).float()[:, None, None, None]
    # Three comparisons: torch's argmax over the first axis costs a third of the whole generator on a CPU.
    grey, white, rest = logits
    labels = torch.where(white > grey, torch.where(rest > white, CSF, WHITE), torch.where(rest > grey, CSF, GREY))
    return labels * (depth > 0), depth


def _given_mask(
    labels: Tensor, depth: Tensor, draw: Draw, shape: tuple[int, int, int], spacing_mm: float, ranges: Ranges
) -> Tensor:
    """Return the brain mask that the image comes with: the true one, or one that is wrong at the rim."""
    if not draw.chance(ranges.mask_error):
        return labels > 0
    rim = draw.smooth(1, shape, draw.uniform(8.0, 25.0) / spacing_mm)[0] * draw.uniform(0.0, 1.8)
    support = depth + rim + draw.uniform(-3.0, 2.5) > 0
    if draw.chance(0.3):
        support &= ~((labels == CSF) & (depth < draw.uniform(0.0, 8.0)))
    return support


def _means(draw: Draw, contrast: str) -> tuple[float, float, float]:
    """Draw the means of CSF, grey and white matter for an order of contrast."""
    if contrast == "t1":
        csf, white = draw.uniform(0.0, 0.3), 1.0
        grey = csf + (white - csf) * draw.uniform(0.3, 0.85)
    elif contrast == "pd":
        white, grey = draw.uniform(0.2, 0.6), draw.uniform(0.7, 1.0)
        csf = draw.uniform(0.0, 1.3)
    elif contrast == "inverted":
        csf, white = 1.0, draw.uniform(0.0, 0.3)
        grey = white + (csf - white) * draw.uniform(0.15, 0.75)
    else:
        csf, grey, white = (draw.uniform(0.0, 1.0) for _ in range(3))
        if abs(grey - white) < 0.15:
            white = grey + (0.2 if grey < 0.5 else -0.2)
    return csf, grey, white


def _appearance(
    labels: Tensor,
    depth: Tensor,
    support: Tensor,
    draw: Draw,
    shape: tuple[int, int, int],
    spacing_mm: float,
    ranges: Ranges,
    contrast: str,
) -> tuple[Tensor, float]:
    """Paint the labels: means, sub-structure, partial volume, bias field, coarse acquisition, noise, gamma."""
    csf, grey, white = _means(draw, contrast)
    gap = abs(grey - white)
    table = torch.tensor([0.0, csf, grey, white])
    image = table[labels]
    # Deep grey matter lies between cortex and white matter in most contrasts.
    deep = torch.sigmoid((depth - 26.0) / 3.0) * (labels == GREY)
    image += deep * draw.uniform(-0.1, 0.55) * (white - grey)
    for tissue in (CSF, GREY, WHITE):
        texture = draw.smooth(1, shape, draw.uniform(6.0, 30.0) / spacing_mm)[0] * draw.uniform(0.0, 0.18) * gap
        image += texture * (labels == tissue)
    rim = support & (labels == 0)
    leftover = draw.uniform(0.0, 1.2) + 0.25 * draw.smooth(1, shape, draw.uniform(2.5, 8.0) / spacing_mm)[0]
    image = torch.where(rim, leftover, image)
    image = _blur(image, [draw.uniform(0.25, 0.75) / min(spacing_mm, 1.25) for _ in range(3)])
    bias = sum(draw.smooth(1, shape, step / spacing_mm)[0] * draw.uniform(0.0, 0.14) for step in (90.0, 45.0))
    image = image * torch.exp(torch.as_tensor(bias))
    low, high = ranges.separation
    separation = math.exp(draw.uniform(math.log(low), math.log(high)))
    image = _acquire(image, draw, shape, spacing_mm, ranges, gap / separation)
    if draw.chance(0.5):
        floor = image.min()
        span = (image.max() - floor).clamp(min=1e-6)
        image = ((image - floor) / span) ** math.exp(float(draw.scalars.normal(0, 0.2)))
    return image, separation


def _acquire(
    image: Tensor, draw: Draw, shape: tuple[int, int, int], spacing_mm: float, ranges: Ranges, noise: float
) -> Tensor:
    """Add noise of the given SD, on a coarser grid than the patch's in some samples."""
    if not draw.chance(ranges.low_resolution):
        return image + noise * draw.normal(*shape)
    factor = np.full(3, draw.uniform(1.0, 1.6)) / max(spacing_mm, 1.0)
    if draw.chance(0.5):
        factor[int(draw.scalars.integers(3))] *= draw.uniform(1.2, 3.0)
    coarse = [max(8, round(n / max(1.0, f))) for n, f in zip(shape, factor, strict=True)]
    small = F.interpolate(image[None, None], size=coarse, mode="area")
    small = small + noise * draw.normal(1, 1, *coarse)
    return F.interpolate(small, size=shape, mode="trilinear", align_corners=False)[0, 0]


def _blur(image: Tensor, sigmas: list[float]) -> Tensor:
    """Convolve with a Gaussian along each axis (sigmas in voxels)."""
    out = image[None, None]
    for axis, sigma in enumerate(sigmas):
        offsets = torch.arange(-2, 3, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel /= kernel.sum()
        width = [1, 1, 1]
        width[axis] = 5
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = 2
        out = F.conv3d(F.pad(out, pad, mode="replicate"), kernel.view(1, 1, *width))
    return out[0, 0]


def _normalised(image: Tensor, support: Tensor) -> Tensor:
    """Shift and scale to mean 0 and variance 1 inside the mask, 0 outside (as `intensity: zscore-nonzero` does)."""
    inside = image[support]
    if inside.numel() < 2:
        return torch.zeros_like(image)
    spread = inside.std().clamp(min=1e-6)
    return torch.where(support, (image - inside.mean()) / spread, torch.zeros_like(image))
