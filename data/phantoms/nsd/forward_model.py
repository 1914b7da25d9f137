"""From an image to what a patch of visual cortex is driven by: Gabor energies, brightness and colour on a retinotopic grid.

The constants were fixed before any decoder was tuned: from the literature on human visual cortex and, where that leaves a
range, at the end that gives the responses more dimensions (small images have few).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .stimulus_sources import SIZE, Images

Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ForwardModel:
    """Every constant of the forward model.

    Parameters
    ----------
    field_deg : float
        Side of the stimuli in degrees: 8.4, as in NSD (Allen et al. 2022).
    frequencies : tuple of float
        Gabor frequencies in cycles per degree, one octave apart; the finest is below the Nyquist of images of
        28 pixels (1.7) shown at this size.
    orientations : int
        Four: tuning curves of orientation channels (about 40 degrees wide) overlap at this spacing.
    bandwidth : float
        Envelope's standard deviation times frequency; 0.56 is one octave, as most simple cells of V1.
    rings, angles : int
        Places at which the energies are read: log-spaced in eccentricity as cortical magnification is, equal in angle.
    magnification_deg : float
        ``a`` of M = k / (a + eccentricity): 0.75 (Horton and Hoyt 1991).
    semisaturation : float
        Contrast of a grating at which divisive normalisation is half-way: 0.1 (Heeger 1992).
    normalisation_deg : float
        Standard deviation of the normalisation pool: some receptive fields wide.
    exponent : float
        Compression of spatially summed drive: 0.5 (Kay et al. 2013 find 0.3 to 0.7 from V1 to VO).
    rf_base_deg, rf_slope : tuple of float
        Receptive field size = base + slope x eccentricity for V1, V2, V3, hV4, and lateral and ventral cortex: the smaller of
        published estimates (Kay et al. 2013; Benson et al. 2018).
    rf_scatter : float
        Scatter of centres about the map, relative to size; 0.5, as between neighbouring voxels.
    orientation_gain, frequency_octaves, colour_gain : float
        How strongly voxels prefer an orientation, 0 to 1 (V1's bias at 1.8 mm is weaker; it stands for all local structure that
        four orientations cannot express); width of their spatial-frequency tuning; weight of brightness and colour beside
        contrast energy.
    embedding : int
        Dimensions of the category space; the leading 4 to 8 are consistent between people (Huth et al. 2012).
    shape_gain : float
        Graded selectivity inside a category, relative to that between categories.
    shape_dimensions : int
        Dimensions of the shape space that grades it: 48, about as many as objects need (Hebart et al. 2020 find 49).
    smooth_mm, smooth_share : float
        Length over which preferences change on the sheet, and its share of their variance; the rest is the voxel's own.
    noise_ceiling : float
        Median share of explainable variance of three-repeat means, in percent: 40; range 5 to 75 (NSD, nsdgeneral).
    ceiling_spread : float
        Standard deviation of its logit over voxels.
    repetition_s, slot_s, stimulus_s : float
        TR 1.6 s, a trial each 4 s, shown for 3 s (NSD).
    slots : int
        Of a run: 75, of which 62 or 63 are trials and the others blank (NSD).
    autocorrelation : float
        AR(1) coefficient of BOLD noise at this TR.
    drifts : int
        Highest Legendre polynomial in the single-trial model: linear, since in runs with few blanks the mean response cannot be told from
        higher ones, and the errors of all trials of a run would move together.
    global_components : int
        Rank of the noise that voxels share (arousal, breathing, motion).
    global_share : float
        Its share of the noise variance.
    session_shift, session_gain : float
        Standard deviations over sessions: of a voxel's mean, relative to its standard deviation, and of the log of its gain.
    """

    field_deg: float = 8.4
    frequencies: tuple[float, ...] = (0.35, 0.7, 1.4)
    orientations: int = 4
    bandwidth: float = 0.56
    rings: int = 14
    angles: int = 36
    magnification_deg: float = 0.75
    semisaturation: float = 0.1
    normalisation_deg: float = 0.6
    exponent: float = 0.5
    rf_base_deg: tuple[float, ...] = (0.15, 0.2, 0.3, 0.5, 0.7)
    rf_slope: tuple[float, ...] = (0.06, 0.08, 0.12, 0.2, 0.3)
    rf_scatter: float = 0.5
    orientation_gain: float = 0.8
    frequency_octaves: float = 0.5
    colour_gain: float = 0.3
    embedding: int = 6
    shape_gain: float = 1.0
    shape_dimensions: int = 48
    smooth_mm: float = 4.0
    smooth_share: float = 0.3
    noise_ceiling: float = 40.0
    ceiling_spread: float = 0.9
    repetition_s: float = 1.6
    slot_s: float = 4.0
    stimulus_s: float = 3.0
    slots: int = 75
    autocorrelation: float = 0.4
    drifts: int = 1
    global_components: int = 5
    global_share: float = 0.15
    session_shift: float = 0.2
    session_gain: float = 0.08

    @property
    def n_energies(self) -> int:
        """Channels of contrast energy."""
        return len(self.frequencies) * self.orientations


COLOURS = ("luminance", "red", "green", "blue", "yellow")
"""Channels after the energies: brightness, and both signs of the two opponent axes."""


def grid_deg(model: ForwardModel) -> tuple[Values, Values, Values]:
    """Return x (right), y (up) in degrees of the places at which channels are read, and the area of visual field of each."""
    edge, a = model.field_deg / 2, model.magnification_deg
    steps = (np.arange(model.rings) + 0.5) / model.rings
    eccentricity = a * (np.exp(steps * np.log1p(edge / a)) - 1)
    width = (eccentricity + a) * np.log1p(edge / a) / model.rings
    angle = 2 * np.pi * (np.arange(model.angles) + 0.5) / model.angles
    x, y = (np.outer(eccentricity, f(angle)).ravel().astype(np.float32) for f in (np.cos, np.sin))
    area = np.repeat(eccentricity * width * 2 * np.pi / model.angles, model.angles).astype(np.float32)
    return x, y, area


def channels(images: Images, model: ForwardModel) -> Values:
    """Return what each place is driven by.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, SIZE, SIZE, 3)
    model : ForwardModel

    Returns
    -------
    ndarray of float32, shape (n, energies + 5, places)
        Energies frequency by frequency, divisively normalised (0 to about 1), then `COLOURS` (0 to 1).
    """
    places = _pixel_of_places(model)
    return np.concatenate([_channels(images[i : i + 64], model, places) for i in range(0, len(images), 64)])


def _channels(images: Images, model: ForwardModel, places: NDArray[np.int64]) -> Values:
    from scipy import fft

    rgb = images.astype(np.float32) / 255
    red, green, blue = (rgb[..., i] for i in range(3))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    filters, pool, pad = _filters(model)
    # Edges are continued: the frame of a picture is no contour.
    padded = np.pad(luminance, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
    spectrum = fft.fft2(padded)
    energy = np.stack([np.abs(fft.ifft2(spectrum * f)) ** 2 for f in filters], axis=1)
    local = fft.ifft2(fft.fft2(energy.sum(axis=1)) * pool).real
    kept = slice(pad, pad + SIZE)
    energy, local = energy[..., kept, kept], np.maximum(local[..., kept, kept], 0)
    normalised = energy / (model.semisaturation**2 + local[:, None])
    red_green, blue_yellow = red - green, blue - (red + green) / 2
    signs = [luminance, *(np.maximum(s * c, 0) for c in (red_green, blue_yellow) for s in (1, -1))]
    every = np.concatenate([normalised, np.stack(signs, axis=1)], axis=1)
    return every.reshape(*every.shape[:2], -1)[..., places].astype(np.float32)


def _pixel_of_places(model: ForwardModel) -> NDArray[np.int64]:
    x, y, _ = grid_deg(model)
    per_deg = SIZE / model.field_deg
    column = np.clip(np.floor(SIZE / 2 + x * per_deg), 0, SIZE - 1).astype(np.int64)
    row = np.clip(np.floor(SIZE / 2 - y * per_deg), 0, SIZE - 1).astype(np.int64)
    pixel: NDArray[np.int64] = row * SIZE + column
    return pixel


@cache
def _filters(model: ForwardModel) -> tuple[list[NDArray[np.complex64]], Values, int]:
    """Transfer functions: of the quadrature pairs (one-sided, without response to uniform brightness) and of the pool."""
    pad, per_deg = 8, SIZE / model.field_deg
    side = SIZE + 2 * pad
    f = np.fft.fftfreq(side, 1 / per_deg)  # cycles per degree
    fx, fy = f[None, :], -f[:, None]  # rows run downwards
    filters = []
    for frequency in model.frequencies:
        sigma = model.bandwidth / frequency
        for k in range(model.orientations):
            angle = np.pi * k / model.orientations

            def bump(cx: float, cy: float, width: float = sigma) -> NDArray[np.float64]:
                return np.exp(-2 * (np.pi * width) ** 2 * ((fx - cx) ** 2 + (fy - cy) ** 2))

            centred = bump(frequency * np.cos(angle), frequency * np.sin(angle))
            flat = float(centred[0, 0])
            # A grating of full contrast (0.5 about a mean of 0.5) has energy 1 in its own channel.
            filters.append((4 * (centred - flat * bump(0, 0))).astype(np.complex64))
    pool = np.exp(-2 * (np.pi * model.normalisation_deg) ** 2 * (fx**2 + fy**2)).astype(np.float32)
    return filters, pool, pad
