"""Cached targets: exact rows, refused where anything differs, resumed after a stop, nothing half-written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.errors import InputError, ResourceError
from chiasm.data.fmri import feature_files
from chiasm.data.fmri.feature_files import (
    FeatureAbout,
    extract_features,
    feature_path,
    open_features,
    stimuli_sha256,
)
from chiasm.data.fmri.stimuli import ArrayStimuli

ABOUT = FeatureAbout(
    target="thumbnail-8", encoder="ab" * 32, preprocessing="means", stimuli="cd" * 32, rows=10, tokens=3, width=4
)
VALUES = np.random.default_rng(0).normal(size=(10, 3, 4)).astype(np.float32)


class Encoder:
    """Gives known features and remembers what it was asked for; stops before some row."""

    def __init__(self, stop: int = 1000) -> None:
        self.asked: list[int] = []
        self.stop = stop

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if rows[-1] >= self.stop:
            raise KeyboardInterrupt
        self.asked += rows.tolist()
        return VALUES[rows]


@pytest.mark.parametrize(("dtype", "size"), [("float16", 2), ("float32", 4)])
def test_rows_come_back_in_any_order(tmp_path: Path, dtype: str, size: int) -> None:
    path = feature_path(tmp_path / "cache", ABOUT)
    steps: list[tuple[int, int]] = []
    encoder = Encoder()
    features = extract_features(
        path, ABOUT, encoder, batch=4, dtype=dtype, on_progress=lambda *done: steps.append(done)
    )
    assert features.shape == (10, 3, 4)
    asked = np.array([7, 2, 2, 9])
    assert np.array_equal(features.read(asked), VALUES[asked].astype(dtype).astype(np.float32))
    assert features.read(np.zeros(0, dtype=np.int64)).shape == (0, 3, 4)
    assert steps == [(4, 10), (8, 10), (10, 10)]
    assert encoder.asked == list(range(10))
    assert sorted(p.name for p in path.parent.iterdir()) == [f"{path.stem}.json", path.name]
    assert np.array_equal(np.load(path), VALUES.astype(dtype))  # a plain .npy that others can read
    assert path.stat().st_size == np.load(path, mmap_mode="r").offset + 120 * size


def test_finished_features_are_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    extract_features(path, ABOUT, Encoder())
    encoder = Encoder()
    features = extract_features(path, ABOUT, encoder)
    assert not encoder.asked
    assert np.allclose(features.read(np.arange(10)), VALUES, atol=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"target": "sd-vae-224"},
        {"encoder": "00" * 32},
        {"preprocessing": "other"},
        {"stimuli": "ee" * 32},
        {"rows": 9},
        {"tokens": 4, "width": 3},
    ],
)
def test_any_difference_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "x.npy"
    extract_features(path, ABOUT, Encoder())
    other = replace(ABOUT, **change)
    assert feature_path(tmp_path, other) != feature_path(tmp_path, ABOUT)
    for use in (open_features, lambda path, about: extract_features(path, about, Encoder())):
        with pytest.raises(InputError) as caught:
            use(path, other)
        assert caught.value.code == "CHI-IN-321"
        assert all(name in caught.value.message for name in change)


def test_goes_on_after_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        extract_features(path, ABOUT, Encoder(stop=6), batch=3)
    assert not path.exists()
    assert not path.with_suffix(".json").exists()
    second = Encoder()
    features = extract_features(path, ABOUT, second, batch=3)
    assert second.asked == [6, 7, 8, 9]
    assert np.array_equal(features.read(np.arange(10)), VALUES.astype(np.float16).astype(np.float32))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stop_of_other_features_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        extract_features(path, ABOUT, Encoder(stop=6), batch=3)
    second = Encoder()
    extract_features(path, replace(ABOUT, encoder="ff" * 32), second, batch=3)
    assert second.asked == list(range(10))


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    encoder = Encoder()
    with pytest.raises(ResourceError) as caught:
        extract_features(tmp_path / "x.npy", ABOUT, encoder)
    assert caught.value.code == "CHI-RES-010"
    assert not list(tmp_path.iterdir())
    assert not encoder.asked  # no hours of computing before the disk is found full


def test_a_disk_that_fails_half_way_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, written = tmp_path / "x.npy", os.pwrite, []

    def failing(descriptor: int, data: bytes, offset: int) -> int:
        written.append(offset)
        if len(written) > 2:  # the header, the first batch
            raise OSError(errno.EDQUOT, "quota")
        return real(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing)
        with pytest.raises(ResourceError) as caught:
            extract_features(path, ABOUT, Encoder(), batch=4)
    assert caught.value.code == "CHI-RES-010"
    assert not path.exists()
    second = Encoder()
    features = extract_features(path, ABOUT, second, batch=4)
    assert second.asked == [4, 5, 6, 7, 8, 9]
    assert np.allclose(features.read(np.arange(10)), VALUES, atol=1e-2)


def test_a_file_system_without_reservation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    features = extract_features(tmp_path / "x.npy", ABOUT, Encoder(), batch=3)
    assert np.allclose(features.read(np.arange(10)), VALUES, atol=1e-2)


def test_values_that_do_not_fit_float16(tmp_path: Path) -> None:
    def large(rows: np.ndarray) -> np.ndarray:
        return np.full((len(rows), 3, 4), 1e5, dtype=np.float32)

    with pytest.raises(InputError) as caught:
        extract_features(tmp_path / "x.npy", ABOUT, large)
    assert caught.value.code == "CHI-IN-324"
    assert extract_features(tmp_path / "y.npy", ABOUT, large, dtype="float32").read(np.array([0]))[0, 0, 0] == 1e5


def test_another_shape_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must return"):
        extract_features(tmp_path / "x.npy", ABOUT, lambda rows: VALUES[rows][:, :2])


def test_two_at_once(tmp_path: Path) -> None:
    with (tmp_path / ".x.npy.part").open("wb") as other:
        fcntl.flock(other.fileno(), fcntl.LOCK_EX)
        with pytest.raises(InputError) as caught:
            extract_features(tmp_path / "x.npy", ABOUT, Encoder())
    assert caught.value.code == "CHI-IN-325"


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    features = extract_features(path, ABOUT, Encoder())
    for row in (-1, 10):
        with pytest.raises(InputError) as caught:
            features.read(np.array([row]))
        assert caught.value.code == "CHI-IN-323"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError) as caught:
        features.read(np.array([9]))
    assert caught.value.code == "CHI-IN-322"
    for data in (whole[:-1], b"", whole.replace(b"(10, 3, 4)", b"(10, 4, 3)"), whole.replace(b"<f2", b"|O2")):
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            open_features(path, ABOUT)
        assert caught.value.code == "CHI-IN-322"
    path.unlink()
    with pytest.raises(InputError) as caught:
        open_features(path, ABOUT)
    assert caught.value.code == "CHI-IN-322"
    for text in ("[1]", "{"):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(InputError) as caught:
            open_features(path, ABOUT)
        assert caught.value.code == "CHI-IN-320"


def test_features_without_a_description_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"a stop between two renames")
    encoder = Encoder()
    extract_features(path, ABOUT, encoder)
    assert encoder.asked == list(range(10))


def test_hash_of_stimuli() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
    first = stimuli_sha256(ArrayStimuli(pixels))
    assert first == stimuli_sha256(ArrayStimuli(pixels.copy()))
    for other in (pixels[::-1], pixels[:4], np.roll(pixels, 16, axis=1)):
        assert stimuli_sha256(ArrayStimuli(np.ascontiguousarray(other))) != first
    assert stimuli_sha256(ArrayStimuli(pixels, names=tuple("abcde"))) != first
    changed = pixels.copy()
    changed[3] = 0
    assert stimuli_sha256(ArrayStimuli(changed)) != first


def test_a_large_set_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "SAMPLE", 3)

    class Counting(ArrayStimuli):
        read_ones: list[int] = []  # noqa: RUF012

        def read(self, images: np.ndarray, *, size: int) -> np.ndarray:
            self.read_ones.extend(images.tolist())
            return super().read(images, size=size)

    stimuli_sha256(Counting(np.zeros((101, 8, 8, 3), dtype=np.uint8)))
    assert Counting.read_ones == [0, 50, 100]


def test_description_says_everything(tmp_path: Path) -> None:
    extract_features(tmp_path / "x.npy", ABOUT, Encoder())
    about = json.loads((tmp_path / "x.json").read_text())
    assert about == {
        "target": "thumbnail-8", "encoder": "ab" * 32, "preprocessing": "means", "stimuli": "cd" * 32, "rows": 10,
        "tokens": 3, "width": 4, "dtype": "float16",
    }  # fmt: skip
