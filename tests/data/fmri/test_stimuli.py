"""Stimuli read alike from memory, HDF5 and files; images that are none are refused by a code, not by a traceback."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from chiasm.data.errors import InputError, SeveralErrors, ToolError
from chiasm.data.fmri.stimuli import ArrayStimuli, FolderStimuli, Hdf5Stimuli


def pictures(n: int = 4, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def test_three_sources_give_equal_pixels(tmp_path: Path) -> None:
    pixels = pictures()
    folder = tmp_path / "stimuli"
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"img{i}.png")
    (folder / "notes.txt").write_text("no image")
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["imgBrick"] = pixels
        file["images"] = (pixels.transpose(0, 3, 1, 2) / 255.0).astype(np.float16)
    sources = [
        ArrayStimuli(pixels, names=[f"img{i}" for i in range(4)]),
        FolderStimuli(folder),
        Hdf5Stimuli(tmp_path / "s.hdf5"),
        Hdf5Stimuli(tmp_path / "s.hdf5", "images"),
    ]
    wanted = np.array([3, 0, 3])
    for source in sources:
        assert source.n == 4
        np.testing.assert_array_equal(source.read(wanted, size=32), pixels[wanted])
        np.testing.assert_array_equal(source.read(wanted, size=16), sources[0].read(wanted, size=16))
    assert sources[1].names == sources[0].names
    assert sources[2].names == ("0", "1", "2", "3")
    assert sources[0].read(np.array([], dtype=np.int64), size=8).shape == (0, 8, 8, 3)


def test_shorter_side_then_centre_as_torchvision() -> None:
    wide = np.zeros((1, 10, 40, 3), np.uint8)
    wide[0, :, 15:25] = [255, 0, 0]
    got = ArrayStimuli(wide).read(np.array([0]), size=10)
    assert (got == [255, 0, 0]).all()  # the middle 10 of 40 columns
    # A checkerboard of single pixels becomes grey: every source pixel counts (antialias), which plain bicubic sampling misses.
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    grey = ArrayStimuli(np.repeat(board[None, ..., None], 3, -1).astype(np.uint8)).read(np.array([0]), size=8)
    assert abs(grey.astype(int) - 127).max() <= 3
    tall = np.zeros((1, 425, 425, 3), np.uint8)
    assert ArrayStimuli(tall).read(np.array([0]), size=224).shape == (1, 224, 224, 3)


def test_transparency_on_white_and_palette_and_16_bit(tmp_path: Path) -> None:
    half = np.zeros((8, 8, 4), np.uint8)
    half[..., 0], half[:4, :, 3] = 200, 255
    Image.fromarray(half).save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "b.png")
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "c.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30] + [0] * 762)
    palette.save(tmp_path / "d.png", transparency=1)
    got = FolderStimuli(tmp_path).read(np.arange(4), size=8)
    assert (got[0, :4] == [200, 0, 0]).all()
    assert (got[0, 4:] == 255).all()
    assert (got[1] == 40_000 >> 8).all()
    assert (got[2] == 7).all()
    assert (got[3] == 255).all()


@pytest.mark.parametrize(("wrong", "says"), [(-1, "counts from 1"), (4, "counts from 1"), (9, "image 9")])
def test_image_outside(wrong: int, says: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["imgBrick"] = pictures()
    for source in (ArrayStimuli(pictures()), Hdf5Stimuli(tmp_path / "s.hdf5")):
        with pytest.raises(InputError, match=says) as caught:
            source.read(np.array([0, wrong]), size=8)
        assert caught.value.code == "CHI-IN-264"


def test_damaged_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=pictures(64, 64), chunks=(1, 64, 64, 3), compression="gzip")
    good = path.read_bytes()
    codes = set()
    rng = np.random.default_rng(1)
    for cut in (0, 5, 200, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(InputError) as caught:
            Hdf5Stimuli(path).read(np.arange(64), size=8)
        codes.add(caught.value.code)
    for _ in range(40):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 30):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            Hdf5Stimuli(path).read(np.arange(64), size=8)
        except InputError as error:
            codes.add(error.code)
    assert codes == {"CHI-IN-262"} or codes == {"CHI-IN-262", "CHI-IN-263"}
    with pytest.raises(InputError, match="missing"):
        Hdf5Stimuli(tmp_path / "none.hdf5")


def test_hdf5_that_leads_elsewhere_or_claims_too_much(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["imgBrick"] = pictures()
    (tmp_path / "raw.bin").write_bytes(pictures().tobytes())
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["link"] = h5py.ExternalLink("other.hdf5", "imgBrick")
        file.create_dataset("raw", (4, 32, 32, 3), "u1", external=[(str(tmp_path / "raw.bin"), 0, 12288)])
        layout = h5py.VirtualLayout((4, 32, 32, 3), "u1")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "imgBrick", (4, 32, 32, 3))
        file.create_virtual_dataset("virtual", layout)
        file["padding"] = np.zeros(200_000, np.uint8)  # so that the file is long enough for what its tables claim
        file["group/x"] = 1
        file["text"] = "abc"
        file.create_dataset("blocks", (10_000, 500, 500, 3), "f8", chunks=(1000, 500, 500, 3), compression="gzip")
    for key in ("link", "raw", "virtual", "group", "text", "blocks", "absent"):
        with pytest.raises(InputError) as caught:
            Hdf5Stimuli(tmp_path / "s.hdf5", key)
        assert caught.value.code == "CHI-IN-262", key


@pytest.mark.parametrize(
    "values", [np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3), np.int16), np.zeros((2, 5000, 2, 3), np.uint8)]
)
def test_hdf5_that_holds_no_images(values: np.ndarray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["imgBrick"] = values
    with pytest.raises(InputError) as caught:
        Hdf5Stimuli(tmp_path / "s.hdf5")
    assert caught.value.code == "CHI-IN-263"


@pytest.mark.parametrize("values", [np.nan, 2.0, -1.0])
def test_float_images_outside_the_range(values: float, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["images"] = np.full((2, 3, 8, 8), values, np.float16)
    with pytest.raises(InputError) as caught:
        Hdf5Stimuli(tmp_path / "s.hdf5", "images").read(np.array([0]), size=8)
    assert caught.value.code == "CHI-IN-263"


def bomb(width: int, height: int) -> bytes:
    """A PNG of 100 bytes that claims width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [b"", b"no image at all", bomb(9000, 9000), bomb(12_000, 9000), bomb(60_000, 60_000), bomb(2000, 1), bomb(20, 20)],
)
def test_files_that_are_no_images(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError) as caught:
        FolderStimuli(tmp_path).read(np.array([0]), size=8)
    assert caught.value.code == "CHI-IN-263"


def test_whole_images_of_unfit_size(tmp_path: Path) -> None:
    Image.new("1", (9000, 8000)).save(tmp_path / "a.png")
    Image.new("1", (101, 2)).save(tmp_path / "b.png")
    source = FolderStimuli(tmp_path)
    for image, says in ((0, "9000 x 8000 pixels"), (1, "strip")):
        with pytest.raises(InputError, match=says) as caught:
            source.read(np.array([image]), size=8)
        assert caught.value.code == "CHI-IN-263"


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ToolError) as caught:
        Hdf5Stimuli(tmp_path / "s.hdf5")
    assert caught.value.code == "CHI-TL-026"


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image file"):
        FolderStimuli(tmp_path)
    inner = tmp_path / "in"
    inner.mkdir()
    Image.fromarray(pictures()[0]).save(inner / "a.png")
    Image.fromarray(pictures()[1]).save(inner / "a.jpg")
    with pytest.raises(InputError, match="one name: a"):
        FolderStimuli(inner)
    (inner / "a.jpg").unlink()
    outside = tmp_path / "outside.png"
    Image.fromarray(pictures()[2]).save(outside)
    (inner / "b.png").symlink_to(outside)
    with pytest.raises(InputError) as caught:
        FolderStimuli(inner)
    assert caught.value.code == "CHI-IN-067"
    assert FolderStimuli(inner, root=tmp_path).names == ("a", "b")
    (inner / "c.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises((InputError, SeveralErrors)):
        FolderStimuli(inner, root=tmp_path)
