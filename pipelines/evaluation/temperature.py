"""Temperature scaling on validation logits, and the shift of logits to another prevalence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.errors import InputError, RecipeError
from .predictions import Floats, Ints

CODES: dict[str, str] = {
    "CHI-IN-236": "there are fewer persons, cases or scores than the method needs",
    "CHI-RC-115": "a prevalence is not between 0 and 1, or prevalences do not sum to 1",
}

SHRINK_BELOW = 50
"""With fewer validation persons the temperature is drawn towards 1."""
PRIOR_SD = 0.5
"""Of log T, normal around 0."""
BOUND = math.log(100.0)
"""Of ``|log T|``: a separated validation set would take T to 0."""


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """One number that divides logits; it keeps their order, so that no prediction changes (Guo et al. 2017).

    Parameters
    ----------
    value : float
        T: above 1 softens.
    n : int
        Validation persons.
    nll_before, nll_after : float
        Mean negative log-likelihood of the validation rows at 1 and at T, in nats.
    shrunk : bool
        The prior was used.
    at_bound : bool
        The likelihood has no maximum within 1/100 to 100; do not believe T.
    """

    value: float
    n: int
    nll_before: float
    nll_after: float
    shrunk: bool
    at_bound: bool

    def probabilities(self, logits: Floats) -> Floats:
        """Return softmax(logits / T) in float64, shape (N, K)."""
        return softmax(np.asarray(logits, dtype=np.float64) / self.value)


def fit_temperature(
    logits: Floats,
    labels: Ints,
    *,
    persons: Sequence[str] | None = None,
    shrink_below: int = SHRINK_BELOW,
    prior_sd: float = PRIOR_SD,
) -> Temperature:
    """Minimise the negative log-likelihood over log T with L-BFGS in float64.

    Parameters
    ----------
    logits : ndarray, shape (N, K)
        Of data that neither trained the network nor, best, stopped its training.
    labels : ndarray of int, shape (N,)
    persons : sequence of str, optional
        Each row is a person of its own where absent. A person's rows share one weight of 1.
    shrink_below : int
        Persons under which log T has the prior N(0, `prior_sd`); 0 for never.
    prior_sd : float

    Raises
    ------
    InputError
        CHI-IN-230 where rows and labels do not pair, CHI-IN-231 where a logit is not finite, CHI-IN-233, CHI-IN-236 where there is no
        row.
    """
    from scipy.optimize import minimize

    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    weights = _weights(z, y, persons)
    n = round(float(weights.sum()))
    precision = 1.0 / prior_sd**2 if n < shrink_below else 0.0
    target, top = z[np.arange(len(y)), y], z.max(axis=1)

    def loss(log_t: Floats) -> float:
        inverse = math.exp(-float(log_t[0]))
        each = np.log(np.exp((z - top[:, None]) * inverse).sum(axis=1)) + (top - target) * inverse
        return float((weights * each).sum() + 0.5 * precision * float(log_t[0]) ** 2)

    def slope(log_t: Floats) -> Floats:
        inverse = math.exp(-float(log_t[0]))
        expected = (softmax(z * inverse) * z).sum(axis=1)
        return np.array([float((weights * (target - expected)).sum()) * inverse + precision * float(log_t[0])])

    found = minimize(
        loss,
        np.zeros(1),
        jac=slope,
        method="L-BFGS-B",
        bounds=[(-BOUND, BOUND)],
        options={"maxiter": 100, "ftol": 1e-14, "gtol": 1e-10},
    )
    log_t = float(found.x[0])
    value = math.exp(log_t)
    return Temperature(
        value=value,
        n=n,
        nll_before=_mean_nll(z, y, weights),
        nll_after=_mean_nll(z / value, y, weights),
        shrunk=precision > 0,
        at_bound=abs(log_t) > BOUND - 1e-3,
    )


def shift_prevalence(logits: Floats, *, trained: Sequence[float], deployed: Sequence[float]) -> Floats:
    """Move logits from the prevalences of the training set to others: add the log of their ratio to each class.

    With two classes the log-odds move by ln odds(deployed) - ln odds(trained). Challenge sets are half patients; clinics are not.

    Parameters
    ----------
    logits : ndarray, shape (N, K)
        After the temperature.
    trained, deployed : sequence of float, length K
        Share of each class; each sums to 1.

    Raises
    ------
    RecipeError
        CHI-RC-115.
    """
    shares = [np.asarray(one, dtype=np.float64) for one in (trained, deployed)]
    k = np.asarray(logits).shape[1]
    for one in shares:
        if one.shape != (k,) or not ((one > 0) & (one < 1)).all() or abs(one.sum() - 1.0) > 1e-6:
            raise RecipeError(
                "CHI-RC-115",
                f"{one.tolist()} are no prevalences of {k} classes.",
                "Give one share between 0 and 1 a class, summing to 1.",
            )
    return np.asarray(np.asarray(logits, dtype=np.float64) + np.log(shares[1]) - np.log(shares[0]))


def softmax(logits: Floats) -> Floats:
    """Return probabilities, shape (N, K), without overflow."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True), dtype=np.float64)


def _weights(z: Floats, y: Ints, persons: Sequence[str] | None) -> Floats:
    if z.ndim != 2 or y.shape != (len(z),) or (persons is not None and len(persons) != len(z)):
        raise InputError("CHI-IN-230", f"logits {z.shape} and labels {y.shape} do not pair.", "Give a row a label.")
    if not len(z):
        raise InputError("CHI-IN-236", "there is no validation row to fit a temperature on.", "Hold persons out.")
    if not np.isfinite(z).all():
        raise InputError("CHI-IN-231", "a validation logit is NaN or infinite.", "Find the fit that diverged.")
    if not np.isin(y, np.arange(z.shape[1])).all():
        raise InputError("CHI-IN-233", f"a label is none of 0 to {z.shape[1] - 1}.", "Give the index of the class.")
    if persons is None:
        return np.ones(len(z))
    _, index, size = np.unique(np.asarray(persons), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / size[index])


def _mean_nll(z: Floats, y: Ints, weights: Floats) -> float:
    top = z.max(axis=1)
    each = np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(y)), y]
    return float((weights * each).sum() / weights.sum())
