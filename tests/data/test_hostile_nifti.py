"""Hostile NIfTI files, made by code: each is refused with its own code, quickly, before memory is taken for it."""

from __future__ import annotations

import gzip
import math
import os
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chiasm.data.errors import InputError
from chiasm.data.nifti import all_finite, looks_like_nifti, read_header, read_volume, read_volumes
from chiasm.data.nifti_header import CODES

NAN, INF = math.nan, math.inf
SHAPE = (5, 6, 7)
VOXELS = np.arange(math.prod(SHAPE), dtype="<i2").tobytes()


def nifti1(**fields: object) -> bytes:
    """A valid int16 NIfTI-1 file, written by hand from the standard's offsets; `fields` overwrite."""
    head = bytearray(352)
    places = {
        "sizeof_hdr": ("i", 0), "dim": ("8h", 40), "datatype": ("h", 70), "bitpix": ("h", 72), "pixdim": ("8f", 76),
        "vox_offset": ("f", 108), "scl_slope": ("f", 112), "scl_inter": ("f", 116), "qform_code": ("h", 252), "sform_code": ("h", 254),
        "quatern": ("3f", 256), "qoffset": ("3f", 268), "srow": ("12f", 280), "magic": ("4s", 344),
    }  # fmt: skip
    values: dict[str, object] = {
        "sizeof_hdr": 348, "dim": (3, *SHAPE, 1, 1, 1, 1), "datatype": 4, "bitpix": 16, "pixdim": (1, 1, 1, 1, 0, 0, 0, 0),
        "vox_offset": 352,
        "sform_code": 1, "srow": (1, 0, 0, -2, 0, 1, 0, -3, 0, 0, 1, -4), "magic": b"n+1\0",
    }  # fmt: skip
    return _patched(head, places, values | fields)


def nifti2(**fields: object) -> bytes:
    """The same as NIfTI-2."""
    head = bytearray(544)
    places = {
        "sizeof_hdr": ("i", 0), "magic": ("8s", 4), "datatype": ("h", 12), "bitpix": ("h", 14), "dim": ("8q", 16), "pixdim": ("8d", 104),
        "vox_offset": ("q", 168), "scl_slope": ("d", 176), "scl_inter": ("d", 184), "qform_code": ("i", 344), "sform_code": ("i", 348),
        "quatern": ("3d", 352), "qoffset": ("3d", 376), "srow": ("12d", 400),
    }  # fmt: skip
    values: dict[str, object] = {
        "sizeof_hdr": 540, "dim": (3, *SHAPE, 1, 1, 1, 1), "datatype": 4, "bitpix": 16, "pixdim": (1, 1, 1, 1, 0, 0, 0, 0),
        "vox_offset": 544,
        "sform_code": 1, "srow": (1, 0, 0, -2, 0, 1, 0, -3, 0, 0, 1, -4), "magic": b"n+2\0\r\n\x1a\n",
    }  # fmt: skip
    return _patched(head, places, values | fields)


def _patched(head: bytearray, places: dict[str, tuple[str, int]], values: dict[str, object]) -> bytes:
    body = values.pop("body", VOXELS)
    for name, value in values.items():
        layout, offset = places[name]
        struct.pack_into("<" + layout, head, offset, *(value if isinstance(value, tuple) else (value,)))
    assert isinstance(body, bytes)
    return bytes(head) + body


def changed(data: bytes, position: int, value: int) -> bytes:
    out = bytearray(data)
    out[position] ^= value
    return bytes(out)


def bomb(n_bytes: int) -> bytes:
    """A gzip member of zeros behind a header that claims SHAPE."""
    return gzip.compress(nifti1() + bytes(n_bytes), 9)


def _wide(*values: float) -> dict[str, object]:
    return {"srow": values}


GOOD, GOOD2 = nifti1(), nifti2()
GZ = gzip.compress(GOOD, 6, mtime=0)
NOISE = np.random.default_rng(0).bytes(4000)
QFORM = {"sform_code": 0, "qform_code": 1}
HUGE = 32767

HOSTILE: dict[str, tuple[str, bytes | Callable[[], bytes]]] = {
    # no NIfTI at all
    "empty": ("CHI-IN-002", b""),
    "one-byte": ("CHI-IN-003", b"\x5c"),
    "text": ("CHI-IN-003", b"patient,age\n1,64\n" * 50),
    "html-error-page": ("CHI-IN-003", b"<!DOCTYPE html><html><body>404</body></html>" * 20),
    "zeros": ("CHI-IN-003", bytes(5000)),
    "noise": ("CHI-IN-003", NOISE),
    "png": ("CHI-IN-003", b"\x89PNG\r\n\x1a\n" + NOISE),
    "zip": ("CHI-IN-003", b"PK\x03\x04" + NOISE),
    "lfs-pointer": ("CHI-IN-003", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "dicom": ("CHI-IN-003", bytes(128) + b"DICM" + NOISE),
    "sizeof-347": ("CHI-IN-003", nifti1(sizeof_hdr=347)),
    "sizeof-negative": ("CHI-IN-003", nifti1(sizeof_hdr=-348)),
    "magic-other": ("CHI-IN-003", nifti1(magic=b"n+9\0")),
    "magic-2-in-1": ("CHI-IN-003", nifti1(magic=b"n+2\0")),
    "magic-no-end": ("CHI-IN-003", nifti1(magic=b"n+1x")),
    "magic-1-in-2": ("CHI-IN-003", nifti2(magic=b"n+1\0\r\n\x1a\n")),
    "text-mode-transfer": ("CHI-IN-003", nifti2(magic=b"n+2\0\n\n\x1a\n")),
    "header-cut": ("CHI-IN-004", GOOD[:347]),
    "header-cut-at-4": ("CHI-IN-004", GOOD[:4]),
    "header2-cut": ("CHI-IN-004", GOOD2[:539]),
    "header-cut-gz": ("CHI-IN-004", gzip.compress(GOOD[:200])),
    "pair-header": ("CHI-IN-005", nifti1(magic=b"ni1\0")[:348]),
    "pair-header-2": ("CHI-IN-005", nifti2(magic=b"ni2\0\r\n\x1a\n")[:540]),
    "analyze": ("CHI-IN-005", nifti1(magic=b"\0\0\0\0")),
    # gzip
    "gz-cut-half": ("CHI-IN-006", GZ[: len(GZ) // 2]),
    "gz-cut-trailer": ("CHI-IN-006", GZ[:-1]),
    "gz-header-only": ("CHI-IN-006", GZ[:10]),
    "gz-two-bytes": ("CHI-IN-006", GZ[:2]),
    "gz-crc": ("CHI-IN-006", changed(GZ, -8, 1)),
    "gz-length": ("CHI-IN-006", changed(GZ, -1, 1)),
    "gz-method": ("CHI-IN-006", changed(GZ, 2, 1)),
    "gz-noise": ("CHI-IN-006", GZ[:10] + b"\xff" * 300),
    "gz-garbage-behind": ("CHI-IN-006", GZ + NOISE),
    "gz-many-empty-members": ("CHI-IN-006", GZ + gzip.compress(b"") * 100_000),
    "gz-of-gz": ("CHI-IN-021", gzip.compress(GZ)),
    "gz-of-nothing": ("CHI-IN-002", gzip.compress(b"")),
    "gz-of-text": ("CHI-IN-003", gzip.compress(b"hello " * 100)),
    "bomb-behind-small-claim": ("CHI-IN-022", lambda: bomb(64 << 20)),
    "bomb-claimed": (
        "CHI-IN-007",
        lambda: gzip.compress(nifti1(dim=(3, 1300, 1300, 700, 1, 1, 1, 1)) + bytes(16 << 20), 9) + NOISE * 900,
    ),
    "small-gz-large-claim": ("CHI-IN-014", gzip.compress(nifti1(dim=(3, 1000, 1000, 1000, 1, 1, 1, 1)))),
    # axes
    "no-axes": ("CHI-IN-008", nifti1(dim=(0, *SHAPE, 1, 1, 1, 1))),
    "eight-axes": ("CHI-IN-008", nifti1(dim=(8, *SHAPE, 1, 1, 1, 1))),
    "axes-negative": ("CHI-IN-008", nifti1(dim=(-3, *SHAPE, 1, 1, 1, 1))),
    "axis-zero": ("CHI-IN-008", nifti1(dim=(3, 5, 0, 7, 1, 1, 1, 1))),
    "axis-negative": ("CHI-IN-008", nifti1(dim=(3, 5, -6, 7, 1, 1, 1, 1))),
    "two-axes-negative": ("CHI-IN-008", nifti1(dim=(3, -5, -6, 7, 1, 1, 1, 1))),
    "axis2-negative-2^63": ("CHI-IN-008", nifti2(dim=(3, 5, 6, -(2**63), 1, 1, 1, 1))),
    "time-zero": ("CHI-IN-008", nifti1(dim=(4, *SHAPE, 0, 1, 1, 1))),
    "1-D": ("CHI-IN-009", nifti1(dim=(1, 210, 1, 1, 1, 1, 1, 1))),
    "2-D": ("CHI-IN-009", nifti1(dim=(2, 14, 15, 1, 1, 1, 1, 1))),
    "one-slice": ("CHI-IN-009", nifti1(dim=(3, 14, 15, 1, 1, 1, 1, 1))),
    "one-sagittal-slice": ("CHI-IN-009", nifti1(dim=(3, 1, 14, 15, 1, 1, 1, 1))),
    "2-D-movie": ("CHI-IN-009", nifti1(dim=(4, 5, 6, 1, 7, 1, 1, 1))),
    "5-D": ("CHI-IN-010", nifti1(dim=(5, 5, 2, 3, 7, 2, 1, 1))),
    "7-D": ("CHI-IN-010", nifti1(dim=(7, 2, 2, 2, 2, 2, 2, 2))),
    # voxel type
    **{
        f"type-{code}": ("CHI-IN-011", nifti1(datatype=code))
        for code in (0, 1, 3, 32, 128, 255, 1536, 1792, 2048, 2304, -4)
    },
    "bits-8-for-int16": ("CHI-IN-012", nifti1(bitpix=8)),
    "bits-negative": ("CHI-IN-012", nifti1(bitpix=-16)),
    # where the voxels are
    "offset-0": ("CHI-IN-013", nifti1(vox_offset=0)),
    "offset-348": ("CHI-IN-013", nifti1(vox_offset=348)),
    "offset-4": ("CHI-IN-013", nifti1(vox_offset=4)),
    "offset-negative": ("CHI-IN-013", nifti1(vox_offset=-352)),
    "offset-half": ("CHI-IN-013", nifti1(vox_offset=352.5)),
    "offset-nan": ("CHI-IN-013", nifti1(vox_offset=NAN)),
    "offset-inf": ("CHI-IN-013", nifti1(vox_offset=INF)),
    "offset-1e30": ("CHI-IN-013", nifti1(vox_offset=1e30)),
    "offset2-2^62": ("CHI-IN-013", nifti2(vox_offset=2**62)),
    "offset-in-header2": ("CHI-IN-013", nifti2(vox_offset=352)),
    "offset-behind-end": ("CHI-IN-014", nifti1(vox_offset=1 << 20)),
    "voxels-cut": ("CHI-IN-014", GOOD[:-1]),
    "no-voxels": ("CHI-IN-014", GOOD[:352]),
    "voxels-cut-gz": ("CHI-IN-014", gzip.compress(GOOD[:-1])),
    "claims-float64": ("CHI-IN-014", nifti1(datatype=64, bitpix=64)),
    "claims-time": ("CHI-IN-014", nifti1(dim=(4, *SHAPE, HUGE, 1, 1, 1))),
    "claims-2-GB": ("CHI-IN-014", nifti1(dim=(3, 1024, 1024, 1024, 1, 1, 1, 1))),
    "claims-140-TB": ("CHI-IN-015", nifti1(dim=(3, HUGE, HUGE, HUGE, 1, 1, 1, 1), datatype=8, bitpix=32)),
    "claims-2^189": ("CHI-IN-015", nifti2(dim=(3, 2**63 - 1, 2**63 - 1, 2**63 - 1, 1, 1, 1, 1))),
    "product-wraps-to-0": ("CHI-IN-015", nifti2(dim=(3, 2**32, 2**32, 2, 1, 1, 1, 1))),
    "claims-140-TB-gz": ("CHI-IN-015", gzip.compress(nifti1(dim=(3, HUGE, HUGE, HUGE, 1, 1, 1, 1)))),
    "more-than-claimed": ("CHI-IN-022", lambda: GOOD + bytes(2 << 20)),
    # affine
    "affine-zero": ("CHI-IN-016", nifti1(**_wide(*[0.0] * 12))),
    "affine-nan": ("CHI-IN-016", nifti1(**_wide(NAN, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))),
    "affine-inf": ("CHI-IN-016", nifti1(**_wide(1, 0, 0, INF, 0, 1, 0, 0, 0, 0, 1, 0))),
    "affine-rank-2": ("CHI-IN-016", nifti1(**_wide(1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0))),
    "affine-zero-column": ("CHI-IN-016", nifti1(**_wide(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0))),
    "affine-far": ("CHI-IN-016", nifti1(**_wide(1, 0, 0, 1e30, 0, 1, 0, 0, 0, 0, 1, 0))),
    "affine2-overflow": ("CHI-IN-017", nifti2(**_wide(1e300, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))),
    "quaternion-nan": ("CHI-IN-016", nifti1(**QFORM, quatern=(NAN, 0, 0))),
    "quaternion-long": ("CHI-IN-016", nifti1(**QFORM, quatern=(1, 1, 1))),
    "quaternion-inf": ("CHI-IN-016", nifti1(**QFORM, quatern=(INF, 0, 0))),
    "qoffset-nan": ("CHI-IN-016", nifti1(**QFORM, qoffset=(NAN, 0, 0))),
    "pixdim-zero-qform": ("CHI-IN-016", nifti1(**QFORM, pixdim=(1, 0, 1, 1, 0, 0, 0, 0))),
    "pixdim-zero": ("CHI-IN-016", nifti1(sform_code=0, pixdim=(1, 1, 1, 0, 0, 0, 0, 0))),
    "pixdim-nan": ("CHI-IN-016", nifti1(sform_code=0, pixdim=(1, NAN, 1, 1, 0, 0, 0, 0))),
    "pixdim-inf": ("CHI-IN-016", nifti1(**QFORM, pixdim=(1, INF, 1, 1, 0, 0, 0, 0))),
    "microns": ("CHI-IN-017", nifti1(**_wide(1000, 0, 0, 0, 0, 1000, 0, 0, 0, 0, 1000, 0))),
    "metres": ("CHI-IN-017", nifti1(**_wide(0.001, 0, 0, 0, 0, 0.001, 0, 0, 0, 0, 0.001, 0))),
    "voxel-21-mm": ("CHI-IN-017", nifti1(sform_code=0, pixdim=(1, 1, 1, 21, 0, 0, 0, 0))),
    "voxel-0.09-mm": ("CHI-IN-017", nifti1(sform_code=0, pixdim=(1, 0.09, 1, 1, 0, 0, 0, 0))),
    # scaling
    "slope-nan": ("CHI-IN-018", nifti1(scl_slope=NAN)),
    "slope-inf": ("CHI-IN-018", nifti1(scl_slope=-INF)),
    "inter-nan": ("CHI-IN-018", nifti1(scl_slope=1, scl_inter=NAN)),
    "slope2-nan": ("CHI-IN-018", nifti2(scl_slope=NAN)),
    # which volume
    "two-volumes": ("CHI-IN-019", nifti1(dim=(4, *SHAPE, 2, 1, 1, 1), body=VOXELS * 2)),
}


def test_the_base_of_all_lies_is_itself_a_good_file(tmp_path: Path) -> None:
    for data in (GOOD, GOOD2, GZ):
        (tmp_path / "x").write_bytes(data)
        values = read_volume(tmp_path / "x").values
        assert np.array_equal(values.ravel(order="F"), np.arange(210))
    assert len(HOSTILE) >= 90


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_with_its_code(name: str, tmp_path: Path) -> None:
    code, made = HOSTILE[name]
    path = tmp_path / "SECRET-NAME.nii.gz"  # the name claims gzip even where the content does not
    path.write_bytes(made() if callable(made) else made)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(InputError) as caught:
        read_volume(path, relative="sub-01/x.nii.gz")
    assert caught.value.code == code
    assert caught.value.file == "sub-01/x.nii.gz"
    assert caught.value.message
    assert caught.value.remedy
    assert "SECRET" not in str(caught.value)
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "kilobytes"


@pytest.mark.parametrize(
    "name", [n for n, (code, _) in HOSTILE.items() if code in ("CHI-IN-008", "CHI-IN-011", "CHI-IN-015", "CHI-IN-016")]
)
def test_lies_in_the_header_are_refused_before_the_voxels_are_read(name: str, tmp_path: Path) -> None:
    code, made = HOSTILE[name]
    (tmp_path / "x").write_bytes(made if isinstance(made, bytes) else made())
    with pytest.raises(InputError) as caught:
        read_header(tmp_path / "x")
    assert caught.value.code == code


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "dangling-link", "link-loop"])
def test_what_is_no_regular_file_is_refused_without_being_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.nii"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "dangling-link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "link-loop":
        path.symlink_to(path)
    with pytest.raises(InputError, match="CHI-IN-001"):
        read_volume(path)
    assert not looks_like_nifti(path)


@pytest.mark.parametrize("index", [-1, 2, 10**9])
def test_volume_that_is_not_there_is_refused(index: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(nifti1(dim=(4, *SHAPE, 2, 1, 1, 1), body=VOXELS * 2))
    with pytest.raises(InputError, match="CHI-IN-019"):
        read_volume(tmp_path / "x", index=index)


def test_cut_in_a_later_volume_is_found_when_only_the_first_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(nifti1(dim=(4, *SHAPE, 2, 1, 1, 1), body=VOXELS * 2)[:-1]))
    with pytest.raises(InputError, match="CHI-IN-014"):
        read_volume(tmp_path / "x", index=0)


def test_values_that_do_not_fit_are_never_wrapped_around(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(nifti1(scl_slope=0.5))
    with pytest.raises(InputError, match="CHI-IN-020"):
        read_volume(tmp_path / "x", dtype=np.int32)  # 0.5 is not whole
    (tmp_path / "x").write_bytes(nifti1(scl_slope=2))
    with pytest.raises(InputError, match="CHI-IN-020"):
        read_volume(tmp_path / "x", dtype=np.uint8)  # 418 is above 255
    assert read_volume(tmp_path / "x", dtype=np.uint16).values.max() == 418
    for bad in (NAN, INF, 1e300):
        body = np.full(210, bad, "<f8").tobytes()
        (tmp_path / "x").write_bytes(nifti1(datatype=64, bitpix=64, body=body))
        with pytest.raises(InputError, match="CHI-IN-020"):
            read_volume(tmp_path / "x", dtype=np.int32)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8"])
def test_one_bad_voxel_anywhere_is_found(bad: float, kind: str, tmp_path: Path) -> None:
    values = np.ones((60, 50, 40), kind)
    assert all_finite(values)
    for place in ((0, 0, 0), (59, 49, 39), (17, 3, 39)):
        spoilt = values.copy(order="F")
        spoilt[place] = bad
        assert not all_finite(spoilt)
        assert not all_finite(spoilt[::-1, :, ::2]) or place[2] % 2
    assert all_finite(np.full((3, 3, 3), np.finfo(np.float32).max, np.float32))
    assert all_finite(np.zeros((2, 2, 2), np.int16))


def test_label_map_of_one_value_may_compress_beyond_the_ratio_cap(tmp_path: Path) -> None:
    shape = (256, 256, 180)
    data = nifti1(dim=(3, *shape, 1, 1, 1, 1), datatype=2, bitpix=8, body=bytes(math.prod(shape)))
    (tmp_path / "x").write_bytes(gzip.compress(data, 9))
    assert (tmp_path / "x").stat().st_size * 200 < len(data)
    assert not read_volume(tmp_path / "x").values.any()


FUZZED = [GOOD, GOOD2, GZ, gzip.compress(GOOD2), nifti1(**QFORM, quatern=(0.1, 0.2, 0.3))]


@settings(max_examples=50, deadline=2000, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    base=st.sampled_from(FUZZED),
    patches=st.lists(st.tuples(st.integers(0, 560), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 900),
)
@example(base=GOOD, patches=[(40, b"\xff\xff")], cut=None)
def test_nothing_but_a_coded_error_comes_out_of_a_mutated_file(
    base: bytes, patches: list[tuple[int, bytes]], cut: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(base)
    for place, new in patches:
        data[place : place + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "fuzz.nii"
    path.write_bytes(bytes(data[:cut]))
    looks_like_nifti(path)
    codes: set[str] = set()
    for kind in (np.float32, np.uint8, None):
        try:
            header = read_header(path)
            volumes = read_volumes(path, indices=[header.n_volumes - 1], dtype=kind)
        except InputError as error:
            codes.add(error.code)
        else:
            assert volumes[0].values.shape == header.shape
            assert np.isfinite(header.affine).all()
    assert codes <= set(CODES)
