"""What a network sees of an image that was shown several times: one trial, their mean, or a random mixture."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .trials import ImageTrials

Policy = Literal["single", "mean", "first", "cycle", "random-single", "mix"]
"""Every trial a sample of its own (MindEye2); the mean (Brain-Diffuser, every test); the first; the next one in each iteration
(MindEye1); a random one; half random convex weights, 30 % mean, 20 % one repeat (MindEye1, low level)."""
POLICIES: tuple[Policy, ...] = get_args(Policy)
_MIX_CONVEX, _MIX_MEAN = 0.5, 0.3


def each_trial(images: ImageTrials) -> ImageTrials:
    """Return every real trial as a sample with one repeat; `image` then holds an image once a trial."""
    most = images.rows.shape[1]
    which, repeat = np.nonzero(np.arange(most)[None, :] < images.n_repeats[:, None])
    return ImageTrials(
        image=images.image[which],
        rows=images.rows[which, repeat][:, None],
        n_repeats=np.ones(len(which), dtype=np.int64),
        session=images.session[which, repeat][:, None],
    )


def samples(images: ImageTrials, policy: str) -> ImageTrials:
    """Return what counts as a sample under a policy: trials for ``single``, else images.

    Raises
    ------
    ValueError
        An unknown policy.
    """
    _check(policy)
    return each_trial(images) if policy == "single" else images


def repeat_weights(
    images: ImageTrials,
    chosen: NDArray[np.int64],
    policy: str,
    *,
    generator: np.random.Generator | None = None,
    iteration: int = 0,
) -> NDArray[np.float32]:
    """Return the weight of each repeat; betas of a sample are ``weights @ betas[rows]``.

    Parameters
    ----------
    images : ImageTrials
        For ``single``: what `samples` gave.
    chosen : ndarray of int64, shape (k,)
        Places in `images`.
    policy : str
        One of `POLICIES`.
    generator : numpy.random.Generator, optional
        Needed by ``random-single`` and ``mix``.
    iteration : int
        For ``cycle``: repeat number ``iteration mod n`` of the n real ones is taken.

    Returns
    -------
    ndarray of float32, shape (k, r)
        Not negative, rows sum to 1, and 0 for padding: a padded repeat never counts twice.

    Raises
    ------
    ValueError
        An unknown policy, no generator where one is needed, or ``single`` on samples with several repeats.
    """
    _check(policy)
    n = images.n_repeats[chosen]
    real = np.arange(images.rows.shape[1])[None, :] < n[:, None]
    if policy == "single" and (n != 1).any():
        raise ValueError("for single trials, pass what `samples` returns")
    if policy in {"single", "first"}:
        return _one(np.zeros_like(n), real.shape[1])
    if policy == "mean":
        return _normalised(real.astype(np.float64))
    if policy == "cycle":
        return _one(iteration % n, real.shape[1])
    if generator is None:
        raise ValueError(f"{policy} needs a generator")
    single = _one(generator.integers(0, n), real.shape[1])
    if policy == "random-single":
        return single
    # 1 - u lies in (0, 1]: weights of one image are never all zero.
    convex = _normalised((1.0 - generator.random(real.shape)) * real)
    coin = generator.random(len(n))[:, None]
    mean = _normalised(real.astype(np.float64))
    return np.where(coin < _MIX_CONVEX, convex, np.where(coin < _MIX_CONVEX + _MIX_MEAN, mean, single))


def _check(policy: str) -> None:
    if policy not in POLICIES:
        raise ValueError(f"policy is one of {', '.join(POLICIES)}, got {policy!r}")


def _one(repeat: NDArray[np.int64], most: int) -> NDArray[np.float32]:
    chosen: NDArray[np.bool_] = np.arange(most)[None, :] == repeat[:, None]
    return chosen.astype(np.float32)


def _normalised(weights: NDArray[np.float64]) -> NDArray[np.float32]:
    shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return shares.astype(np.float32)
