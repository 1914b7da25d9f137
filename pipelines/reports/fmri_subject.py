"""The page of one subject: what was decoded beside what was seen, how sure it is, and which voxels carried it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data.atomic import write_text
from .fmri_figures import (
    Floats,
    Images,
    VoxelMap,
    ceiling_figure,
    image_grid,
    retrieval_figure,
    spread_figure,
    voxel_figure,
)
from .fmri_study import missing_networks
from .fmri_verdict import LOWER_IS_BETTER, metric_name
from .pages import nonce_of, place_picture, render
from .patient import RESEARCH_USE
from .speech_figures import Drawn

PER_PANEL = 12


class ShownImage(NamedTuple):
    """A row of the grid in words.

    Parameters
    ----------
    name : str
        Of the stimulus; empty where stimuli are not there.
    repeats : int
        Trials that were averaged.
    spread, agreement : float
        NaN where there is none.
    rank : int
        Of the seen image among the candidates, from 1; 0 where it is none.
    retrieved : sequence of str
        Names of the best candidates.
    """

    name: str
    repeats: int
    spread: float
    agreement: float
    rank: int
    retrieved: Sequence[str]


class RegionShare(NamedTuple):
    """What a named region of the brain adds: its voxels, its share of the importance, and that of an even map."""

    name: str
    n_voxels: int
    share: float
    even: float


@dataclass(frozen=True, kw_only=True, eq=False)
class FmriSubjectReport:
    """What the page of one subject says.

    Parameters
    ----------
    key, title : str
        ``sub-01``, and what was done.
    side : {'test', 'all'}
        Trials that were decoded.
    n_images, n_trials, n_voxels : int
    region : str
    n_samples : int
        Samples of the prior for an image.
    columns : mapping of str to ndarray of uint8, shape (k, S, S, 3)
        Pictures of the grid, ``seen`` first where stimuli are there.
    found : mapping of str to ndarray of bool, shape (k,)
        Pictures that show the seen image: they get a frame.
    shown : sequence of ShownImage
        The rows of the grid.
    rank : ndarray of int64, shape (m,), optional
        Of every decoded image; None without stimuli.
    n_candidates : int
    spread, agreement : ndarray, shape (m,), optional
    metrics, retrieval : sequence of mapping
        Rows as `evaluation.images` gives them.
    noise_ceiling : mapping, optional
        ``median``, ``low``, ``high``, ``repeats``, ``images``, ``split_half``.
    ceiling : ndarray, shape (V,), optional
        Noise ceiling of each voxel in per cent.
    ceiling_source : str
        Where it comes from.
    declared : mapping of str to str
        How candidates were chosen and blended.
    voxels : VoxelMap, optional
    regions : sequence of RegionShare
    warnings, notices : sequence of str
    facts : sequence of (str, str)
    provenance, methods, citations, group_href
        As in `PatientReport`.

    Raises
    ------
    ValueError
        Parts do not fit each other.
    """

    key: str
    title: str
    status: Literal["done"] = "done"
    side: Literal["test", "all"] = "test"
    n_images: int
    n_trials: int
    n_voxels: int
    region: str = ""
    n_samples: int = 1
    columns: Mapping[str, Images] = field(default_factory=dict)
    found: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    shown: Sequence[ShownImage] = ()
    rank: NDArray[np.int64] | None = None
    n_candidates: int = 0
    spread: Floats | None = None
    agreement: Floats | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    retrieval: Sequence[Mapping[str, Any]] = ()
    noise_ceiling: Mapping[str, Any] | None = None
    ceiling: Floats | None = None
    ceiling_source: str = ""
    declared: Mapping[str, str] = field(default_factory=dict)
    voxels: VoxelMap | None = None
    regions: Sequence[RegionShare] = ()
    warnings: Sequence[str] = ()
    notices: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    methods: str = ""
    citations: Sequence[str] = ()
    group_href: str = ""

    def __post_init__(self) -> None:
        wrong = []
        lengths = {name: len(images) for name, images in self.columns.items()}
        if len({len(self.shown), *lengths.values()}) > 1:
            wrong.append(f"{len(self.shown)} rows and columns of {lengths}")
        if set(self.found) - set(self.columns):
            wrong.append(f"frames for {sorted(set(self.found) - set(self.columns))}, which are no columns")
        if self.rank is not None and not self.n_candidates:
            wrong.append("ranks without candidates")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def flags(self) -> Sequence[str]:
        """The warnings, under the name that the parts shared by all pages know."""
        return self.warnings


class _Figure(NamedTuple):
    src: str
    drawn: Drawn


def write_fmri_subject_report(
    page: Path, report: FmriSubjectReport, *, assets: Path | None = None, single_file: bool = False
) -> list[Path]:
    """Write the page of one subject and its figures; the page itself comes last to the disk.

    Parameters
    ----------
    page : Path
        Figures go to ``figures/`` beside it.
    report : FmriSubjectReport
    assets : Path, optional
        Not used: the page needs no script; here since every page's writer takes it.
    single_file : bool
        Put the figures into the page.

    Returns
    -------
    list of Path
        The page and its figures.

    Raises
    ------
    ResourceError
        The disk is full or may not be written.
    """
    pictures = _draw(report)
    written, figures = [], {}
    for name, one in pictures.items():
        src, file = place_picture(page, name, one.png, inline=single_file)
        figures[name] = _Figure(src, one)
        written += [file] if file is not None else []
    # The fields as text miss the middle of long arrays; the pictures made of these are hashed as well.
    nonce = nonce_of([repr(report), *(one.png for one in pictures.values())])
    text = render(
        "fmri_subject.html",
        nonce,
        report=report,
        figures=figures,
        missing=missing_networks(report.metrics),
        scored=[row for row in report.metrics if row["value"] is not None],
        answer=_answer(report),
        correlation=_correlation(report),
        name_of=metric_name,
        lower=LOWER_IS_BETTER,
        research_use=RESEARCH_USE,
        paragraphs=[p.strip() for p in re.split(r"\n\s*\n", report.methods) if p.strip()],
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, text)
    return [page, *written]


def _draw(report: FmriSubjectReport) -> dict[str, Drawn]:
    pictures = {}
    if report.columns and report.shown:
        panels = {"per_panel": PER_PANEL if len(report.columns) < 7 else len(report.shown)}
        pictures["images"] = image_grid(report.columns, marked=report.found, numbered=True, **panels)
    if report.rank is not None and (report.rank > 0).any():
        pictures["retrieval"] = retrieval_figure(report.rank, report.n_candidates)
    spread, agreement = report.spread, report.agreement
    if report.n_samples > 1 and spread is not None and agreement is not None and _finite(spread, agreement):
        pictures["spread"] = spread_figure(spread, agreement, report.rank)
    if report.ceiling is not None and _finite(report.ceiling):
        pictures["ceiling"] = ceiling_figure(report.ceiling)
    if report.voxels is not None:
        pictures["voxels"] = voxel_figure(report.voxels)
    return pictures


def _finite(*arrays: Floats) -> bool:
    return all(len(values) > 0 and bool(np.isfinite(values).all()) for values in arrays)


def _answer(report: FmriSubjectReport) -> list[str]:
    """Say what was decoded and how well, in whole sentences."""
    trials = f"{report.n_trials:,} trial{'' if report.n_trials == 1 else 's'}"
    which = "of the test side of the split" if report.side == "test" else "of this subject"
    told = [f"{report.n_images:,} images were decoded from {trials} {which} ({report.n_voxels:,} voxels)."]
    if report.side == "all" and report.rank is not None:
        told.append(
            "No trial is marked as test: some may have been trained on, and then the scores below are too good."
        )
    first = next((row for row in report.retrieval if row["direction"] == "brain-to-image"), None)
    if first is not None:
        every = first["all"]
        told.append(
            f"The seen image is the first choice among {every['pool']:,} in {100 * every['value']:.1f} % "
            f"[{100 * every['low']:.1f}, {100 * every['high']:.1f}] of cases; guessing would find {100 / max(1, every['pool']):.1f} %."
        )
    if report.rank is None:
        told.append("The stimuli are not there: nothing could be retrieved or scored.")
    if not any(name != "seen" and not name.startswith("retrieved") for name in report.columns):
        told.append("There is no decoder in this recipe: no image was reconstructed.")
    return told


def _correlation(report: FmriSubjectReport) -> float | None:
    """Return the correlation of spread and agreement over images, where there is one."""
    spread, agreement = report.spread, report.agreement
    if spread is None or agreement is None or not _finite(spread, agreement) or len(spread) < 3:
        return None
    if np.ptp(spread) == 0 or np.ptp(agreement) == 0:
        return None
    return float(np.corrcoef(spread, agreement)[0, 1])
