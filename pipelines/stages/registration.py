"""Rigid registration of two volumes of one head, of any contrasts, by mutual information (SimpleITK)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.errors import InputError, ToolError
from ...data.geometry import Canonical
from ...data.volumes import Affine, Grid, Volume

CODES: dict[str, str] = {
    "CHI-IN-098": "A channel could not be registered to the reference channel.",
    "CHI-IN-099": "A volume's axes are not at right angles, so that it cannot be registered.",
    "CHI-TL-060": "SimpleITK, which --prepare needs, is not installed.",
}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS+ to ITK's world (left, posterior, superior), and back."""
BINS, SAMPLES, ITERATIONS = 48, 60_000, 200
SHRINK, SMOOTH_MM = (4, 2, 1), (4.0, 2.0, 0.0)


@dataclass(frozen=True, eq=False)
class Registration:
    """A rigid transform.

    Parameters
    ----------
    matrix : ndarray, shape (4, 4)
        Reference world to moving world, RAS+ mm.
    metric : float
        Mutual information in nats, larger is better.
    centre_mm : tuple of float
        Of the reference volume: where `move_mm` is measured.
    """

    matrix: Affine
    metric: float
    centre_mm: tuple[float, float, float]

    @property
    def turn_degrees(self) -> float:
        """Angle of the rotation."""
        cosine = (np.trace(self.matrix[:3, :3]) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    @property
    def move_mm(self) -> float:
        """How far the centre of the reference volume is moved."""
        centre = np.array([*self.centre_mm, 1.0])
        return float(np.linalg.norm((self.matrix @ centre - centre)[:3]))

    def as_json(self) -> dict[str, Any]:
        """Return what a sidecar notes."""
        return {
            "matrix": [[round(float(v), 6) for v in row] for row in self.matrix],
            "turn_degrees": round(self.turn_degrees, 3),
            "move_mm": round(self.move_mm, 3),
            "mutual_information": round(self.metric, 5),
        }


def register(reference: Volume, moving: Volume, *, seed: int = 0, relative: str = "") -> Registration:
    """Find the rigid transform between two volumes of one head.

    Mattes mutual information over up to 60,000 voxels, three resolutions, one thread: the same input gives the same answer.

    Parameters
    ----------
    reference, moving : Volume
    seed : int
        Of the choice of voxels.
    relative : str
        Name of the moving file, for messages.

    Raises
    ------
    ToolError
        ``CHI-TL-060`` where SimpleITK is missing.
    InputError
        ``CHI-IN-098`` where the volumes do not overlap; ``CHI-IN-099`` where axes are sheared.
    """
    sitk = _simpleitk()
    # Sums over threads end in another order each time, so that the last digits would differ from run to run.
    sitk.ProcessObject.SetGlobalDefaultThreader("Platform")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    fixed, other = _image(sitk, reference, ""), _image(sitk, moving, relative)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    shares = [min(1.0, SAMPLES * shrink**3 / reference.values.size) for shrink in SHRINK]
    method.SetMetricSamplingPercentagePerLevel(shares, seed + 1)  # seed 0 would mean the time of day
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0,
        minStep=1e-4,
        numberOfIterations=ITERATIONS,
        relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel(SMOOTH_MM)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    try:
        method.SetInitialTransform(_start(sitk, method, fixed, other), inPlace=True)
        found = method.Execute(fixed, other)
    except RuntimeError:
        raise InputError(
            "CHI-IN-098",
            "a channel could not be registered: the volumes hardly overlap.",
            "Check that all channels show one head.",
            file=relative,
        ) from None
    centre = reference.grid.affine @ np.array([*((n - 1) / 2 for n in reference.grid.shape), 1.0])
    return Registration(
        _matrix(found), -float(method.GetMetricValue()), (float(centre[0]), float(centre[1]), float(centre[2]))
    )


def resample(volume: Volume, grid: Grid, registration: Registration) -> Volume:
    """Return `volume` as it looks on `grid` (of the reference's world), linearly interpolated, 0 outside.

    Where the grid is coarser than the volume it is smoothed first, as `Resampling.to_target` does.
    """
    from scipy import ndimage

    values: NDArray[np.float32] = np.asarray(volume.values, dtype=np.float32)
    to_voxel = np.linalg.inv(volume.grid.affine) @ registration.matrix @ grid.affine
    ratio = np.linalg.norm(to_voxel[:3, :3], axis=1)
    sigma = [np.sqrt(r * r - 1) / np.sqrt(8 * np.log(2)) if r > 1.001 else 0.0 for r in ratio]
    if any(sigma):
        values = ndimage.gaussian_filter(values, sigma, mode="nearest")
    out: NDArray[np.float32] = ndimage.affine_transform(
        values, to_voxel[:3, :3], to_voxel[:3, 3], grid.shape, output=np.float32, order=1, mode="constant"
    )
    return Volume(out, grid)


def _start(sitk: Any, method: Any, fixed: Any, other: Any) -> Any:
    """Begin where the scanner says that the head is, or with the centres of mass on each other: whichever fits better."""
    centred = sitk.CenteredTransformInitializer(
        fixed, other, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    same = sitk.Euler3DTransform()
    same.SetCenter(sitk.Euler3DTransform(centred).GetCenter())
    scores: list[tuple[float, int, Any]] = []
    for start in (same, sitk.Euler3DTransform(centred)):
        method.SetInitialTransform(start, inPlace=False)
        try:
            scores.append((float(method.MetricEvaluate(fixed, other)), len(scores), start))
        except RuntimeError:  # no overlap from there
            continue
    if not scores:
        raise RuntimeError("no overlap")
    return min(scores)[2]


def _image(sitk: Any, volume: Volume, relative: str) -> Any:
    canonical = Canonical.from_affine(volume.grid.affine)
    grid = canonical.grid(volume.grid)
    affine = LPS @ grid.affine
    directions = affine[:3, :3] / np.array(grid.spacing_mm)
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        raise InputError(
            "CHI-IN-099",
            "the volume's axes are not at right angles.",
            "Resample it to an unsheared grid first.",
            file=relative,
        )
    # The nearest rotation: headers round to seven digits, ITK wants more.
    left, _, right = np.linalg.svd(directions)
    image = sitk.GetImageFromArray(np.ascontiguousarray(canonical.forward(volume.values).T, dtype=np.float32))
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((left @ right).ravel().tolist())
    return image


def _matrix(transform: Any) -> Affine:
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    axes = [np.array(transform.TransformPoint(tuple(row))) - origin for row in np.eye(3)]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.array(axes).T, origin
    result: Affine = LPS @ matrix @ LPS
    return result


def _simpleitk() -> Any:
    try:
        import SimpleITK as sitk  # noqa: N813 - the name that its users know
    except ImportError:
        raise ToolError(
            "CHI-TL-060",
            "SimpleITK is not installed.",
            "Install it with `pip install SimpleITK`, or register the channels yourself.",
        ) from None
    return sitk
