"""Stimuli: the shipped images are Fashion-MNIST's, no emoji of the training half gets in, damaged sources are refused by code."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.data.errors import InputError, ToolError
from chiasm.data.phantoms.nsd import stimulus_sources
from chiasm.data.phantoms.nsd.stimulus_sources import FASHION_CLASSES, SIZE, is_phantom_emoji, load_stimuli

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def write_fashion(folder: Path, images: np.ndarray, labels: list[int]) -> None:
    folder.mkdir(exist_ok=True)
    for name, values in (("images-idx3", images), ("labels-idx1", np.array(labels, dtype=np.uint8))):
        head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
        (folder / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))


def write_emoji(folder: Path, entries: list[dict[str, object]]) -> None:
    place = folder / "img" / "google" / "64"
    place.mkdir(parents=True)
    for i, entry in enumerate(entries):
        for j, one in enumerate((entry, *entry.get("skin_variations", {}).values())):
            Image.new("RGBA", (64, 64), (i, j, 0, 255)).save(place / one["image"])
    (folder / "emoji.json").write_text(json.dumps(entries))


def test_the_shipped_images_are_200_of_each_class() -> None:
    found = load_stimuli("fashion-mnist-small")
    assert found.images.shape == (2000, SIZE, SIZE, 3)
    assert Counter(found.categories) == dict.fromkeys(FASHION_CLASSES, 200)
    assert len(set(found.names)) == 2000
    shipped = Path(stimulus_sources.__file__).parents[1] / "stimuli"
    assert (shipped / "fashion-mnist-small.png").stat().st_size < 1.2e6
    assert "MIT License" in (shipped / "LICENCE.txt").read_text()


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_shipped_images_are_those_of_the_test_file() -> None:
    small, full = load_stimuli("fashion-mnist-small"), load_stimuli("fashion-mnist")
    assert len(full) == 10_000
    where = [full.names.index(name) for name in small.names]
    assert (full.images[where] == small.images).all()
    assert tuple(full.categories[i] for i in where) == small.categories


def test_only_the_test_file_of_fashion_mnist_is_read(tmp_path: Path) -> None:
    images = np.arange(3 * 784, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    write_fashion(tmp_path, images, [9, 0, 4])
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"never opened")
    found = load_stimuli("fashion-mnist", folder=tmp_path)
    assert found.categories == ("ankle boot", "T-shirt", "coat")
    assert (found.images[..., 0] == found.images[..., 2]).all()


@pytest.mark.parametrize("spoil", ["cut", "magic", "labels", "not gzip"])
def test_a_damaged_file_of_fashion_mnist_is_refused(spoil: str, tmp_path: Path) -> None:
    write_fashion(tmp_path, np.zeros((2, 28, 28), dtype=np.uint8), [1, 10 if spoil == "labels" else 2])
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    data = gzip.decompress(path.read_bytes())
    if spoil == "cut":
        path.write_bytes(gzip.compress(data[:-1]))
    elif spoil == "magic":
        path.write_bytes(gzip.compress(b"\0\0\x0d" + data[3:]))
    elif spoil == "not gzip":
        path.write_bytes(data)
    with pytest.raises(InputError, match="damaged") as caught:
        load_stimuli("fashion-mnist", folder=tmp_path)
    assert caught.value.code == "CHI-IN-332"


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    head = struct.pack(">HBB3I", 0, 8, 3, 1_000_000, 28, 28)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + bytes(30_000_000)))
    with pytest.raises(InputError) as caught:
        stimulus_sources.idx_array(tmp_path / "t10k-images-idx3-ubyte.gz", most=1000)
    assert caught.value.code == "CHI-IN-332"


def test_a_missing_source_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHIASM_EMOJI", raising=False)
    with pytest.raises(ToolError, match="apt-get install dataset-fashion-mnist") as caught:
        load_stimuli("fashion-mnist", folder=tmp_path)
    assert caught.value.code == "CHI-TL-020"
    with pytest.raises(ToolError, match="npm pack emoji-datasource-google") as caught:
        load_stimuli("emoji")
    assert caught.value.code == "CHI-TL-021"


def test_emoji_of_the_training_half_never_get_in_and_skin_tones_follow_their_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [f"1F{n:03X}" for n in range(0x300, 0x320)]
    odd = [code for code in codes if hashlib.sha256(code.encode()).digest()[0] % 2]
    assert 5 < len(odd) < 27
    entries = [
        {
            "unified": code,
            "image": f"{code}.png",
            "category": "Objects",
            "skin_variations": {"1F3FB": {"unified": f"{code}-1F3FB", "image": f"{code}-1f3fb.png"}},
        }
        for code in codes
    ]
    write_emoji(tmp_path / "package", entries)
    monkeypatch.setenv("CHIASM_EMOJI", str(tmp_path / "package"))
    found = load_stimuli("emoji")
    assert set(found.names) == {name for code in odd for name in (code, f"{code}-1f3fb")}
    assert (load_stimuli("emoji", folder=tmp_path).images == found.images).all()  # the folder above will do
    assert is_phantom_emoji(odd[0]) is is_phantom_emoji(f"{odd[0]}-1F3FB-200D") is True


@pytest.mark.parametrize("table", ["[", "[1]", '[{"unified": 5}]', '{"a": 1}', '[{"unified": "1F300", "image": 3}]'])
def test_a_damaged_table_of_emoji_is_refused(table: str, tmp_path: Path) -> None:
    write_emoji(tmp_path, [])
    (tmp_path / "emoji.json").write_text(table)
    with pytest.raises(InputError) as caught:
        load_stimuli("emoji", folder=tmp_path)
    assert caught.value.code in {"CHI-IN-330", "CHI-IN-332"}


def test_subfolders_are_categories_and_transparency_is_white(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
    Image.new("RGBA", (128, 64), (0, 0, 0, 0)).save(tmp_path / "cats" / "clear.png")
    wide = np.zeros((64, 192, 3), dtype=np.uint8)
    wide[:, 64:128] = (10, 20, 30)
    Image.fromarray(wide).save(tmp_path / "dogs" / "wide.png")
    Image.new("L", (70, 70), 255).save(tmp_path / "top.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    found = load_stimuli(str(tmp_path))
    assert dict(zip(found.names, found.categories, strict=True)) == {
        "cats/clear": "cats",
        "dogs/wide": "dogs",
        "top": "uncategorised",
    }
    assert (found.images[0] == 255).all()
    assert (found.images[1] == (10, 20, 30)).all()  # the middle was cut out


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i, place in enumerate((tmp_path, tmp_path / "in", tmp_path / "in")):
        Image.new("L", (64, 64), i).save(place / f"{i}.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "0.png")
    assert load_stimuli(str(tmp_path / "in")).names == ("1", "2")


def test_a_folder_without_images_and_a_damaged_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_stimuli(str(tmp_path / "fashon-mnist"))
    assert caught.value.code == "CHI-IN-330"
    with pytest.raises(InputError, match="0 images") as caught:
        load_stimuli(str(tmp_path))
    assert caught.value.code == "CHI-IN-330"
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(InputError) as caught:
        load_stimuli(str(tmp_path))
    assert caught.value.code == "CHI-IN-331"
    assert caught.value.file == "b"
