"""Figures of decoded images: grids of pictures, retrieval against k, spread, noise ceiling, and the voxels that carried it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .classifier_plots import FAINT, INK, LINES, MARKS, SERIES
from .speech_figures import Drawn, blank_figure, drawn

Images = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

TILE = 96
GAP = 6
MARGIN = 8
HEAD_PX, LINE_PX = 13, 16
FRAME = (0, 114, 178)
MNI_BOX_MM = ((-100.0, 100.0), (-140.0, 110.0), (-90.0, 120.0))
"""Within which the brains of the MNI templates lie."""
TOP_SHARE = 99.5


@dataclass(frozen=True, kw_only=True, eq=False)
class VoxelMap:
    """What each voxel of a subject adds.

    Parameters
    ----------
    inside : ndarray of bool, shape (X, Y, Z)
    affine : ndarray, shape (4, 4)
        Voxel index to mm.
    values : ndarray, shape (V,)
        Of the voxels inside, in C order; not negative.
    space : str
        Name of the template in whose space the voxels lie, as the data set says; empty for the subject's own.

    Raises
    ------
    ValueError
        There are not as many values as voxels inside.
    """

    inside: NDArray[np.bool_]
    affine: NDArray[np.float64]
    values: Floats
    space: str = ""

    def __post_init__(self) -> None:
        if self.inside.ndim != 3 or self.values.shape != (int(self.inside.sum()),):
            raise ValueError(f"{self.values.shape} values for {int(self.inside.sum())} voxels")

    @property
    def in_template(self) -> bool:
        """Whether an outline of the MNI brain may be drawn around it: the data set says so, and no voxel lies outside of it."""
        if not self.space.startswith("MNI"):
            return False
        place = np.argwhere(self.inside) @ self.affine[:3, :3].T + self.affine[:3, 3]
        box = np.array(MNI_BOX_MM)
        return bool(((place >= box[:, 0]) & (place <= box[:, 1])).all())


def image_grid(
    columns: Mapping[str, Images],
    *,
    marked: Mapping[str, NDArray[np.bool_]] | None = None,
    tile: int = TILE,
    per_panel: int = 12,
    numbered: bool = False,
) -> Drawn:
    """Lay pictures out: a row an image, a column a name, with the names above.

    Parameters
    ----------
    columns : mapping of str to ndarray of uint8, shape (n, S, S, 3)
        From left to right; sizes may differ between columns.
    marked : mapping of str to ndarray of bool, shape (n,), optional
        Pictures that get a frame.
    tile : int
        Side of a picture on the page in pixels: small ones are enlarged without smoothing, so that what was made is what is seen.
    per_panel : int
        Rows before a second panel begins to the right.
    numbered : bool
        Put the number of its row, from 1, before it.

    Raises
    ------
    ValueError
        There is no picture, or columns differ in length.
    """
    lengths = {name: len(images) for name, images in columns.items()}
    if len(set(lengths.values())) != 1 or not max(lengths.values()):
        raise ValueError(f"as many pictures in every column are needed, got {lengths}")
    n = next(iter(lengths.values()))
    font = ImageFont.load_default(HEAD_PX)
    heads = {name: _wrapped(name, font, tile) for name in columns}
    top = MARGIN + LINE_PX * max(len(lines) for lines in heads.values()) + GAP
    left = 26 if numbered else 0
    panels = -(-n // per_panel)
    panel_width = left + len(columns) * (tile + GAP) - GAP
    width = 2 * MARGIN + panels * panel_width + (panels - 1) * 3 * MARGIN
    canvas = Image.new("RGB", (width, top + min(n, per_panel) * (tile + GAP) - GAP + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    for panel in range(panels):
        start = MARGIN + panel * (panel_width + 3 * MARGIN)
        rows = range(panel * per_panel, min(n, (panel + 1) * per_panel))
        for j, (name, images) in enumerate(columns.items()):
            x = start + left + j * (tile + GAP)
            for i, line in enumerate(heads[name]):
                draw.text((x, MARGIN + i * LINE_PX), line, font=font, fill=INK)
            for i in rows:
                y = top + (i - rows.start) * (tile + GAP)
                canvas.paste(_sized(images[i], tile), (x, y))
                if marked is not None and name in marked and marked[name][i]:
                    draw.rectangle((x - 3, y - 3, x + tile + 2, y + tile + 2), outline=FRAME, width=3)
        for i in rows if numbered else ():
            y = top + (i - rows.start) * (tile + GAP) + tile // 2
            draw.text((start + left - 8, y), str(i + 1), font=font, fill=INK, anchor="rm")
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", compress_level=6)
    alt = f"Grid of {n} rows, one an image; columns from left to right: {', '.join(columns)}."
    if marked is not None and any(one.any() for one in marked.values()):
        alt += f" {sum(int(one.sum()) for one in marked.values())} pictures have a frame."
    return Drawn(buffer.getvalue(), canvas.size, alt)


def retrieval_figure(rank: NDArray[np.int64], n_candidates: int) -> Drawn:
    """Draw the share of images whose own stimulus is among the best k, against k, and what guessing gives.

    Parameters
    ----------
    rank : ndarray of int64, shape (m,)
        From 1; those that are 0 (no candidate) are left out.
    n_candidates : int
    """
    rank = rank[rank > 0]
    k = np.arange(1, n_candidates + 1)
    share = (rank[:, None] <= k).mean(axis=0)
    figure = blank_figure(5.6, 3.4)
    axes = figure.subplots()
    # Steps up to the last candidate: at the number of candidates everything is found.
    axes.plot(k, share, color=SERIES[0], linewidth=1.8, drawstyle="steps-post", label="this subject")
    axes.plot(k, k / n_candidates, color=FAINT, linestyle=":", linewidth=1.4, label="guessing")
    if n_candidates > 20:
        axes.set_xscale("log")
    axes.set(xlim=(1, max(2, n_candidates)), ylim=(0, 1.02), xlabel="k: best candidates that are looked at")
    axes.set_ylabel("share found among them")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(frameon=False, fontsize=9)
    _ink(figure)
    shown = [one for one in (1, 5, 10) if one <= n_candidates]
    told = ", ".join(f"top-{one} {share[one - 1]:.2f} (guessing {one / n_candidates:.2f})" for one in shown)
    return drawn(figure, f"Share of images found among the best k of {n_candidates} candidates: {told}.")


def spread_figure(spread: Floats, agreement: Floats, rank: NDArray[np.int64] | None) -> Drawn:
    """Draw how far samples of the prior differ against how well the kept image agrees with the brain, a mark an image."""
    figure = blank_figure(5.6, 3.6)
    axes = figure.subplots()
    first = rank == 1 if rank is not None else np.zeros(len(spread), dtype=bool)
    groups = {"seen image found first": first, "not first": ~first} if rank is not None else {"an image": ~first}
    for i, (name, chosen) in enumerate(groups.items()):
        face = SERIES[0] if i == 0 else "none"
        axes.plot(
            spread[chosen], agreement[chosen], linestyle="none", marker=MARKS[i], markersize=5, markerfacecolor=face,
            markeredgecolor=SERIES[i], label=f"{name} (n = {int(chosen.sum())})",
        )  # fmt: skip
    axes.set(xlabel="spread: mean cosine distance between samples", ylabel="agreement with the brain (cosine)")
    axes.legend(frameon=False, fontsize=9)
    _ink(figure)
    alt = f"Spread over samples against agreement, {len(spread)} images; mean spread {float(np.mean(spread)):.3f}"
    if len(spread) > 2 and np.ptp(spread) > 0 and np.ptp(agreement) > 0:
        alt += f", correlation {float(np.corrcoef(spread, agreement)[0, 1]):+.2f}"
    return drawn(figure, alt + ".")


def ceiling_figure(per_cent: Floats) -> Drawn:
    """Draw the histogram of the noise ceiling over voxels, in per cent of variance, with its median."""
    figure = blank_figure(5.6, 3.2)
    axes = figure.subplots()
    median = float(np.median(per_cent))
    axes.hist(per_cent, bins=np.linspace(0.0, 100.0, 41), color=SERIES[0], alpha=0.75)
    axes.axvline(median, color=SERIES[1], linestyle=LINES[1], linewidth=1.6, label=f"median {median:.1f} %")
    axes.set(xlim=(0, 100), xlabel="noise ceiling (% of variance)", ylabel="voxels")
    axes.legend(frameon=False, fontsize=9)
    _ink(figure)
    low, high = np.percentile(per_cent, [25, 75])
    return drawn(
        figure,
        f"Histogram of the noise ceiling over {len(per_cent)} voxels: median {median:.1f} %, quartiles {low:.1f} and {high:.1f} %.",
    )


def voxel_figure(voxels: VoxelMap) -> Drawn:
    """Draw a map of voxels: on the glass brain where they lie in MNI space, else as axial and coronal slices over their own mask.

    Values are drawn in multiples of an even share, so that maps of regions of different sizes compare.
    """
    from nibabel import Nifti1Image
    from nilearn import plotting

    values, inside, affine = _cropped(voxels)
    even = max(float(voxels.values.mean()), float(np.finfo(np.float32).tiny))
    image = Nifti1Image(values / np.float32(even), affine)
    top = max(float(np.percentile(voxels.values, TOP_SHARE)) / even, 1.0)
    figure = blank_figure(10.0, 3.3 if voxels.in_template else 4.4)
    figure.set_layout_engine("none")  # nilearn places its axes itself
    colours: dict[str, Any] = {"cmap": "YlOrRd", "vmin": 0.0, "vmax": top}
    if voxels.in_template:
        plotting.plot_glass_brain(
            image,
            display_mode="lyrz",
            threshold=0.0,
            figure=figure,
            axes=(0.0, 0.0, 0.91, 1.0),
            colorbar=False,
            **colours,
        )
        where = f"glass brain of the MNI template (the data set's space is {voxels.space})"
    else:
        region = Nifti1Image(inside.astype(np.float32), affine)
        for display, axes in (("z", (0.0, 0.5, 0.91, 0.5)), ("y", (0.0, 0.0, 0.91, 0.5))):
            cuts = _cuts(inside, affine, "xyz".index(display))
            slices = plotting.plot_img(
                region, display_mode=display, cut_coords=cuts, cmap=_grey(), vmin=0.0, vmax=1.0, figure=figure, axes=axes,
                colorbar=False, draw_cross=False, black_bg=False,
            )  # fmt: skip
            slices.add_overlay(image, threshold=top / 100, **colours)
        where = "axial slices above and coronal ones below, in the subject's own space"
    _scale(figure, top)
    peak = np.unravel_index(int(values.argmax()), values.shape)
    x, y, z = affine[:3, :3] @ np.array(peak, dtype=np.float64) + affine[:3, 3]
    alt = f"Share of each voxel in the decoding, {where}; largest at {x:.0f}, {y:.0f}, {z:.0f} mm."
    return drawn(figure, alt)


def _grey() -> Any:
    """Return white to grey: the region where nothing is drawn over it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("region", ["#ffffff", "#c3cbcf"])


def _scale(figure: Any, top: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = figure.add_axes((0.93, 0.12, 0.014, 0.76))
    bar = figure.colorbar(ScalarMappable(Normalize(0.0, top), "YlOrRd"), cax=axes)
    bar.set_label("times an even share", fontsize=9)
    axes.tick_params(colors=INK, labelsize=9)


def _cropped(voxels: VoxelMap) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Return values and mask around the region, with the affine of the part: slices of an empty head show little."""
    places = np.argwhere(voxels.inside)
    start = np.maximum(places.min(axis=0) - 3, 0)
    stop = np.minimum(places.max(axis=0) + 4, voxels.inside.shape)
    values = np.zeros(voxels.inside.shape, dtype=np.float32)
    values[voxels.inside] = voxels.values
    part = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    affine = voxels.affine.astype(np.float64).copy()
    affine[:3, 3] += affine[:3, :3] @ start
    return values[part], voxels.inside[part], affine


def _cuts(inside: NDArray[np.bool_], affine: NDArray[np.float64], axis: int, most: int = 6) -> list[float]:
    """Return places in mm along an axis with equally many voxels between neighbouring slices."""
    places = np.sort(np.argwhere(inside) @ affine[axis, :3] + affine[axis, 3])
    wanted = (np.arange(most) + 0.5) / most
    return sorted({round(float(places[int(share * len(places))]), 2) for share in wanted})


def _ink(figure: Any) -> None:
    for axes in figure.axes:
        axes.tick_params(colors=INK, labelsize=9)


def _sized(pixels: Images, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    method = Image.Resampling.NEAREST if image.width <= side else Image.Resampling.LANCZOS
    return image.resize((side, side), method)


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
