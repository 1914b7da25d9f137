"""From a decoded subject to the dataclass that its page is written from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....encoders.target_spaces import target_space
from ...engine.weights import find
from ...reports.fmri_figures import VoxelMap
from ...reports.fmri_subject import FmriSubjectReport, RegionShare, ShownImage
from .scoring import declared

if TYPE_CHECKING:
    from ....data.fmri.decoding_set import BrainSubject
    from ...engine.stage import Context
    from ...fmri_recipe import FmriRecipe
    from .items import DecodedCase, Images

SHOWN = 24
"""Images in the grid, evenly spaced over all that were decoded."""
RETRIEVED = 3
"""Retrieved candidates beside each."""
REPEATS = 3
"""Repeats that the noise ceiling is of, as in the scores."""
SMALLEST = 64
"""Side in pixels at which stimuli are shown where there is no reconstruction to match, at least."""


def subject_report(item: DecodedCase, recipe: FmriRecipe, context: Context, *, group_href: str) -> FmriSubjectReport:
    """Gather everything that a subject's page shows."""
    case, decoded, found, scores = item.case, item.decoded, item.found, item.scores or {}
    n = len(decoded.image)
    chosen = np.unique(np.linspace(0, n - 1, min(SHOWN, n)).astype(np.int64))
    columns, frames = _columns(item, recipe, chosen)
    ceiling = _ceiling(case.subject)
    return FmriSubjectReport(
        key=case.session.key,
        title=recipe.title,
        side="test" if case.side == "test" else "all",
        n_images=n,
        n_trials=int(case.trials.n_repeats.sum()) if recipe.betas.test_repeats != "first" else n,
        n_voxels=case.subject.n_voxels,
        region=recipe.betas.roi,
        n_samples=recipe.reconstruction.samples if "prior" in recipe.components else 1,
        columns=columns,
        found=frames,
        shown=_shown(item, chosen) if columns else (),
        rank=found.rank if found is not None else None,
        n_candidates=len(found.candidates) if found is not None else 0,
        spread=decoded.spread,
        agreement=decoded.agreement,
        metrics=scores.get("metrics", ()),
        retrieval=scores.get("retrieval", ()),
        noise_ceiling=scores.get("noise_ceiling"),
        ceiling=ceiling,
        ceiling_source=f"Of a mean over {REPEATS} repeats, from the data set’s own ratio of signal and noise (ncsnr)."
        if ceiling is not None
        else "",
        declared=declared(recipe),
        voxels=_voxels(item),
        regions=_regions(item),
        # What a reader decided is no warning about this subject.
        warnings=[flag for flag in context.flags if flag not in case.data.notes],
        notices=[*recipe.notices, *case.data.notes],
        facts=_facts(item, recipe),
        provenance={
            "inputs": dict(context.notes.get("inputs", {})),
            "recipe": {"name": recipe.name, "sha256": recipe.sha256()},
            "weights": {n: find(n).sha256 for s in recipe.components.values() for n in s.weight_names},
            "plan": context.plan.as_json(),
        },
        methods=recipe.methods,
        citations=recipe.citations,
        group_href=group_href,
    )


def _columns(
    item: DecodedCase, recipe: FmriRecipe, chosen: NDArray[np.int64]
) -> tuple[dict[str, Images], dict[str, NDArray[np.bool_]]]:
    """Return the grid's pictures, and which retrieved ones are the seen image."""
    decoded, found, stimuli = item.decoded, item.found, item.case.data.stimuli
    size = max(SMALLEST, target_space(recipe.target).pixels)
    if decoded.reconstruction is not None:
        size = decoded.reconstruction.shape[1]
    columns: dict[str, Images] = {}
    frames: dict[str, NDArray[np.bool_]] = {}
    if stimuli is not None:
        columns["seen"] = stimuli.read(decoded.image[chosen], size=size)
    if decoded.reconstruction is not None:
        columns["reconstructed"] = decoded.reconstruction[chosen]
    if decoded.start is not None:
        columns["low level"] = decoded.start[chosen]
    if stimuli is not None and found is not None:
        for place in range(min(RETRIEVED, found.top.shape[1])):
            name = f"retrieved, {place + 1}."
            columns[name] = stimuli.read(found.top[chosen, place], size=size)
            frames[name] = found.top[chosen, place] == decoded.image[chosen]
    return columns, frames


def _shown(item: DecodedCase, chosen: NDArray[np.int64]) -> list[ShownImage]:
    decoded, found, stimuli = item.decoded, item.found, item.case.data.stimuli
    rows = []
    for index in chosen.tolist():
        retrieved = () if found is None or stimuli is None else [stimuli.names[int(one)] for one in found.top[index]]
        rows.append(
            ShownImage(
                name=stimuli.names[int(decoded.image[index])] if stimuli is not None else "",
                repeats=int(item.case.trials.n_repeats[index]),
                spread=float(decoded.spread[index]),
                agreement=float(decoded.agreement[index]),
                rank=int(found.rank[index]) if found is not None else 0,
                retrieved=retrieved,
            )
        )
    return rows


def _ceiling(subject: BrainSubject) -> NDArray[np.float64] | None:
    """Return the noise ceiling of each voxel in per cent, where the data set brings its ratio of signal and noise.

    Source: Allen et al., Nature Neuroscience 2022: ncsnr^2 / (ncsnr^2 + 1 / n).
    """
    if subject.ncsnr is None:
        return None
    signal = np.nan_to_num(subject.ncsnr.astype(np.float64)) ** 2
    return np.asarray(100.0 * signal / (signal + 1.0 / REPEATS))


def _voxels(item: DecodedCase) -> VoxelMap | None:
    mask = item.case.subject.mask
    if mask is None or item.importance is None:
        return None
    return VoxelMap(inside=mask.inside, affine=mask.affine, values=item.importance, space=space_of(item.case.subject))


def space_of(subject: BrainSubject) -> str:
    """Return the template in whose space the files say that they are (BIDS ``space-MNI...``); empty where they say none or several."""
    names = [re.search(r"(?:^|_)space-([A-Za-z0-9]+)", path.name) for path in subject.files]
    spaces = {match[1] for match in names if match is not None}
    template = spaces.pop() if len(spaces) == 1 else ""
    return "" if template in {"T1w", "T2w", "func", "boldref", "individual", "orig"} else template


def _regions(item: DecodedCase) -> list[RegionShare]:
    if item.importance is None:
        return []
    whole = max(float(item.importance.sum()), float(np.finfo(np.float32).tiny))
    rows = [
        RegionShare(
            name, int(inside.sum()), float(item.importance[inside].sum()) / whole, float(inside.sum()) / len(inside)
        )
        for name, inside in item.case.subject.rois.items()
        if inside.any() and not inside.all()
    ]
    return sorted(rows, key=lambda row: (-row.share, row.name))


def _facts(item: DecodedCase, recipe: FmriRecipe) -> list[tuple[str, str]]:
    spec: Any = recipe.reconstruction
    repeats = {
        "mean-betas": "averaged before the network",
        "mean-tokens": "averaged after the network",
        "first": "only the first is used",
    }
    facts = [
        ("Region", recipe.betas.roi),
        ("Repeats of an image", repeats[recipe.betas.test_repeats]),
        ("Scaling of the betas", recipe.betas.scaling),
        ("Target", recipe.target),
    ]
    if "prior" in recipe.components:
        facts.append(("Samples and steps of the prior", f"{spec.samples} and {spec.steps} ({spec.sampler})"))
    return facts
