"""The page of one patient, also of one that failed: warnings, volumes, slices, viewer, methods, provenance."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...data.atomic import write_bytes, write_text
from .colours import Rgb, colour_word, parse_hex
from .figures import Convention, Strip, overview, slice_strips
from .pages import nonce_of, render
from .viewer import ASSET_NAME, LICENCE_NAME, VIEWER_BYTES, ViewerVolumes, viewer_licence, viewer_script, viewer_volumes

SINGLE_FILE_BYTES = 12_000_000
"""Most bytes of a page that holds everything; the viewer's volumes are coarsened, then left out, to stay below."""

RESEARCH_USE = "For research use only: not a medical device, and not for decisions about a person's care."


@dataclass(frozen=True, kw_only=True)
class ReportError:
    """Why a patient failed, as `ChiasmError` says it."""

    code: str
    message: str
    remedy: str = ""
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class VolumeRow:
    """One line of the volume table.

    Parameters
    ----------
    label : int
        Value in the label map.
    name : str
    colour : str
        ``#rrggbb``.
    volume_ml : float
    share : float or None
        Part of the labelled volume, 0 to 1; None for nested regions, whose parts do not add up.
    """

    label: int
    name: str
    colour: str
    volume_ml: float
    share: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PatientReport:
    """What the page of one patient says.

    Parameters
    ----------
    key, title : str
        ``sub-01_ses-02``, and what was done.
    status : {'done', 'failed'}
    error : ReportError, optional
    rows : sequence of VolumeRow
    flags, notices : sequence of str
        Warnings about this patient; what holds for every patient of the run.
    provenance : mapping
        Nested: hashes, recipe, weights, version, plan.
    methods : str
        Blank lines part paragraphs.
    citations : sequence of str
    background : ndarray, shape (X, Y, Z), optional
        Canonical orientation: indices grow to the patient's right, front and head.
    labels : ndarray of uint8, shape (X, Y, Z), optional
    spacing_mm : tuple of float
    label_table : mapping of int to (name, (red, green, blue))
    convention : {'radiological', 'neurological'}
    group_href : str
        The group page relative to this page; empty for none.
    """

    key: str
    title: str
    status: Literal["done", "failed"]
    error: ReportError | None = None
    rows: Sequence[VolumeRow] = ()
    flags: Sequence[str] = ()
    notices: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    methods: str = ""
    citations: Sequence[str] = ()
    background: NDArray[Any] | None = None
    labels: NDArray[np.uint8] | None = None
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    label_table: Mapping[int, tuple[str, Rgb]] = field(default_factory=dict)
    convention: Convention = "radiological"
    group_href: str = ""


@dataclass(frozen=True)
class _Figure:
    strip: Strip
    picture: str
    overlay: str


def write_patient_report(
    path: Path, report: PatientReport, *, assets: Path | None = None, single_file: bool = False
) -> list[Path]:
    """Write the page of one patient and its figures; the page itself comes last.

    Parameters
    ----------
    path : Path
        The page; figures go to ``figures/`` beside it.
    report : PatientReport
    assets : Path, optional
        Folder of the viewer's script, shared by all pages of an output folder (default: ``assets/`` beside the page).
        It is written where it is missing or differs, and is not among the returned files.
    single_file : bool
        Put figures and viewer into the page: one file of at most `SINGLE_FILE_BYTES`.

    Returns
    -------
    list of Path
        The page and its figures.

    Raises
    ------
    ValueError
        `labels` and `background` differ in shape.
    ResourceError
        The disk is full or may not be written.
    """
    strips = _strips(report)
    written: list[Path] = []
    figures = []
    for strip in strips:
        picture, overlay = _place(path, strip, written, single_file=single_file)
        figures.append(_Figure(strip, picture, overlay))
    script = viewer_script() if single_file and strips else b""
    volumes = _volumes(report, single_file=single_file, taken=len(script) + sum(_size(s) for s in strips) * 4 // 3)
    script_href = ""
    if volumes is not None and not single_file:
        folder = path.parent / "assets" if assets is None else assets
        share_viewer(folder)
        script_href = Path(os.path.relpath(folder / ASSET_NAME, path.parent)).as_posix()
    page = _page(report, figures, volumes, script_href, script if volumes is not None else b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return [path, *written]


def write_overview(path: Path, report: PatientReport) -> Path:
    """Write the slices of all planes, labels drawn over them, as one PNG for a document or a slide.

    Raises
    ------
    ValueError
        The report has no volume.
    """
    strips = _strips(report)
    if not strips:
        raise ValueError("an overview needs a report with a volume, got one without")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, overview(strips))
    return path


def share_viewer(folder: Path) -> Path:
    """Put the viewer's script and its licences into `folder` unless they are there; return the script's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((LICENCE_NAME, viewer_licence()), (ASSET_NAME, viewer_script())):
        target = folder / name
        # Several workers may come here at once: each write is atomic and of equal bytes.
        if not target.is_file() or target.read_bytes() != content:
            write_bytes(target, content)
    return folder / ASSET_NAME


def legend(label_table: Mapping[int, tuple[str, Rgb]]) -> list[tuple[str, str, Rgb]]:
    """Return (name, colour in words, colour) of every label but 0, in the order of the labels."""
    entries = (label_table[value] for value in sorted(label_table) if value > 0)
    return [(name, colour_word(rgb), rgb) for name, rgb in entries]


def _strips(report: PatientReport) -> list[Strip]:
    if report.background is None:
        return []
    return slice_strips(
        report.background, report.labels, report.spacing_mm, report.label_table, convention=report.convention
    )


def _place(path: Path, strip: Strip, written: list[Path], *, single_file: bool) -> tuple[str, str]:
    """Write or inline both layers of a strip; return what their ``src`` is."""
    sources = []
    for suffix, content in (("", strip.picture), ("-labels", strip.overlay)):
        if content is None:
            sources.append("")
        elif single_file:
            sources.append("data:image/png;base64," + base64.b64encode(content).decode("ascii"))
        else:
            target = path.parent / "figures" / f"{path.stem}_{strip.plane}{suffix}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, content)
            written.append(target)
            sources.append(f"figures/{target.name}")
    return sources[0], sources[1]


def _size(strip: Strip) -> int:
    return len(strip.picture) + len(strip.overlay or b"")


def _volumes(report: PatientReport, *, single_file: bool, taken: int) -> ViewerVolumes | None:
    if report.background is None:
        return None
    limit = min(VIEWER_BYTES, SINGLE_FILE_BYTES - taken - 200_000) if single_file else VIEWER_BYTES
    return viewer_volumes(report.background, report.labels, report.spacing_mm, limit_bytes=limit)


def _page(
    report: PatientReport, figures: Sequence[_Figure], volumes: ViewerVolumes | None, script_href: str, script: bytes
) -> str:
    shown = legend(report.label_table) if report.labels is not None else []
    rows = [(row, colour_word(parse_hex(row.colour))) for row in report.rows]
    nonce = nonce_of(
        [
            repr((report.key, report.title, report.error, report.rows, report.flags, report.notices)),
            repr((report.provenance, report.methods, report.citations, report.label_table)),
            repr((report.group_href, script_href)),
            *(part for figure in figures for part in (figure.strip.picture, figure.strip.overlay or b"")),
        ]
    )
    return render(
        "patient.html",
        nonce,
        report=report,
        rows=rows,
        whole=_add_up(report.rows),
        total_ml=sum(row.volume_ml for row in report.rows),
        figures=figures,
        legend=shown,
        volumes=volumes,
        colours=_viewer_colours(report),
        names={str(value): name for value, (name, _) in sorted(report.label_table.items())},
        script_href=script_href,
        script=_inline_script(script),
        research_use=RESEARCH_USE,
        paragraphs=[p.strip() for p in re.split(r"\n\s*\n", report.methods) if p.strip()],
    )


def _add_up(rows: Sequence[VolumeRow]) -> bool:
    """Whether the shares are parts of one whole, which a stacked bar may show."""
    shares = [row.share for row in rows if row.share is not None]
    return len(shares) == len(rows) > 1 and abs(sum(shares) - 1.0) < 0.01


def _viewer_colours(report: PatientReport) -> dict[str, list[Any]]:
    """Return the colour table in the form NiiVue reads: one list a channel."""
    shown = {value: rgb for value, (_, rgb) in sorted(report.label_table.items()) if value > 0}
    table: dict[str, list[Any]] = {"I": [0, *shown], "A": [0, *(255 for _ in shown)]}
    for i, channel in enumerate("RGB"):
        table[channel] = [0, *(int(rgb[i]) for rgb in shown.values())]
    # The page names the labels; NiiVue would write them over the picture.
    table["labels"] = ["" for _ in table["I"]]
    return table


def _inline_script(script: bytes) -> Any:
    """Return the vendored script ready to stand in a script element, whose only forbidden text is its own end tag."""
    from markupsafe import Markup

    return Markup(script.decode("utf-8").replace("</script", "<\\/script"))  # noqa: S704 - vendored, not input
