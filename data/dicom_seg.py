"""Label maps as DICOM segmentation objects on the grid of their source series (DICOM PS3.3 section A.51, by highdicom).

Unlike every other output, a segmentation object repeats the patient and study elements of its source: archives and
viewers file it by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .atomic import atomic_path
from .dicom_geometry import planes_of, stack_planes
from .dicom_header import read_header
from .errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_STANDARD_UIDS = "1.2.840.10008."
_SERIES_NUMBER_OFFSET = 9000
_BACKGROUND = 0


def write_segmentation(
    path: Path,
    labels: NDArray[np.integer[Any]],
    source_files: Sequence[Path],
    label_names: Mapping[int, str],
    *,
    seed: str | int,
) -> None:
    """Write a BINARY segmentation that refers to its source series; equal inputs give equal bytes.

    Parameters
    ----------
    path : Path
        Final name; written atomically.
    labels : ndarray of int, shape (X, Y, Z)
        On the grid that `read_series` gives for `source_files`; 0 is background.
    source_files : sequence of Path
        The series: classic slices in any order, or one enhanced multi-frame file.
    label_names : mapping of int to str
        A name for each label; every name becomes a segment, also one without voxels.
    seed : str or int
        Enters the UIDs, besides the source and the labels: the recipe's hash, so that another recipe gives another object.

    Raises
    ------
    InputError
        ``CHI-IN-051`` shape, ``CHI-IN-052`` a label without a name; ``CHI-IN-030`` to ``049`` for the source.
    ResourceError
        The disk (see `data.atomic`).
    """
    order, single = _source_order(source_files)
    _check(labels, order, label_names)
    sources = _sources(source_files, order, single)
    numbers = {label: number for number, label in enumerate(sorted(label_names), start=1)}
    # (X, Y, Z) -> planes of (rows, columns), renumbered 1..n as the standard asks.
    table = np.zeros(max(label_names) + 1, np.uint8 if len(numbers) < 256 else np.uint16)
    for label, number in numbers.items():
        table[label] = number
    planes = table[np.ascontiguousarray(labels.transpose(2, 1, 0))]
    if single:
        unsorted = np.empty_like(planes)
        unsorted[[frame for _, frame, _ in order]] = planes
        planes = unsorted
    digest = _digest(sources, planes, label_names, seed)
    segmentation = _build(sources, planes, label_names, digest)
    _fix_what_changes(segmentation, sources[0], digest)
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary, enforce_file_format=True)


def _source_order(files: Sequence[Path]) -> tuple[list[tuple[Path, int, tuple[int, int]]], bool]:
    """Return (file, frame, (columns, rows)) for each plane along the normal, and whether one file holds them all."""
    headers = [read_header(file) for file in files]
    planes, _ = stack_planes([plane for header in headers for plane in planes_of(header)], files[0].name)
    order = [
        (plane.header.path, plane.frame, (plane.header.number(0x00280011), plane.header.number(0x00280010)))
        for plane in planes
    ]
    return order, len(files) == 1


def _check(
    labels: NDArray[np.integer[Any]],
    order: Sequence[tuple[Path, int, tuple[int, int]]],
    label_names: Mapping[int, str],
) -> None:
    wanted = (*order[0][2], len(order))
    if labels.shape != wanted:
        raise InputError(
            "CHI-IN-051",
            f"The label map has shape {labels.shape}, its source series {wanted}.",
            "Give labels on the grid of the series.",
        )
    present = {int(label) for label in np.unique(labels)} - {_BACKGROUND}
    nameless = sorted(present - set(label_names))
    if nameless or not label_names or min(label_names) < 1:
        raise InputError(
            "CHI-IN-052",
            f"Labels without a name: {nameless}." if nameless else "Label names must be for labels from 1 on.",
            "Name every label in the recipe.",
        )


def _sources(files: Sequence[Path], order: Sequence[tuple[Path, int, tuple[int, int]]], single: bool) -> list[Dataset]:
    import pydicom

    # Every file was admitted by `read_header` (depth, size) before pydicom sees it.
    chosen = list(files) if single else [path for path, _, _ in order]
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in chosen]


def _digest(sources: Sequence[Dataset], planes: NDArray[Any], label_names: Mapping[int, str], seed: str | int) -> str:
    digest = hashlib.sha256(f"chiasm-seg:{seed}".encode())
    for source in sources:
        digest.update(str(source.SOPInstanceUID).encode())
    digest.update(repr(sorted(label_names.items())).encode())
    digest.update(repr((planes.shape, planes.dtype.str)).encode())
    digest.update(np.ascontiguousarray(planes).data)
    return digest.hexdigest()


def _uid(digest: str, purpose: str) -> str:
    """Return a UUID-derived UID (PS3.5 section B.2): ``2.25.`` and a 128-bit number."""
    number = int(hashlib.sha256(f"{digest}:{purpose}".encode()).hexdigest()[:32], 16)
    return f"2.25.{number}"


def _build(sources: Sequence[Dataset], planes: NDArray[Any], label_names: Mapping[int, str], digest: str) -> Dataset:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="Chiasm", family=codes.DCM.ArtificialIntelligence, version=_version()
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label_names[label][:64],
            segmented_property_category=_codes_for(label_names[label])[0],
            segmented_property_type=_codes_for(label_names[label])[1],
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, label in enumerate(sorted(label_names), start=1)
    ]
    segmentation: Dataset = hd.seg.Segmentation(
        source_images=list(sources),
        pixel_array=planes,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=_uid(digest, "series"),
        series_number=_SERIES_NUMBER_OFFSET + int(sources[0].get("SeriesNumber") or 0) % 1000,
        sop_instance_uid=_uid(digest, "instance"),
        instance_number=1,
        manufacturer="Chiasm",
        manufacturer_model_name="Chiasm",
        software_versions=_version(),
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description="Automatic segmentation, research use",
        series_description="Chiasm segmentation",
    )
    return segmentation


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("chiasm")
    except PackageNotFoundError:
        return "0"


def _codes_for(name: str) -> tuple[Any, Any]:
    """Return category and type (SNOMED CT) of a segment; tissue where the name is not known."""
    from pydicom.sr.codedict import codes

    tissue, abnormal, substance = (
        codes.SCT.Tissue,
        codes.SCT.MorphologicallyAbnormalStructure,
        codes.SCT.BodySubstance,
    )
    known = (
        (("csf", "cerebrospinal"), (substance, codes.SCT.CerebrospinalFluid)),
        (("grey matter", "gray matter"), (tissue, codes.SCT.GrayMatter)),
        (("white matter",), (tissue, codes.SCT.WhiteMatter)),
        (("edema", "oedema"), (abnormal, codes.SCT.Edema)),
        (("necro",), (abnormal, codes.SCT.Necrosis)),
        (("tumor", "tumour", "neoplasm"), (abnormal, codes.SCT.Neoplasm)),
        (("lesion",), (abnormal, codes.SCT.Lesion)),
        (("brain",), (codes.SCT.AnatomicalStructure, codes.SCT.Brain)),
    )
    lowered = name.lower()
    return next((pair for words, pair in known if any(word in lowered for word in words)), (tissue, tissue))


def _fix_what_changes(segmentation: Dataset, source: Dataset, digest: str) -> None:
    """Replace dates of today by the source's, and UIDs made at random by ones made from the digest."""
    kept = _uids_of(source) | {_uid(digest, "series"), _uid(digest, "instance")}
    renamed: dict[str, str] = {}

    def visit(dataset: Dataset, element: Any) -> None:
        if element.VR != "UI" or element.keyword in {"ReferencedSOPInstanceUID", "ReferencedSOPClassUID"}:
            return
        value = str(element.value)
        if value in kept or value.startswith(_STANDARD_UIDS) or not value:
            return
        element.value = renamed.setdefault(value, _uid(digest, f"{element.keyword}-{len(renamed)}"))

    segmentation.walk(visit)
    date = str(source.get("StudyDate") or source.get("SeriesDate") or "19000101")
    clock = str(source.get("StudyTime") or source.get("SeriesTime") or "000000")
    for keyword in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
        if keyword in segmentation or keyword == "ContentDate":
            setattr(segmentation, keyword, date)
    for keyword in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
        if keyword in segmentation or keyword == "ContentTime":
            setattr(segmentation, keyword, clock)
    for equipment in segmentation.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = date + clock


def _uids_of(source: Dataset) -> set[str]:
    return {str(element.value) for element in source.iterall() if element.VR == "UI"}
