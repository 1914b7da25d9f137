"""NIfTI in and out: nibabel's numbers, the input's header bit for bit, nothing personal, equal bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from chiasm.data.errors import InputError, ResourceError
from chiasm.data.nifti import looks_like_nifti, read_header, read_volume, read_volumes, write_labels, write_values
from chiasm.data.nifti_header import NIFTI1, NIFTI2
from chiasm.data.volumes import Grid

SHAPE = (5, 6, 7)
TYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
NIBABEL_DATA = Path(nib.__file__).parent / "tests" / "data"
CANARY = b"DOE^JANE 1950"


def random_affine(rng: np.random.Generator, *, handed: int = 1) -> np.ndarray[Any, Any]:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn[:, 0] *= np.sign(np.linalg.det(turn)) * handed
    affine = np.eye(4)
    affine[:3, :3] = turn * rng.uniform(0.5, 3, 3)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


def image(
    values: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], *, version: int = 1, order: str = "<", **fields: object
) -> nib.Nifti1Image:
    """An image whose header carries exactly what is asked for."""
    kind = nib.Nifti1Header if version == 1 else nib.Nifti2Header
    header = kind(endianness=order)
    header.set_data_dtype(values.dtype)
    made = (nib.Nifti1Image if version == 1 else nib.Nifti2Image)(values, affine, header)
    made.header.set_xyzt_units("mm", "sec")
    for name, value in fields.items():
        made.header[name] = value
    return made


def saved(made: nib.Nifti1Image, path: Path, *, slope: float = 1.0, inter: float = 0.0) -> Path:
    """Write header and stored values by hand: nib.save would choose its own scaling."""
    header = made.header.copy()
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, inter, header.single_vox_offset
    header["magic"] = header.single_magic
    stored = np.asarray(made.dataobj).astype(header.get_data_dtype())
    data = header.structarr.tobytes() + bytes(4) + stored.tobytes(order="F")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_every_type_order_and_version_gives_nibabels_values(
    kind: str, order: str, version: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    limits = (np.iinfo(kind).min, np.iinfo(kind).max) if kind[0] in "iu" else (-1e6, 1e6)
    values = rng.uniform(*[float(v) * 0.99 for v in limits], SHAPE).astype(kind)
    path = saved(image(values, random_affine(rng), version=version, order=order), tmp_path / "x.nii.gz")
    loaded = nib.load(path)
    volume = read_volume(path, dtype=None)
    assert volume.values.dtype == np.dtype(kind)
    assert volume.values.dtype.isnative
    assert_array_equal(volume.values, values)
    assert_array_equal(volume.values, np.asanyarray(loaded.dataobj))
    assert_allclose(read_volume(path).values, loaded.get_fdata(dtype=np.float32), rtol=1e-6)
    assert_array_equal(volume.grid.affine, loaded.affine)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("slope", "inter"), [(2.0, 0.0), (0.01, -1024.0), (-1.5, 3.0), (1.0, 1e4), (1e-6, 0.0)])
def test_scaling_equals_nibabels(kind: str, slope: float, inter: float, tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(0, 120, SHAPE).astype(kind)
    path = saved(image(values, np.eye(4)), tmp_path / "x.nii", slope=slope, inter=inter)
    exact = nib.load(path).get_fdata()
    assert_allclose(read_volume(path, dtype=np.float64).values, exact, rtol=1e-12)
    scale = np.abs(values.astype(float)).max() * abs(slope) + abs(inter)
    assert_allclose(read_volume(path).values, exact, atol=2 * np.finfo(np.float32).eps * scale)
    assert read_volume(path, dtype=None).values.dtype == np.float32


def test_wide_integers_keep_digits_that_float32_would_lose_before_the_intercept(tmp_path: Path) -> None:
    values = (2**30 + np.arange(210)).reshape(SHAPE).astype("i4")
    path = saved(image(values, np.eye(4)), tmp_path / "x.nii", slope=1.0, inter=-float(2**30))
    assert_array_equal(read_volume(path).values, np.arange(210).reshape(SHAPE))


def test_slope_zero_means_no_scaling_whatever_the_intercept_says(tmp_path: Path) -> None:
    values = np.arange(210, dtype="i2").reshape(SHAPE)
    for inter in (5.0, float("nan")):
        path = saved(image(values, np.eye(4)), tmp_path / "x.nii", slope=0.0, inter=inter)
        assert_array_equal(read_volume(path).values, values)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("version", [1, 2])
def test_affine_precedence_equals_nibabels_on_random_headers(seed: int, version: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    made = image(np.zeros(SHAPE, "u1"), np.eye(4), version=version, order="<>"[seed % 2])
    made.header.set_sform(random_affine(rng, handed=rng.choice([-1, 1])), code=int(rng.integers(0, 5)))
    made.header.set_qform(random_affine(rng, handed=rng.choice([-1, 1])), code=int(rng.integers(0, 5)))
    if seed % 3 == 0:
        made.header["sform_code"] = 0
    if seed % 6 == 0:
        made.header["qform_code"] = 0
    if seed % 5 == 0:
        made.header["pixdim"][0] = 0
    path = saved(made, tmp_path / "x.nii")
    assert_allclose(read_header(path).affine, nib.load(path).affine, atol=1e-10)


ODD: dict[str, dict[str, object]] = {
    "one trailing axis": {"dim": (4, *SHAPE, 1, 1, 1, 1)},
    "four trailing axes": {"dim": (7, *SHAPE, 1, 1, 1, 1)},
    "unused axes are zero": {"dim": (3, *SHAPE, 0, 0, 0, 0)},
    "unused axes are nonsense": {"dim": (3, *SHAPE, -7, 300, 0, 9)},
    "bits not stated": {"bitpix": 0},
    "magic NIfTI, regular blank": {"regular": b""},
    "invalid units": {"xyzt_units": 255},
    "no units": {"xyzt_units": 0},
    "metres said, mm meant": {"xyzt_units": 1},
    "qfac zero": {"pixdim": (0, 1, 1, 1, 0, 0, 0, 0), "sform_code": 0, "qform_code": 1},
    "negative pixel sizes": {"pixdim": (1, -1, -1, -1, 0, 0, 0, 0), "sform_code": 0, "qform_code": 0},
    "zero pixel sizes under an sform": {"pixdim": (1, 0, 0, 0, 0, 0, 0, 0)},
    "NaN repetition time": {"pixdim": (1, 1, 1, 1, np.nan, 0, 0, 0)},
    "quaternion slightly too long": {"quatern_b": 1.0000001, "sform_code": 0, "qform_code": 1},
    "half turn": {"quatern_c": 1.0, "sform_code": 0, "qform_code": 2},
    "sform aligned, qform talairach": {"sform_code": 2, "qform_code": 3},
    "neither form": {"sform_code": 0, "qform_code": 0},
    "junk in text": {"descrip": b"\xff\xfe\x80" * 20, "aux_file": b"\x00\xff" * 12},
    "intent label": {"intent_code": 1002},
    "unknown intent": {"intent_code": 31999},
    "nonsense slices": {"slice_start": -5, "slice_end": 30000, "slice_code": 77},
    "NaN display range": {"cal_min": np.nan, "cal_max": np.inf},
    "NaN times": {"toffset": np.nan, "slice_duration": np.inf},
    "dim_info": {"dim_info": 57},
    "intent parameters NaN": {"intent_p1": np.nan},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_valid_header_is_read_as_nibabel_reads_it(name: str, tmp_path: Path) -> None:
    values = np.arange(210, dtype="i2").reshape(SHAPE)
    path = saved(image(values, np.eye(4), sform_code=2, qform_code=1), tmp_path / "x.nii")
    raw = bytearray(path.read_bytes())
    record = np.frombuffer(raw, nib.Nifti1Header.template_dtype, count=1)  # a writable view of the bytes
    for field, value in ODD[name].items():
        record[field] = value
    path.write_bytes(raw)
    volume, loaded = read_volume(path), nib.load(path)
    assert_array_equal(volume.values, values)
    assert_array_equal(volume.values, loaded.get_fdata().reshape(SHAPE))
    assert_allclose(volume.grid.affine, loaded.affine, atol=2e-6)


def _as_members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[start : start + 300]) for start in range(0, len(data), 300))


WRAPPED = {
    "several gzip members": _as_members,
    "an empty first member": lambda data: gzip.compress(b"") + gzip.compress(data),
    "zeros behind the gzip stream": lambda data: gzip.compress(data) + bytes(1000),
    "a name and a comment in the gzip header": lambda data: (
        b"\x1f\x8b\x08\x18\0\0\0\0\0\xff" + b"name\0" + b"comment\0" + gzip.compress(data)[10:]
    ),
    "stored, not deflated": lambda data: gzip.compress(data, 0),
    "bytes behind the last voxel": lambda data: data + b"tail" * 100,
    "bytes behind the last voxel, gzipped": lambda data: gzip.compress(data + b"tail" * 100),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_odd_but_valid_packing_is_unpacked(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-500, 500, SHAPE).astype("i2")
    plain = saved(image(values, np.eye(4)), tmp_path / "x.nii").read_bytes()
    path = tmp_path / "wrong-name.txt"
    path.write_bytes(WRAPPED[name](plain))
    digest = hashlib.sha256()
    assert looks_like_nifti(path)
    assert_array_equal(read_volume(path, digest=digest).values, values)
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("extension", [b"\0" * 16, b"\xff" * 4096, b"<xml>" * 20_000])
def test_extension_is_passed_over_whatever_it_holds(extension: bytes, tmp_path: Path) -> None:
    values = np.arange(210, dtype="i2").reshape(SHAPE)
    plain = saved(image(values, np.eye(4)), tmp_path / "x.nii").read_bytes()
    raw = bytearray(plain[:352])
    record = np.frombuffer(raw, nib.Nifti1Header.template_dtype, count=1, offset=0)
    record["vox_offset"] = 352 + len(extension)
    raw[348] = 1
    (tmp_path / "x.nii").write_bytes(bytes(raw) + extension + plain[352:])
    assert_array_equal(read_volume(tmp_path / "x.nii").values, values)


@pytest.mark.parametrize("shape", [(*SHAPE, 4), (*SHAPE, 1, 4), (*SHAPE, 1, 1, 4)])
def test_channels_of_one_file_are_read_in_one_pass_in_any_order(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype("f4")
    path = saved(image(values, np.eye(4)), tmp_path / "x.nii.gz")
    flat = values.reshape(*SHAPE, 4)
    assert read_header(path).n_volumes == 4
    for volume, index in zip(read_volumes(path, indices=[3, 0, 3]), [3, 0, 3], strict=True):
        assert_array_equal(volume.values, flat[..., index])
    assert_array_equal(read_volume(path, index=2).values, flat[..., 2])


def test_three_dimensional_file_takes_index_zero(tmp_path: Path) -> None:
    path = saved(image(np.arange(210, dtype="i2").reshape(SHAPE), np.eye(4)), tmp_path / "x.nii")
    assert_array_equal(read_volume(path, index=0).values, read_volume(path).values)


@pytest.mark.parametrize(
    "name",
    [
        "anatomical.nii",
        "example4d.nii.gz",
        "example_nifti2.nii.gz",
        "functional.nii",
        "reoriented_anat_moved.nii",
        "standard.nii.gz",
    ],
)
def test_nibabels_own_files_are_read_as_nibabel_reads_them(name: str) -> None:
    path, loaded = NIBABEL_DATA / name, nib.load(NIBABEL_DATA / name)
    header = read_header(path)
    exact = loaded.get_fdata().reshape(*header.shape, -1)
    assert_allclose(header.affine, loaded.affine, atol=1e-6)
    for index, volume in enumerate(read_volumes(path, indices=range(header.n_volumes), dtype=np.float64)):
        assert_allclose(volume.values, exact[..., index], rtol=1e-12)


def test_values_are_not_copied_where_the_file_already_has_the_type(tmp_path: Path) -> None:
    path = saved(image(np.ones(SHAPE, "f4"), np.eye(4)), tmp_path / "x.nii")
    values = read_volume(path).values
    assert values.flags.f_contiguous
    assert values.flags.writeable
    assert values.base is not None


def test_content_decides_what_looks_like_nifti(tmp_path: Path) -> None:
    made = saved(image(np.zeros(SHAPE, "u1"), np.eye(4)), tmp_path / "x.nii.gz")
    assert looks_like_nifti(made)
    for junk in (b"", b"\x5c\x01", b"hello" * 100, b"\x5c\x01\0\0" + bytes(124) + b"DICM", gzip.compress(b"text")):
        (tmp_path / "y.nii").write_bytes(junk)
        assert not looks_like_nifti(tmp_path / "y.nii")


# writing


def _fields(path: Path) -> np.void:
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    layout, size = (NIFTI1, 348) if 348 in {int.from_bytes(data[:4], o) for o in ("little", "big")} else (NIFTI2, 540)
    order = "<" if int.from_bytes(data[:4], "little") == size else ">"
    return np.frombuffer(data, layout.newbyteorder(order), count=1)[0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_labels_keep_the_geometry_of_the_input_bit_for_bit(
    order: str, version: int, suffix: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    made = image(rng.normal(size=SHAPE).astype("f4"), np.eye(4), version=version, order=order, dim_info=57)
    made.header.set_sform(random_affine(rng), code=2)
    made.header.set_qform(random_affine(rng, handed=-1), code=3)
    made.header["pixdim"][1] = 1.2345678
    source = saved(made, tmp_path / "in.nii.gz", slope=3.0, inter=4.0)
    labels = rng.integers(0, 5, SHAPE)
    write_labels(tmp_path / f"out{suffix}", labels, read_volume(source).grid)
    old, new = _fields(source), _fields(tmp_path / f"out{suffix}")
    for name in (
        "sizeof_hdr",
        "qform_code",
        "sform_code",
        "quatern",
        "qoffset",
        "srow",
        "xyzt_units",
        "dim_info",
        "magic",
    ):
        assert (
            old[name].tobytes() == new[name].tobytes() if hasattr(old[name], "tobytes") else old[name] == new[name]
        ), name
    assert old["pixdim"][:4].tobytes() == new["pixdim"][:4].tobytes()
    loaded = nib.load(tmp_path / f"out{suffix}")
    assert loaded.get_data_dtype() == np.uint8
    assert loaded.header.endianness == order
    assert loaded.dataobj.slope == 1
    assert loaded.dataobj.inter == 0
    assert_array_equal(np.asanyarray(loaded.dataobj), labels)
    assert_array_equal(loaded.affine, nib.load(source).affine)


def test_nothing_personal_of_the_input_reaches_the_output(tmp_path: Path) -> None:
    for version in (1, 2):
        made = image(
            np.zeros(SHAPE, "i2"), np.eye(4), version=version, descrip=CANARY, aux_file=CANARY, intent_name=CANARY
        )
        path = saved(made, tmp_path / "in.nii")
        raw = bytearray(path.read_bytes())
        for place in (4, 14) if version == 1 else (525,):  # data_type and db_name, or the unused end
            raw[place : place + 10] = CANARY[:10]
        body = bytes(raw[-420:])
        head = np.frombuffer(raw, (NIFTI1, NIFTI2)[version - 1], count=1)
        head["vox_offset"] += 64
        path.write_bytes(bytes(raw[:-420]) + CANARY.ljust(64) + body)  # an extension
        write_labels(tmp_path / "out.nii", np.zeros(SHAPE, np.uint8), read_volume(path).grid)
        assert path.read_bytes().count(CANARY[:10]) >= 5
        assert CANARY[:6] not in (tmp_path / "out.nii").read_bytes()


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0, 0, "u1"), (0, 255, "u1"), (0, 256, "u2"), (0, 65535, "u2"), (0, 65536, "i4"), (-1, 3, "i4")],
)
def test_smallest_type_that_holds_every_label_is_chosen(low: int, high: int, kind: str, tmp_path: Path) -> None:
    labels = np.full(SHAPE, low, np.int64)
    labels[1, 2, 3] = high
    write_labels(tmp_path / "x.nii.gz", labels, Grid(SHAPE, np.eye(4)))
    loaded = nib.load(tmp_path / "x.nii.gz")
    assert loaded.get_data_dtype() == np.dtype(kind)
    assert_array_equal(np.asanyarray(loaded.dataobj), labels)


def test_labels_that_fit_nowhere_and_wrong_shapes_are_refused(tmp_path: Path) -> None:
    grid = Grid(SHAPE, np.eye(4))
    with pytest.raises(ValueError, match="do not fit"):
        write_labels(tmp_path / "x.nii", np.full(SHAPE, 2**31, np.int64), grid)
    with pytest.raises(ValueError, match="do not fit"):
        write_labels(tmp_path / "x.nii", np.full(SHAPE, 300, np.int64), grid, dtype=np.uint8)
    with pytest.raises(ValueError, match="shape"):
        write_labels(tmp_path / "x.nii", np.zeros((5, 6, 8), np.uint8), grid)
    with pytest.raises(ValueError, match="integers"):
        write_labels(tmp_path / "x.nii", np.zeros(SHAPE), grid)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_equal_labels_are_equal_bytes_whatever_their_name_time_order_and_type(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    grid = Grid(SHAPE, np.diag([1.0, 2, 3, 1]))
    write_labels(tmp_path / "a.nii.gz", labels, grid)
    os.utime(tmp_path / "a.nii.gz", (0, 0))
    write_labels(tmp_path / "other.nii.gz", np.asfortranarray(labels).astype(np.int64), grid)
    reversed_view = labels[::-1].copy()[::-1]
    write_labels(tmp_path / "view.nii.gz", reversed_view, grid)
    data = (tmp_path / "a.nii.gz").read_bytes()
    assert data == (tmp_path / "other.nii.gz").read_bytes() == (tmp_path / "view.nii.gz").read_bytes()
    assert data[3:8] == bytes(5), "no name, no time"


@pytest.mark.parametrize("handed", [1, -1])
@pytest.mark.parametrize("seed", range(5))
def test_header_built_from_an_affine_says_it_in_sform_and_qform(handed: int, seed: int, tmp_path: Path) -> None:
    affine = random_affine(np.random.default_rng(seed), handed=handed)
    write_labels(tmp_path / "x.nii", np.ones(SHAPE, np.uint8), Grid(SHAPE, affine))
    header = nib.load(tmp_path / "x.nii").header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 1
    assert_allclose(header.get_sform(), affine, atol=1e-5)
    assert_allclose(header.get_qform(), affine, atol=2e-4)
    assert header.get_xyzt_units()[0] == "mm"


def test_sheared_affine_gets_no_qform(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.3
    write_labels(tmp_path / "x.nii", np.ones(SHAPE, np.uint8), Grid(SHAPE, affine))
    header = nib.load(tmp_path / "x.nii").header
    assert int(header["qform_code"]) == 0
    assert_allclose(header.get_best_affine(), affine, atol=1e-6)


def test_moved_grid_does_not_get_the_old_header(tmp_path: Path) -> None:
    source = saved(image(np.zeros(SHAPE, "i2"), np.eye(4)), tmp_path / "in.nii")
    old = read_volume(source).grid
    moved = old.affine.copy()
    moved[:3, 3] = 7
    write_labels(tmp_path / "out.nii", np.zeros(SHAPE, np.uint8), Grid(SHAPE, moved, old.nifti_header))
    assert_allclose(nib.load(tmp_path / "out.nii").affine, moved)


def test_axis_too_long_for_nifti_1_is_written_as_nifti_2(tmp_path: Path) -> None:
    shape = (40_000, 2, 2)
    write_labels(tmp_path / "x.nii.gz", np.ones(shape, np.uint8), Grid(shape, np.eye(4)))
    assert isinstance(nib.load(tmp_path / "x.nii.gz"), nib.Nifti2Image)
    assert read_volume(tmp_path / "x.nii.gz").values.shape == shape


def test_probabilities_are_kept_to_float32_or_to_a_255th(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(size=SHAPE)
    grid = Grid(SHAPE, np.eye(4))
    write_values(tmp_path / "f.nii.gz", values, grid)
    write_values(tmp_path / "u.nii.gz", values, grid, dtype=np.uint8)
    assert_array_equal(nib.load(tmp_path / "f.nii.gz").get_fdata(), values.astype(np.float32))
    assert nib.load(tmp_path / "u.nii.gz").get_data_dtype() == np.uint8
    assert_allclose(read_volume(tmp_path / "u.nii.gz").values, values, atol=0.5 / 255 + 1e-6)
    for wrong in (1.01, -0.01, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            write_values(tmp_path / "w.nii", np.full(SHAPE, wrong), grid, dtype=np.uint8)
    with pytest.raises(ValueError, match="float32 or uint8"):
        write_values(tmp_path / "w.nii", values, grid, dtype=np.float64)


def test_input_that_cannot_be_read_for_want_of_descriptors_is_a_resource_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(image(np.zeros(SHAPE, "i2"), np.eye(4)), tmp_path / "in.nii")

    def refuse(code: int) -> None:
        def opened(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(Path, "open", opened)

    refuse(24)
    with pytest.raises(ResourceError, match="CHI-RES-013"):
        read_volume(path)
    refuse(5)
    with pytest.raises(ResourceError, match="CHI-RES-014"):
        read_volume(path)
    refuse(13)
    with pytest.raises(InputError, match="CHI-IN-001"):
        read_volume(path)
