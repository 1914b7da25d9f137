"""Slices of a volume with its labels drawn over them, as PNG: the same arrays give the same bytes.

Everything is composed with numpy and Pillow: a figure library costs ten times the 0.1 s that a patient takes here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .colours import Rgb, colour_word

Convention = Literal["radiological", "neurological"]
PlaneName = Literal["axial", "coronal", "sagittal"]
LabelTable = Mapping[int, tuple[str, Rgb]]
Window = tuple[float, float]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

FILL_ALPHA, OUTLINE_ALPHA = 64, 200
GAP_PX = 4
MAX_OVERLAY_LABELS = 127  # two palette entries a label (fill and outline), entry 0 is transparent


class Plane(NamedTuple):
    """How one plane is laid out: the axis that is cut, those of its columns and rows, and how its slices follow."""

    name: PlaneName
    cut: int
    column: int
    row: int
    order: str


PLANES = (
    Plane("axial", 2, 0, 1, "from the feet to the head"),
    Plane("coronal", 1, 0, 2, "from the back to the front"),
    Plane("sagittal", 0, 1, 2, "from the patient's left to the right"),
)


@dataclass(frozen=True)
class Strip:
    """A row of slices of one plane.

    Parameters
    ----------
    plane : {'axial', 'coronal', 'sagittal'}
    picture : bytes
        PNG, grey: the slices with their marks.
    overlay : bytes or None
        PNG with transparency, the same size: the labels only. None where there are none.
    size : tuple of int
        (width, height) in pixels.
    slices : tuple of int
        Indices on the canonical grid, counted from 1.
    alt : str
        The same in words.
    """

    plane: PlaneName
    picture: bytes
    overlay: bytes | None
    size: tuple[int, int]
    slices: tuple[int, ...]
    alt: str


def display_window(values: NDArray[Any]) -> Window:
    """Return the values drawn black and white: percentiles 1 and 99.7 of what is finite and not background."""
    sample = np.asarray(values[::2, ::2, ::2], dtype=np.float32)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    inside = sample[sample > sample.min()]  # a cropped or skull-stripped volume is mostly one empty value
    low, high = (float(v) for v in np.percentile(inside if inside.size > 64 else sample, (1.0, 99.7)))
    low = min(low, float(np.percentile(sample, 1.0)))
    return (low, high) if high > low else (low, low + 1.0)


def to_grey(values: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Scale values linearly to 0..255 between the ends of `window`; what is not a number becomes black."""
    low, high = window
    scaled = (np.asarray(values, dtype=np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    grey: NDArray[np.uint8] = np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 255.0).astype(np.uint8)
    return grey


def foreground_box(background: NDArray[Any], labels: NDArray[Any] | None, window: Window, margin: int = 2) -> Box:
    """Return the index ranges (start, stop) that hold the head and every label, with a margin in voxels."""
    low, high = window
    mask = np.asarray(background) > low + 0.08 * (high - low)
    box: list[tuple[int, int]] = []
    for axis, n in enumerate(background.shape):
        others = tuple(a for a in range(3) if a != axis)
        # Single bright voxels of noise outside the head do not widen the box.
        counts = mask.sum(axis=others)
        inside = np.flatnonzero(counts > 0.004 * mask.size / n)
        ends = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, n)
        if labels is not None and (labelled := np.flatnonzero((labels > 0).any(axis=others))).size:
            ends = min(ends[0], int(labelled[0])), max(ends[1], int(labelled[-1]) + 1)
        box.append((max(0, ends[0] - margin), min(n, ends[1] + margin)))
    return box[0], box[1], box[2]


def label_box(labels: NDArray[Any]) -> Box | None:
    """Return the index ranges that hold every label, or None for an empty map."""
    box: list[tuple[int, int]] = []
    for axis in range(3):
        inside = np.flatnonzero((labels > 0).any(axis=tuple(a for a in range(3) if a != axis)))
        if inside.size == 0:
            return None
        box.append((int(inside[0]), int(inside[-1]) + 1))
    return box[0], box[1], box[2]


def slice_strips(
    background: NDArray[Any],
    labels: NDArray[Any] | None,
    spacing_mm: tuple[float, float, float],
    label_table: LabelTable,
    *,
    convention: Convention = "radiological",
    n_slices: int = 5,
    tile_px: int = 340,
) -> list[Strip]:
    """Draw `n_slices` slices in each of the three planes.

    Parameters
    ----------
    background : ndarray, shape (X, Y, Z)
        Canonical orientation: the indices grow to the patient's right, front and head.
    labels : ndarray of int, shape (X, Y, Z), or None
        0 is nothing.
    spacing_mm : tuple of float
        Distance between neighbouring voxels.
    label_table : mapping of int to (name, (red, green, blue))
    convention : {'radiological', 'neurological'}
        Radiological: the patient's right is on the left of the picture.
    tile_px : int
        The longest side of a tile in pixels; one scale for all planes.

    Raises
    ------
    ValueError
        The arrays are not 3-D or differ in shape.
    """
    if background.ndim != 3 or (labels is not None and labels.shape != background.shape):
        got = f"{background.shape} and {None if labels is None else labels.shape}"
        raise ValueError(f"background and labels must be 3-D and of one shape, got {got}")
    window = display_window(background)
    view, extent = _regions(background, labels, window, spacing_mm)
    longest = max((stop - start) * step for (start, stop), step in zip(view, spacing_mm, strict=True))
    pixels_per_mm = tile_px / longest
    painter = _Painter(background, labels, spacing_mm, label_table, window, view, pixels_per_mm, convention)
    strips = []
    for plane in PLANES:
        start, stop = extent[plane.cut]
        indices = sorted({start + int((stop - start) * (i + 0.5) / n_slices) for i in range(n_slices)})
        strips.append(painter.strip(plane, indices))
    return strips


def overview(strips: Sequence[Strip]) -> bytes:
    """Lay strips under each other, labels drawn over the slices, as one PNG (for a document or a slide)."""
    width = max(strip.size[0] for strip in strips)
    canvas = Image.new("RGB", (width, sum(s.size[1] for s in strips) + GAP_PX * (len(strips) - 1)))
    top = 0
    for strip in strips:
        left = (width - strip.size[0]) // 2
        canvas.paste(Image.open(io.BytesIO(strip.picture)).convert("RGB"), (left, top))
        if strip.overlay is not None:
            overlay = Image.open(io.BytesIO(strip.overlay)).convert("RGBA")
            canvas.paste(overlay, (left, top), overlay)
        top += strip.size[1] + GAP_PX
    return _png(canvas)


def _regions(
    background: NDArray[Any], labels: NDArray[Any] | None, window: Window, spacing_mm: tuple[float, float, float]
) -> tuple[Box, Box]:
    """Return what a tile shows, and the range that the slices are spread over."""
    head = foreground_box(background, labels, window)
    labelled = None if labels is None else label_box(labels)
    if labelled is None:
        return head, head
    size = [float(np.prod([stop - start for start, stop in box])) for box in (head, labelled)]
    if size[1] < 0.25 * size[0]:
        return head, labelled  # a lesion: shown within the whole head
    margins = [round(10.0 / step) for step in spacing_mm]
    close = [
        (max(0, start - margin), min(n, stop + margin))
        for (start, stop), margin, n in zip(labelled, margins, background.shape, strict=True)
    ]
    return (close[0], close[1], close[2]), labelled


@dataclass(frozen=True, eq=False)
class _Painter:
    background: NDArray[Any]
    labels: NDArray[Any] | None
    spacing_mm: tuple[float, float, float]
    label_table: LabelTable
    window: Window
    view: Box
    pixels_per_mm: float
    convention: Convention

    def strip(self, plane: Plane, indices: Sequence[int]) -> Strip:
        width, height = (
            max(8, round((stop - start) * self.spacing_mm[axis] * self.pixels_per_mm))
            for axis, (start, stop) in ((a, self.view[a]) for a in (plane.column, plane.row))
        )
        total = len(indices) * (width + GAP_PX) - GAP_PX
        grey = Image.new("L", (total, height))
        over = np.zeros((height, total), np.uint8)
        shown = self._shown_labels()
        for i, index in enumerate(indices):
            left = i * (width + GAP_PX)
            tile = Image.fromarray(to_grey(self._cut(self.background, plane, index), self.window))
            grey.paste(tile.resize((width, height), Image.Resampling.BICUBIC), (left, 0))
            if self.labels is not None:
                cut = self._cut(self.labels, plane, index)
                over[:, left : left + width] = self._overlay(cut, (height, width), shown)
        self._mark(ImageDraw.Draw(grey), plane, indices, (width, height))
        overlay = _overlay_png(over, [self.label_table[v][1] for v in shown]) if over.any() else None
        numbers = tuple(index + 1 for index in indices)
        return Strip(plane.name, _png(grey), overlay, (total, height), numbers, self._alt(plane, numbers, shown))

    def _cut(self, volume: NDArray[Any], plane: Plane, index: int) -> NDArray[Any]:
        """Return one slice as rows (head or front first) and columns in the order of the convention."""
        (c0, c1), (r0, r1) = self.view[plane.column], self.view[plane.row]
        picks: list[slice | int] = [slice(None)] * 3
        picks[plane.cut], picks[plane.column], picks[plane.row] = index, slice(c0, c1), slice(r0, r1)
        tile = np.asarray(volume[tuple(picks)])
        if plane.column < plane.row:
            tile = tile.T
        tile = tile[::-1]
        # Sagittal tiles look to the left in both conventions; x grows to the patient's right.
        return tile[:, ::-1] if plane.name == "sagittal" or self.convention == "radiological" else tile

    def _shown_labels(self) -> list[int]:
        return sorted(v for v in self.label_table if v > 0)[:MAX_OVERLAY_LABELS]

    def _overlay(self, tile: NDArray[Any], shape: tuple[int, int], shown: Sequence[int]) -> NDArray[np.uint8]:
        """Return palette entries: 2k + 1 the fill of the k-th label, 2k + 2 its outline."""
        rows = (np.arange(shape[0]) * tile.shape[0]) // shape[0]
        columns = (np.arange(shape[1]) * tile.shape[1]) // shape[1]
        table = np.zeros(256, np.uint8)
        for k, value in enumerate(shown):
            if value < 256:
                table[value] = 2 * k + 1
        entries = table[tile[np.ix_(rows, columns)].astype(np.uint8)]
        # Between two labels only the later one is outlined: a line on both sides would hide a thin cortex.
        edge = np.zeros(shape, bool)
        edge[1:] |= entries[1:] > entries[:-1]
        edge[:-1] |= entries[:-1] > entries[1:]
        edge[:, 1:] |= entries[:, 1:] > entries[:, :-1]
        edge[:, :-1] |= entries[:, :-1] > entries[:, 1:]
        return entries + edge.astype(np.uint8)

    def _mark(self, draw: ImageDraw.ImageDraw, plane: Plane, indices: Sequence[int], tile: tuple[int, int]) -> None:
        width, height = tile
        font = ImageFont.load_default(17)
        sides = "RL" if self.convention == "radiological" else "LR"
        letters = "AP" if plane.name == "sagittal" else sides
        top = "A" if plane.name == "axial" else "S"
        for i, index in enumerate(indices):
            left = i * (width + GAP_PX)
            text: dict[str, Any] = {"font": font, "fill": 235, "stroke_width": 2, "stroke_fill": 0}
            draw.text((left + 5, height // 2), letters[0], anchor="lm", **text)
            draw.text((left + width - 5, height // 2), letters[1], anchor="rm", **text)
            draw.text((left + width // 2, 4), top, anchor="mt", **text)
            draw.text((left + 5, height - 5), str(index + 1), anchor="lb", **{**text, "fill": 190})
        bar = round(50.0 * self.pixels_per_mm)
        if bar < 0.8 * width:
            right, bottom = len(indices) * (width + GAP_PX) - GAP_PX - 8, height - 8
            draw.rectangle((right - bar - 1, bottom - 3, right + 1, bottom + 1), fill=0)
            draw.rectangle((right - bar, bottom - 2, right, bottom), fill=235)
            draw.text((right, bottom - 6), "5 cm", anchor="rb", font=font, fill=235, stroke_width=2, stroke_fill=0)

    def _alt(self, plane: Plane, numbers: Sequence[int], shown: Sequence[int]) -> str:
        total = self.background.shape[plane.cut]
        side = "the patient's front is on the left of the picture"
        if plane.name != "sagittal":
            hand = "right" if self.convention == "radiological" else "left"
            side = f"the patient's {hand} is on the left of the picture"
        drawn = ", ".join(f"{self.label_table[v][0]} in {colour_word(self.label_table[v][1])}" for v in shown)
        what = f" Drawn over them: {drawn}." if self.labels is not None and drawn else " No label is drawn."
        listed = ", ".join(str(n) for n in numbers)
        return f"{len(numbers)} {plane.name} slices {plane.order}, numbers {listed} of {total}; {side}.{what}"


def _overlay_png(entries: NDArray[np.uint8], colours: Sequence[Rgb]) -> bytes:
    image = Image.fromarray(entries).copy()
    image.putpalette([0, 0, 0, *(part for rgb in colours for part in (*rgb, *rgb))])
    alphas = bytes([0, *(alpha for _ in colours for alpha in (FILL_ALPHA, OUTLINE_ALPHA))])
    return _png(image, transparency=alphas)


def _png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6, **options)
    return buffer.getvalue()
