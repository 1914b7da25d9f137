"""DICOM series to volumes: which files belong together, in what order, and where their voxels lie.

Source: DICOM PS3.3 section C.7.6.2 (image plane) and C.7.6.16 (multi-frame functional groups). Positions are LPS+ in
DICOM and RAS+ here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .dicom_geometry import Plane, planes_of, stack_planes
from .dicom_header import DicomHeader, read_header
from .dicom_pixels import read_frames
from .errors import ChiasmError, InputError
from .recognition import looks_like_dicom, sequence_words, tokens
from .volumes import Grid, Volume

if TYPE_CHECKING:
    from .guard import GuardedReader

CODES: dict[str, str] = {
    "CHI-IN-030": "Not a sound DICOM file.",
    "CHI-IN-031": "DICOM sequences are nested too deep.",
    "CHI-IN-032": "The DICOM header has too many elements or bytes.",
    "CHI-IN-033": "No decoder for the DICOM transfer syntax.",
    "CHI-IN-034": "A DICOM object that is not an image.",
    "CHI-IN-035": "A DICOM pixel format that is not a grey-scale image.",
    "CHI-IN-036": "The slices of a series differ in size or pixel format.",
    "CHI-IN-037": "Files of several DICOM series given as one.",
    "CHI-IN-038": "Position or orientation is missing or impossible.",
    "CHI-IN-039": "Several slices at one position.",
    "CHI-IN-040": "Slices are missing.",
    "CHI-IN-041": "The distance between slices varies.",
    "CHI-IN-042": "The slices are sheared (gantry tilt).",
    "CHI-IN-043": "One slice is not a volume.",
    "CHI-IN-044": "The pixel data are shorter than the header says.",
    "CHI-IN-045": "The voxel size is missing or impossible.",
    "CHI-IN-046": "A numeric element does not hold usable numbers.",
    "CHI-IN-047": "Compressed pixel data cannot be decoded.",
    "CHI-IN-048": "A multi-frame object without one ordered stack of frames.",
    "CHI-IN-049": "The volume is larger than any medical image.",
    "CHI-IN-050": "Files of several patients in one patient's folder.",
    "CHI-IN-051": "A label map does not fit its source series.",
    "CHI-IN-052": "A label has no name.",
}
_MAX_VOXELS = 1 << 31
_SAME_ORIENTATION = 1e-3
_SCOUT_WORDS = frozenset("localizer localiser scout survey topogram locator".split())
_SERIES, _PATIENT, _IMAGE_TYPE = 0x0020000E, 0x00100020, 0x00080008


@dataclass(frozen=True)
class Series:
    """The files of one series in one orientation.

    Parameters
    ----------
    files : tuple of Path
        Sorted by position along the slice normal, where there is one.
    relative : str
        The first file relative to the input folder.
    words : tuple of str
        Series description and weighting, for channel rules; never shown.
    scout : bool
        Whether it is a localizer.
    problems : tuple of ChiasmError
        Damaged files beside its own files: the series may be incomplete.
    """

    files: tuple[Path, ...]
    relative: str
    words: tuple[str, ...] = ()
    scout: bool = False
    problems: tuple[ChiasmError, ...] = ()


def scan_series(folder_or_files: Path | Iterable[Path], root: Path) -> list[Series]:
    """Group DICOM files by SeriesInstanceUID and orientation, reading headers only.

    Objects without pixel data (reports, structures, presentation states) are left out. A localizer is left out where
    there is another series. A damaged file becomes a problem of every series in its folder, or stands alone.

    Parameters
    ----------
    folder_or_files : Path or iterable of Path
        A folder is searched without its subfolders.
    root : Path
        The input folder, for messages.

    Raises
    ------
    InputError
        ``CHI-IN-050``: the files are of more than one patient.
    """
    files = _dicom_files(folder_or_files) if isinstance(folder_or_files, Path) else list(folder_or_files)
    headers: list[DicomHeader] = []
    broken: dict[Path, ChiasmError] = {}
    for path in files:
        relative = path.relative_to(root).as_posix() if root in path.parents else path.name
        try:
            header = read_header(path, relative=relative)
        except InputError as error:
            broken[path] = error
            continue
        if is_image(header):
            headers.append(header)
    _one_patient(headers)
    series = [_series(group, broken) for group in _groups(headers)]
    kept = [s for s in series if not s.scout] or series
    folders = {path.parent for s in series for path in s.files}
    kept += [
        Series(files=(path,), relative=error.file, problems=(error,))
        for path, error in broken.items()
        if path.parent not in folders
    ]
    return sorted(kept, key=lambda s: s.relative)


def _dicom_files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "DICOMDIR" and not path.name.startswith("."):
            with path.open("rb") as file:
                if looks_like_dicom(file.read(256)):
                    found.append(path)
    return found


def is_image(header: DicomHeader) -> bool:
    """Whether a DICOM object holds pixels that could be a slice (a segmentation object does not count)."""
    segmentation = header.text(0x00080016) in {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
    return header.pixel_offset >= 0 and header.number(0x00280010) > 0 and not segmentation


def _one_patient(headers: Sequence[DicomHeader]) -> None:
    patients = {header.text(_PATIENT) for header in headers} - {""}
    if len(patients) > 1:
        raise InputError(
            "CHI-IN-050",
            f"The folder holds DICOM files of {len(patients)} patients.",
            "Give each patient a folder of its own.",
            file=headers[0].relative,
        )


def _groups(headers: Iterable[DicomHeader]) -> list[list[DicomHeader]]:
    groups: list[tuple[str, tuple[float, ...], list[DicomHeader]]] = []
    by_series: dict[str, list[int]] = {}
    for header in headers:
        uid = header.text(_SERIES)
        orientation = header.values.get(0x00200037, ())
        for index in by_series.setdefault(uid, []):
            other = groups[index][1]
            if len(other) == len(orientation) and all(
                abs(a - b) < _SAME_ORIENTATION for a, b in zip(other, orientation, strict=True)
            ):
                groups[index][2].append(header)
                break
        else:
            by_series[uid].append(len(groups))
            groups.append((uid, orientation, [header]))
    return [group for _, _, group in groups]


def _series(headers: list[DicomHeader], broken: dict[Path, ChiasmError]) -> Series:
    ordered = sorted(headers, key=_along_normal)
    first = ordered[0]
    folders = {header.path.parent for header in headers}
    words = sequence_words(
        texts=[first.text(0x0008103E), first.text(0x00181030)],
        sequence=first.text(0x00180020),
        variant=first.text(0x00180021),
        echo_ms=_first_number(first, 0x00180081),
        repetition_ms=_first_number(first, 0x00180080),
        inversion_ms=_first_number(first, 0x00180082),
        contrast=bool(first.text(0x00180010)),
    )
    described = {token for text in words for token in tokens(text)}
    return Series(
        files=tuple(header.path for header in ordered),
        relative=first.relative,
        words=words,
        scout="LOCALIZER" in first.text(_IMAGE_TYPE) or bool(_SCOUT_WORDS & described),
        problems=tuple(error for path, error in broken.items() if path.parent in folders),
    )


def _first_number(header: DicomHeader, tag: int) -> float:
    value = header.values.get(tag)
    return float(value[0]) if isinstance(value, tuple) and value else 0.0


def _along_normal(header: DicomHeader) -> tuple[float, str]:
    position, orientation = header.values.get(0x00200032, ()), header.values.get(0x00200037, ())
    if len(position) != 3 or len(orientation) != 6:
        return 0.0, header.relative
    return float(np.dot(np.cross(orientation[:3], orientation[3:]), position)), header.relative


def read_series(files: Sequence[Path], *, relative: str = "", guard: GuardedReader | None = None) -> Volume:
    """Read one series: classic slices in any order, or one enhanced multi-frame file.

    Parameters
    ----------
    files : sequence of Path
    relative : str
        The first file relative to the input folder, for messages.
    guard : GuardedReader, optional
        The child that decodes compressed pixel data; without it a child is started for this series when needed.

    Returns
    -------
    Volume
        float32 values (X, Y, Z) with RescaleSlope and RescaleIntercept applied: X along rows (column index), Y along
        columns (row index), Z along the slice normal, as stored, not reordered to RAS.

    Raises
    ------
    InputError
        ``CHI-IN-030`` to ``CHI-IN-049``, see `CODES`.
    ResourceError
        The decoding child broke a limit.
    """
    if not files:
        raise InputError("CHI-IN-034", "A DICOM series without files.", "Give at least two slices.", file=relative)
    folder = relative.rpartition("/")[0]
    headers = [read_header(path, relative=f"{folder}/{path.name}" if folder else path.name) for path in files]
    for header in headers:
        _check_image(header)
    _check_alike(headers)
    planes: list[Plane] = [plane for header in headers for plane in planes_of(header)]
    ordered, affine = stack_planes(planes, relative or headers[0].relative)
    rows, columns = headers[0].number(0x00280010), headers[0].number(0x00280011)
    if rows * columns * len(ordered) > _MAX_VOXELS:
        raise InputError(
            "CHI-IN-049",
            f"{columns} x {rows} x {len(ordered)} voxels are more than {_MAX_VOXELS}.",
            "Crop or resample the image first.",
            file=relative,
        )
    slices = read_frames(ordered, rows, columns, guard=guard)
    values = slices.transpose(2, 1, 0)
    return Volume(values=values, grid=Grid(shape=(columns, rows, len(ordered)), affine=affine))


def _check_image(header: DicomHeader) -> None:
    if not is_image(header):
        raise InputError(
            "CHI-IN-034",
            "The DICOM object is not an image (no pixel data, or a segmentation).",
            "Give the series' image files only.",
            file=header.relative,
        )
    samples, photometric = header.number(0x00280002, 1), header.text(0x00280004)
    allocated, stored = header.number(0x00280100), header.number(0x00280101)
    sound = allocated in (8, 16, 32) and 0 < stored <= allocated and header.number(0x00280102, stored - 1) == stored - 1
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2") or not sound:
        raise InputError(
            "CHI-IN-035",
            f"Pixels with {samples} sample(s) of {stored} in {allocated} bits are not a grey-scale image.",
            "One sample a pixel, MONOCHROME1 or 2, 8, 16 or 32 bits, lowest bits used.",
            file=header.relative,
        )


def _check_alike(headers: Sequence[DicomHeader]) -> None:
    first = headers[0]
    for header in headers[1:]:
        if header.text(_SERIES) != first.text(_SERIES):
            raise InputError(
                "CHI-IN-037",
                "The files are of more than one series.",
                "Give the files of one SeriesInstanceUID.",
                file=header.relative,
            )
        for tags, what in (
            ((0x00280010, 0x00280011), "size"),
            ((0x00280100, 0x00280101, 0x00280103), "pixel format"),
        ):
            if any(header.number(tag) != first.number(tag) for tag in tags):
                raise InputError(
                    "CHI-IN-036",
                    f"The slices differ in {what}: "
                    f"{[header.number(t) for t in tags]} and {[first.number(t) for t in tags]}.",
                    "Remove the slices that do not belong to the volume.",
                    file=header.relative,
                )
