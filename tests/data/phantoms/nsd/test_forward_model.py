"""The forward model's channels: gratings drive the channel of their orientation and frequency, where they are, saturating."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.phantoms.nsd.forward_model import COLOURS, ForwardModel, channels, grid_deg
from chiasm.data.phantoms.nsd.stimulus_sources import SIZE

MODEL = ForwardModel()


def degrees() -> tuple[np.ndarray, np.ndarray]:
    """Return x (right) and y (up) of each pixel."""
    at = (np.arange(SIZE) + 0.5 - SIZE / 2) * MODEL.field_deg / SIZE
    return np.meshgrid(at, -at)


def image(values: np.ndarray) -> np.ndarray:
    """Return grey values -1 to 1 as one image."""
    grey = np.rint(127.5 + 127.5 * values).astype(np.uint8)
    return np.repeat(grey[None, :, :, None], 3, axis=3)


def grating(frequency: float, angle: float, contrast: float = 1.0) -> np.ndarray:
    x, y = degrees()
    return image(contrast * np.cos(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + 0.7))


@pytest.mark.parametrize("frequency", range(3))
@pytest.mark.parametrize("orientation", range(4))
def test_a_grating_drives_its_own_channel_most(frequency: int, orientation: int) -> None:
    shown = grating(MODEL.frequencies[frequency], np.pi * orientation / MODEL.orientations)
    x, y, _ = grid_deg(MODEL)
    inner = np.hypot(x, y) < 2
    drive = channels(shown, MODEL)[0, : MODEL.n_energies, inner].mean(axis=0)
    assert drive.argmax() == frequency * MODEL.orientations + orientation
    assert drive.max() > 3 * np.sort(drive)[-3]


def test_energy_does_not_depend_on_phase_and_uniform_brightness_gives_none() -> None:
    x, _ = degrees()
    inner = np.hypot(*grid_deg(MODEL)[:2]) < 2
    phases = np.concatenate([image(0.5 * np.cos(2 * np.pi * 0.7 * x + phase)) for phase in (0, 1, 2, 3)])
    drive = channels(phases, MODEL)[:, 4, inner].mean(axis=1)
    assert drive == pytest.approx(drive.mean(), rel=0.03)
    assert np.abs(channels(image(np.full((SIZE, SIZE), 0.4)), MODEL)[0, : MODEL.n_energies]).max() < 1e-6


def test_a_patch_drives_the_places_where_it_is() -> None:
    x, y = degrees()
    window = np.exp(-((x - 2) ** 2 + (y - 1) ** 2) / (2 * 0.4**2))
    drive = channels(image(window * np.cos(2 * np.pi * 1.4 * x)), MODEL)[0, 8]
    at_x, at_y, area = grid_deg(MODEL)
    weight = area * drive
    assert (weight * at_x).sum() / weight.sum() == pytest.approx(2, abs=0.3)
    assert (weight * at_y).sum() / weight.sum() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("contrast", [0.05, 0.1, 0.4, 0.9])
def test_contrast_saturates_as_naka_and_rushton_say(contrast: float) -> None:
    x, y, _ = grid_deg(MODEL)
    drive = channels(grating(0.7, 0, contrast), MODEL)[0, 4, np.hypot(x, y) < 2.5].mean()
    assert drive == pytest.approx(contrast**2 / (MODEL.semisaturation**2 + contrast**2), rel=0.1)


def test_colours_are_opponent_and_brightness_is_bright() -> None:
    shown = np.zeros((5, SIZE, SIZE, 3), dtype=np.uint8)
    shown[0], shown[1], shown[2], shown[3], shown[4] = 255, (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
    found = channels(shown, MODEL)[:, MODEL.n_energies :].mean(axis=2)
    column = dict(zip(COLOURS, found.T, strict=True))
    assert column["luminance"] == pytest.approx([1, 0.2126, 0.7152, 0.0722, 0.9278], abs=1e-4)
    assert column["red"] == pytest.approx([0, 1, 0, 0, 0], abs=1e-6)
    assert column["green"] == pytest.approx([0, 0, 1, 0, 0], abs=1e-6)
    assert column["blue"] == pytest.approx([0, 0, 0, 1, 0], abs=1e-6)
    assert column["yellow"] == pytest.approx([0, 0.5, 0.5, 0, 1], abs=1e-6)


def test_places_cover_the_field_once_and_are_denser_in_the_middle() -> None:
    x, y, area = grid_deg(MODEL)
    assert area.sum() == pytest.approx(np.pi * (MODEL.field_deg / 2) ** 2, rel=0.01)
    inner = np.hypot(x, y) < 1
    assert area[inner].mean() < area[~inner].mean() / 4


def test_the_number_of_images_at_once_changes_nothing() -> None:
    shown = np.random.default_rng(0).integers(0, 256, (70, SIZE, SIZE, 3), dtype=np.uint8)
    assert channels(shown, MODEL)[66:] == pytest.approx(channels(shown[66:], MODEL), abs=1e-6)
