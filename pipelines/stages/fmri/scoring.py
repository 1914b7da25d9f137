"""Score one subject's decoded images: retrieval among the test images, the published metrics, baselines without a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ....data.errors import InputError
from ....data.fmri.reliability import estimate_reliability
from ....encoders.target_spaces import target_space
from ...evaluation.images.retrieval import RetrievalScore, retrieval
from ...evaluation.images.scorecard import ImageScorer, Scorecard
from ...evaluation.intervals import bootstrap_mean
from .items import BetasCase, Decoded, Found

if TYPE_CHECKING:
    from ....data.fmri.decoding_set import BrainSubject
    from ....data.fmri.scaling import VoxelScaler
    from ....data.fmri.trials import Trials
    from ....encoders.target_spaces import TargetEncoder
    from ...fmri_recipe import FmriRecipe

PIXEL_BATCH = 256


def score_subject(
    case: BetasCase, decoded: Decoded, recipe: FmriRecipe, encoder: TargetEncoder, *, scaler: VoxelScaler, seed: int
) -> tuple[Found, dict[str, Any]]:
    """Retrieve among the decoded images' own stimuli and score the reconstructions.

    Parameters
    ----------
    case : BetasCase
        With stimuli.
    decoded : Decoded
    recipe : FmriRecipe
    encoder : TargetEncoder
    scaler : VoxelScaler
    seed : int

    Returns
    -------
    found : Found
    scores : dict
        ``retrieval``, ``metrics``, ``baselines``, ``noise_ceiling`` and ``summary`` (name -> number, for tables).
    """
    stimuli = case.data.stimuli
    if stimuli is None:
        raise ValueError("there are no stimuli")
    size = target_space(recipe.target).pixels
    bank = encode_images(encoder, stimuli.read(decoded.image, size=size))
    found = found_candidates(decoded.projected, bank.numpy(), decoded.image, decoded.image, recipe.retrieval.top_k)
    scores: dict[str, Any] = {
        "retrieval": retrieval_rows(decoded.projected, bank, recipe, seed=seed),
        "noise_ceiling": ceiling_of(
            case.subject, case.subject.trials.of("test") if case.side == "test" else case.subject.trials, scaler
        ),
        "metrics": [],
    }
    summary = {row["direction"]: row["value"] for row in scores["retrieval"]}
    if decoded.reconstruction is not None:
        scorer = ImageScorer(stimuli.read(decoded.image, size=decoded.reconstruction.shape[1]), seed=seed)
        card = scorer.score(decoded.reconstruction, declared=declared(recipe))
        scores["metrics"] = card.rows()
        summary |= summary_of(card)
    scores["summary"] = summary
    return found, scores


def encode_images(encoder: TargetEncoder, pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Return tokens of images, in batches."""
    with torch.no_grad():
        return torch.cat([encoder(torch.from_numpy(part)).float().cpu() for part in _split(pixels)])


def retrieval_rows(
    projected: NDArray[np.float32], bank: torch.Tensor, recipe: FmriRecipe, *, seed: int
) -> list[dict[str, Any]]:
    """Score both directions, as values for JSON, with an interval over stimuli beside that over draws."""
    spec = recipe.retrieval
    tokens = torch.from_numpy(np.asarray(projected))
    scores = retrieval(tokens, bank, pool=spec.pool, draws=spec.draws, top=(1, 5), seed=seed)
    ranks = _ranks(tokens, bank)
    return [retrieval_row(score, (ranks[score.direction] < score.top).astype(np.float64)) for score in scores]


def retrieval_row(score: RetrievalScore, hits: NDArray[np.float64]) -> dict[str, Any]:
    """Turn a score into values for JSON; `hits` says of each stimulus whether it was found among all of them."""
    interval = bootstrap_mean(hits)
    low, high = score.interval
    name = score.direction if score.top == 1 else f"{score.direction} top-{score.top}"
    return {
        "direction": name,
        "value": score.value,
        "pool": score.pool,
        "draws": len(score.per_draw),
        "draws_low": None if np.isnan(low) else low,
        "draws_high": None if np.isnan(high) else high,
        "chance": score.chance,
        "all": {"value": interval.mean, "low": interval.low, "high": interval.high, "pool": len(hits)},
        "note": score.note,
    }


def retrieval_hits(projected: NDArray[np.float32] | torch.Tensor, bank: torch.Tensor) -> NDArray[np.float64]:
    """Say of each stimulus whether it is found (brain to image, top 1) among all: what a bootstrap over stimuli draws from."""
    return (_ranks(torch.as_tensor(projected), bank)["brain-to-image"] < 1).astype(np.float64)


def _ranks(tokens: torch.Tensor, bank: torch.Tensor) -> dict[str, NDArray[np.int64]]:
    flat = [torch.nn.functional.normalize(values.flatten(1), dim=1) for values in (tokens, bank)]
    similarity = (flat[0] @ flat[1].T).numpy()
    own = np.diag(similarity)
    return {
        "brain-to-image": (similarity >= own[:, None]).sum(1) - 1,
        "image-to-brain": (similarity >= own[None, :]).sum(0) - 1,
    }


def declared(recipe: FmriRecipe) -> dict[str, str]:
    """Say how candidates were chosen and what was blended."""
    spec = recipe.reconstruction
    chosen = {
        "brain": f"best of {spec.samples} by the brain's own projected tokens",
        "none": "the first sample",
        "mean": f"decoded from the mean of {spec.samples} samples",
    }[spec.select]
    return {
        "selection": chosen,
        "true image used": "no",
        "start": "none" if spec.start_strength >= 1 else f"low-level image, strength {spec.start_strength}",
        "blending": f"{spec.blend:g} of the low-level image" if spec.blend else "none",
    }


def summary_of(card: Scorecard) -> dict[str, float]:
    """Metric -> value, where there is one."""
    return {score.name: score.value for score in card.scores if score.value is not None}


def ceiling_of(subject: BrainSubject, trials: Trials, scaler: VoxelScaler) -> dict[str, Any] | None:
    """Noise ceiling of a subject's voxels in per cent, of the mean over three repeats, or None without repeats.

    Returns
    -------
    dict
        ``median``, ``low`` and ``high`` (quartiles over voxels), ``repeats``, ``images``, ``split_half`` (median correlation).
    """
    try:
        found = estimate_reliability(subject.betas, trials, scaler=scaler)
    except InputError as error:
        if error.code != "CHI-IN-278":
            raise
        return None
    low, median, high = np.percentile(found.noise_ceiling(3), [25, 50, 75])
    return {
        "repeats": 3,
        "median": float(median),
        "low": float(low),
        "high": float(high),
        "images": found.n_images,
        "split_half": float(np.median(found.split_half)),
    }


def found_candidates(
    projected: NDArray[np.float32],
    bank: NDArray[np.float32],
    numbers: NDArray[np.int64],
    own: NDArray[np.int64],
    k: int,
) -> Found:
    """Rank candidates by cosine with the brain's projected tokens.

    Parameters
    ----------
    projected : ndarray, shape (m, N, d)
    bank : ndarray, shape (c, N, d)
        Tokens of the candidates.
    numbers : ndarray of int64, shape (c,)
        Their numbers.
    own : ndarray of int64, shape (m,)
        Number of the image that was shown, for its rank only.
    k : int
        How many are listed.
    """
    p = projected.reshape(len(projected), -1).astype(np.float64)
    t = bank.reshape(len(bank), -1).astype(np.float64)
    p /= np.linalg.norm(p, axis=1, keepdims=True) + 1e-12
    t /= np.linalg.norm(t, axis=1, keepdims=True) + 1e-12
    cosine = p @ t.T
    order = np.argsort(-cosine, axis=1, kind="stable")
    place = {int(number): index for index, number in enumerate(numbers)}
    columns = np.array([place.get(int(one), -1) for one in own])
    right = cosine[np.arange(len(own)), np.maximum(columns, 0)]
    rank = np.where(columns >= 0, 1 + (cosine > right[:, None]).sum(1), 0)
    top = order[:, :k]
    return Found(candidates=numbers, top=numbers[top], cosine=np.take_along_axis(cosine, top, 1), rank=rank)


def _split(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels[start : start + PIXEL_BATCH] for start in range(0, len(pixels), PIXEL_BATCH)]
