"""DICOM files that lie, and odd ones that do not: each refused by its code, or read right, within two seconds."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chiasm.data.dicom import read_series, scan_series
from chiasm.data.dicom_header import read_header
from chiasm.data.errors import ChiasmError, InputError

PREAMBLE = bytes(128) + b"DICM"
IMPLICIT, BIG_ENDIAN, DEFLATED, RLE = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.5",
)


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Encode one explicit little-endian element; `length` may lie."""
    n = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHI", group, number, vr, 0, n) + value
    return struct.pack("<HH2sH", group, number, vr, n) + value


def meta(syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    return PREAMBLE + element(2, 0x10, b"UI", syntax)


def item(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value) if length is None else length) + value


def nested_bomb(depth: int, *, undefined: bool, implicit: bool = False) -> bytes:
    """Sequences inside sequences: 20 bytes a level."""
    body = element(0x0008, 0x0060, b"CS", b"MR") if not implicit else struct.pack("<HHI", 8, 0x60, 2) + b"MR"
    if undefined:
        head = (
            struct.pack("<HHI", 0x0040, 0xA730, 0xFFFFFFFF)
            if implicit
            else element(0x40, 0xA730, b"SQ", b"", 0xFFFFFFFF)
        )
        return (head + item(b"", 0xFFFFFFFF)) * depth + body
    for _ in range(depth):
        body = element(0x0040, 0xA730, b"SQ", item(body))
    return body


SERIES_UID = element(0x20, 0x0E, b"UI", b"1.2.3\0")
RAW: dict[str, tuple[str, bytes]] = {
    "empty": ("CHI-IN-030", b""),
    "preamble only": ("CHI-IN-030", PREAMBLE),
    "preamble cut": ("CHI-IN-030", PREAMBLE[:100]),
    "text": ("CHI-IN-030", b"this is not DICOM " * 100),
    "zeros": ("CHI-IN-030", bytes(4096)),
    "ones": ("CHI-IN-030", b"\xff" * 4096),
    "meta group only": ("CHI-IN-030", meta()),
    "meta length lies": ("CHI-IN-030", PREAMBLE + element(2, 0x10, b"OB", b"", 0x7FFFFFFF)),
    "cut in a tag": ("CHI-IN-030", meta() + b"\x08\x00\x60\x00C"),
    "cut in a value": ("CHI-IN-030", meta() + element(8, 0x60, b"CS", b"MR", 2000)),
    "element of 4 GiB": ("CHI-IN-030", meta() + element(9, 0x60, b"UN", b"abcd", 0xFFFFFFFE)),
    "wanted element of 2 GiB": ("CHI-IN-030", meta() + element(8, 0x103E, b"UT", b"abcd", 0x7FFFFFFE)),
    "nested 1000 deep, undefined": ("CHI-IN-031", meta() + nested_bomb(1000, undefined=True)),
    "nested 1000 deep, implicit": ("CHI-IN-031", meta(IMPLICIT.encode() + b"\0") + nested_bomb(1000, undefined=True, implicit=True)),
    "nested 1000 deep, defined": ("CHI-IN-031", meta() + nested_bomb(1000, undefined=False)),
    "nested 33 deep": ("CHI-IN-031", meta() + nested_bomb(33, undefined=False)),
    "nested 50000 deep": ("CHI-IN-031", meta() + nested_bomb(50_000, undefined=True)),
    "million elements": ("CHI-IN-032", meta() + element(9, 1, b"SH", b"") * 1_000_000),
    "million items": ("CHI-IN-032", meta() + element(0x40, 0xA730, b"SQ", item(b"") * 1_000_000)),
    "item outside a sequence": ("CHI-IN-030", meta() + item(b"abcdefgh")),
    "delimiter at the top": ("CHI-IN-030", meta() + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)),
    "item longer than its sequence": ("CHI-IN-030", meta() + element(0x40, 0xA730, b"SQ", item(b"", 5000)) + SERIES_UID * 9),
    "sequence longer than the file": ("CHI-IN-030", meta() + element(0x40, 0xA730, b"SQ", item(b""), 5000)),
    "element in a sequence": ("CHI-IN-030", meta() + element(0x40, 0xA730, b"SQ", SERIES_UID)),
    "sequence never closed": ("CHI-IN-030", meta() + element(0x40, 0xA730, b"SQ", item(SERIES_UID), 0xFFFFFFFF)),
    "fragments never closed": ("CHI-IN-030", meta() + element(9, 0x10, b"OB", item(b"ab", 999_999), 0xFFFFFFFF)),
    "deflated": ("CHI-IN-033", meta(DEFLATED.encode()) + b"\x03\x00"),
    "decimal without digits": ("CHI-IN-046", meta() + element(0x28, 0x30, b"DS", b"two\\one ")),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_a_header_that_lies_is_refused_quickly_and_cheaply(name: str, tmp_path: Path) -> None:
    code, content = RAW[name]
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        read_header(path, relative="in/x.dcm")
    assert time.process_time() - start < 2
    assert (caught.value.code, caught.value.file) == (code, "in/x.dcm")
    if len(content) > 2_000_000:
        return  # tracing a million elements takes 20 s
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < (32 << 20)
    finally:
        tracemalloc.stop()


def _set(**values: Any) -> Callable[[Any, int], None]:
    def edit(dataset: Any, index: int) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return edit


def _on_first(edit: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
    return lambda dataset, index: edit(dataset, index) if index == 1 else None


EDITED: dict[str, tuple[str, Callable[[Any, int], None]]] = {
    "no position": ("CHI-IN-038", _set(ImagePositionPatient=None)),
    "position of two": ("CHI-IN-038", _set(ImagePositionPatient=[1, 2])),
    "position infinite": ("CHI-IN-038", _set(ImagePositionPatient=["1e400", "0", "0"])),
    "position far away": ("CHI-IN-038", _set(ImagePositionPatient=["1e9", "0", "0"])),
    "no orientation": ("CHI-IN-038", _set(ImageOrientationPatient=None)),
    "orientation zero": ("CHI-IN-038", _set(ImageOrientationPatient=[0, 0, 0, 0, 0, 0])),
    "orientation not a unit": ("CHI-IN-038", _set(ImageOrientationPatient=[2, 0, 0, 0, 2, 0])),
    "orientation not square": ("CHI-IN-038", _set(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0])),
    "orientation differs": ("CHI-IN-038", _on_first(_set(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))),
    "no spacing": ("CHI-IN-045", _set(PixelSpacing=None)),
    "spacing zero": ("CHI-IN-045", _set(PixelSpacing=[0, 0])),
    "spacing negative": ("CHI-IN-045", _set(PixelSpacing=[-1, 1])),
    "spacing huge": ("CHI-IN-045", _set(PixelSpacing=[100, 100])),
    "spacing differs": ("CHI-IN-036", _on_first(_set(PixelSpacing=[1, 1]))),
    "slope zero": ("CHI-IN-046", _set(RescaleSlope="0")),
    "slope infinite": ("CHI-IN-046", _set(RescaleSlope="1e999")),
    "rows lie": ("CHI-IN-044", _set(Rows=5000)),
    "rows differ": ("CHI-IN-036", _on_first(_set(Rows=3))),
    "columns zero": ("CHI-IN-044", _set(Columns=60000)),
    "rows zero": ("CHI-IN-034", _set(Rows=0)),
    "no pixels": ("CHI-IN-034", _set(PixelData=None)),
    "pixels cut": ("CHI-IN-044", _set(PixelData=b"\0\0")),
    "colour": ("CHI-IN-035", _set(SamplesPerPixel=3, PhotometricInterpretation="RGB")),
    "palette": ("CHI-IN-035", _set(PhotometricInterpretation="PALETTE COLOR")),
    "one bit": ("CHI-IN-035", _set(BitsAllocated=1, BitsStored=1, HighBit=0)),
    "more bits stored than allocated": ("CHI-IN-035", _set(BitsStored=20)),
    "high bit elsewhere": ("CHI-IN-035", _set(BitsStored=12, HighBit=15)),
    "sign differs": ("CHI-IN-036", _on_first(_set(PixelRepresentation=1))),
    "series differs": ("CHI-IN-037", _on_first(_set(SeriesInstanceUID="1.2.3.1000"))),
    "many frames without groups": ("CHI-IN-048", _set(NumberOfFrames=1000)),
    "frames negative": ("CHI-IN-048", _set(NumberOfFrames=-4)),
    "segmentation object": ("CHI-IN-034", _set(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITED)
def test_a_series_with_an_impossible_element_is_refused_by_its_code(
    name: str, tmp_path: Path, dicom_files: SimpleNamespace
) -> None:
    code, edit = EDITED[name]
    files = dicom_files.series(tmp_path / "a", edit=edit)
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_series(files, relative="a/IM0000")
    assert caught.value.code == code
    assert caught.value.remedy
    assert "CANARY" not in str(caught.value)
    assert time.monotonic() - start < 2


def test_an_enhanced_object_without_one_ordered_stack_is_refused(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    def drop(dataset: Any) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[0]

    def split(dataset: Any) -> None:
        dataset.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0].StackID = "2"

    def repeat(dataset: Any) -> None:
        frames = dataset.PerFrameFunctionalGroupsSequence
        frames[0].PlanePositionSequence = frames[1].PlanePositionSequence

    for index, (edit, code) in enumerate([(drop, "CHI-IN-048"), (split, "CHI-IN-048"), (repeat, "CHI-IN-039")]):
        with pytest.raises(InputError) as caught:
            read_series([dicom_files.enhanced(tmp_path / f"{index}.dcm", edit=edit)])
        assert caught.value.code == code


def _encapsulated(syntax: str, fragment: bytes) -> Callable[[Any, int], None]:
    def edit(dataset: Any, index: int) -> None:
        from pydicom.encaps import encapsulate

        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([fragment])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"

    return edit


def test_compressed_pixels_without_a_decoder_or_damaged_are_refused(
    tmp_path: Path, dicom_files: SimpleNamespace
) -> None:
    cases = {
        "CHI-IN-047": _encapsulated(RLE, b"\x01\x00\x00\x00" + bytes(200)),
        "CHI-IN-033": _encapsulated("1.2.840.10008.1.2.4.103", b"nothing "),
    }
    for code, edit in cases.items():
        with pytest.raises(InputError) as caught:
            read_series(dicom_files.series(tmp_path / code, edit=edit))
        assert caught.value.code == code


def test_encapsulated_pixels_under_a_native_syntax_are_refused(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    files = dicom_files.series(tmp_path / "a", edit=_encapsulated(RLE, bytes(64)))
    for path in files:
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0"))
    with pytest.raises(InputError) as caught:
        read_series(files)
    assert caught.value.code == "CHI-IN-044"


# ---- odd but valid --------------------------------------------------------------------------------------------------


def _rewritten(path: Path, syntax: str, *, preamble: bool = True) -> None:
    import pydicom

    dataset = pydicom.dcmread(path)
    implicit, little = syntax == IMPLICIT, syntax != BIG_ENDIAN
    if not little:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    if preamble:
        pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    else:
        del dataset.file_meta, dataset.preamble
        pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=little)
    path.write_bytes(buffer.getvalue())


def _rle(dataset: Any, index: int) -> None:
    dataset.compress(RLE)


def _private_sequence(dataset: Any, index: int) -> None:
    from pydicom.dataset import Dataset

    inner = Dataset()
    inner.add_new(0x00290010, "LO", "CHIASM TEST")
    inner.add_new(0x00291001, "UN", b"x" * 70_000)
    inner.Rows = 9999  # nested: must not replace the real one
    outer = Dataset()
    outer.ReferencedImageSequence = [inner, inner]
    dataset.ReferencedStudySequence = [outer]


def _icon(dataset: Any, index: int) -> None:
    from pydicom.dataset import Dataset

    icon = Dataset()
    icon.Rows = icon.Columns = 2
    icon.add_new(0x7FE00010, "OW", b"\1\2\3\4")
    dataset.IconImageSequence = [icon]


ODD: dict[str, Callable[[Any, int], None] | tuple[str, bool]] = {
    "implicit VR": (IMPLICIT, True),
    "big endian": (BIG_ENDIAN, True),
    "no preamble, explicit": ("1.2.840.10008.1.2.1", False),
    "no preamble, implicit": (IMPLICIT, False),
    "RLE": _rle,
    "private sequences and 140 kB before the pixels": _private_sequence,
    "icon with pixels of its own": _icon,
    "no patient": _set(PatientID="", PatientName=""),
    "monochrome 1": _set(PhotometricInterpretation="MONOCHROME1"),
    "12 of 16 bits": _set(BitsStored=12, HighBit=11),
    "numbers with blanks": _set(PixelSpacing=[" 2.0", "1.5 "]),
    "one frame declared": _set(NumberOfFrames=1),
    "Latin text": _set(SpecificCharacterSet="ISO_IR 192", SeriesDescription="Schädel µ"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_valid_series_are_the_same_volume(name: str, tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    how = ODD[name]
    plain = read_series(dicom_files.series(tmp_path / "plain"))
    files = dicom_files.series(tmp_path / "odd", edit=None if isinstance(how, tuple) else how)
    if isinstance(how, tuple):
        for path in files:
            _rewritten(path, how[0], preamble=how[1])
    (found,) = scan_series(tmp_path / "odd", tmp_path)
    assert set(found.files) == set(files)
    volume = read_series(found.files)
    np.testing.assert_array_equal(volume.values, plain.values)
    np.testing.assert_allclose(volume.grid.affine, plain.grid.affine)


def test_trailing_padding_is_accepted(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    files = dicom_files.series(tmp_path)
    before = read_series(files).values
    for path in files:
        path.write_bytes(path.read_bytes() + bytes(512))
    np.testing.assert_array_equal(read_series(files).values, before)


def test_mutated_headers_raise_only_declared_errors(tmp_path: Path, dicom_files: SimpleNamespace) -> None:
    files = dicom_files.series(tmp_path / "a")
    sound = files[0].read_bytes()
    generator = np.random.default_rng(7)
    slowest = 0.0
    for _ in range(150):
        content = bytearray(sound)
        for place in generator.integers(132, len(content), generator.integers(1, 8)):
            content[place] = int(generator.integers(256))
        files[0].write_bytes(
            content[: int(generator.integers(132, len(content) + 1))] if generator.random() < 0.3 else content
        )
        start = time.monotonic()
        try:
            read_series(files)
        except ChiasmError as error:
            assert error.code.startswith("CHI-")  # noqa: PT017  (success is fine as well)
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < 2
