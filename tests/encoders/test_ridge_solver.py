"""Ridge regression against scikit-learn and against refits that leave the held-out rows out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneGroupOut

from chiasm.data.errors import InputError
from chiasm.encoders import ridge_solver
from chiasm.encoders.ridge_solver import fit_ridge

ALPHAS = np.logspace(-2, 5, 8)
SHAPES = pytest.mark.parametrize(("n", "p"), [(60, 150), (150, 40), (50, 50)], ids=["dual", "primal", "square"])


def planted(n: int, p: int, t: int = 7, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with a mean far from zero, targets from easy to hopeless, and rows to predict."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + 20, p)) + 5 * rng.standard_normal(p)
    y = x @ rng.standard_normal((p, t)) + np.logspace(-1, 3, t) * rng.standard_normal((n + 20, t)) + 3
    return x[:n].astype("f4"), y[:n].astype("f4"), x[n:].astype("f4")


def refitted_errors(x: np.ndarray, y: np.ndarray, fold: np.ndarray, alpha: float) -> np.ndarray:
    """Squared held-out errors by refitting without each fold, summed over the rows."""
    total = np.zeros(y.shape[1])
    for number in np.unique(fold):
        out = fold == number
        model = Ridge(alpha=alpha).fit(x[~out].astype(float), y[~out].astype(float))
        total += np.square(y[out] - model.predict(x[out].astype(float))).sum(0)
    return total


def r2(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    spread = np.square(y - y.mean(0, dtype=float)).sum(0)
    return np.stack([1 - refitted_errors(x, y, fold, alpha) / spread for alpha in ALPHAS])


@SHAPES
def test_leave_one_out_is_sklearns_ridge_cv(n: int, p: int) -> None:
    x, y, new = planted(n, p)
    ours = fit_ridge(x, y, alphas=ALPHAS)
    theirs = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(x.astype(float), y.astype(float))
    assert ours.alphas.tolist() == pytest.approx(list(theirs.alpha_))
    assert len(set(ours.alphas.tolist())) > 2
    expected = theirs.predict(new.astype(float))
    assert np.abs(ours.predict(new).numpy() - expected).max() < 1e-4 * expected.std()
    assert ours.scores.numpy() == pytest.approx(r2(x, y, np.arange(n)), abs=1e-4)


@SHAPES
def test_groups_that_are_left_out_equal_refits_without_them(n: int, p: int) -> None:
    x, y, _ = planted(n, p)
    groups = np.random.default_rng(1).permutation(np.r_[np.repeat(np.arange(n // 6), 3), np.arange(n - n // 6 * 3)])
    ours = fit_ridge(x, y, alphas=ALPHAS, groups=groups)
    assert ours.scores.numpy() == pytest.approx(r2(x, y, groups), abs=1e-4)
    assert list(LeaveOneGroupOut().split(x, groups=groups))  # the same folds by another name


@SHAPES
def test_k_folds_are_sklearns_grid_search(n: int, p: int) -> None:
    x, y, new = planted(n, p)
    ours = fit_ridge(x, y, alphas=ALPHAS, cv=5)
    for target in range(y.shape[1]):
        search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=KFold(5), scoring="neg_mean_squared_error")
        search.fit(x.astype(float), y[:, target].astype(float))
        assert ours.alphas[target] == pytest.approx(search.best_params_["alpha"])
        expected = search.predict(new.astype(float))
        assert np.abs(ours.predict(new).numpy()[:, target] - expected).max() < 1e-4 * max(expected.std(), 1)


def test_folds_of_groups_keep_repeats_together() -> None:
    x, y, _ = planted(60, 20)
    groups = np.arange(60) % 20  # three repeats, far apart
    ours = fit_ridge(x, y, alphas=ALPHAS, cv=4, groups=groups)
    assert ours.scores.numpy() == pytest.approx(r2(x, y, groups // 5), abs=1e-4)


def test_repeats_that_straddle_flatter_the_smallest_penalty() -> None:
    """Three noisy looks at 40 images: leaving single rows out finds what leaving images out does not."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(40), 3)
    x = (rng.standard_normal((40, 300))[image] + 0.1 * rng.standard_normal((120, 300))).astype("f4")
    y = rng.standard_normal((40, 4))[image].astype("f4")  # one target an image, unrelated to x
    by_row, by_image = (fit_ridge(x, y, alphas=ALPHAS, groups=groups) for groups in (None, image))
    assert float(by_row.scores.max()) > 0.9
    assert float(by_image.scores.max()) < 0.1


def test_the_planted_penalty_is_found() -> None:
    """With weights ~ N(0, 1) and noise variance s^2 the best penalty is s^2."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 200))
    noise = np.repeat([1.0, 10.0, 100.0], 40)
    y = x @ rng.standard_normal((200, 120)) + noise * rng.standard_normal((300, 120))
    chosen = fit_ridge(x, y, alphas=[1e-2, 1.0, 1e2, 1e4, 1e6]).alphas.numpy()
    assert (chosen == noise**2).mean() > 0.8


def test_one_penalty_is_used_without_holding_out() -> None:
    x, y, new = planted(40, 90)
    ours = fit_ridge(x, y, alphas=[30.0])
    expected = Ridge(alpha=30.0).fit(x.astype(float), y.astype(float)).predict(new.astype(float))
    assert np.abs(ours.predict(new).numpy() - expected).max() < 1e-4 * expected.std()
    assert ours.scores.isnan().all()


def test_small_parts_and_double_precision_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = planted(60, 150, 40)
    groups = np.arange(60) // 2
    whole = fit_ridge(x, y, alphas=ALPHAS, groups=groups, dtype="float64")
    monkeypatch.setattr(ridge_solver, "PANEL", 7)
    monkeypatch.setattr(ridge_solver, "SCRATCH_BYTES", 1)
    parts = fit_ridge(x, y, alphas=ALPHAS, groups=groups, dtype="float64")
    assert whole.weights.dtype == torch.float64
    assert torch.equal(whole.alphas, parts.alphas)
    assert torch.allclose(whole.weights, parts.weights, atol=1e-9)
    assert torch.allclose(whole.scores, parts.scores, atol=1e-9)


def test_the_gram_matrix_is_double_where_float32_would_show() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((80, 60)) * np.logspace(0, -4, 60)).astype("f4")
    y = (x @ np.logspace(0, 4, 60)[:, None] + 1e-3 * rng.standard_normal((80, 1))).astype("f4")
    ours = fit_ridge(x, y, alphas=[1e-9])
    assert ours.dtype == torch.float64
    expected = Ridge(alpha=1e-9, solver="svd").fit(x.astype(float), y.astype(float)).predict(x.astype(float))
    assert np.abs(ours.predict(x).numpy()[:, 0] - expected).max() < 1e-4 * expected.std()
    assert fit_ridge(x, y, alphas=[1.0]).dtype == torch.float32


def test_a_constant_target_has_no_score_and_its_mean() -> None:
    x, y, new = planted(40, 90)
    y[:, 0] = 2.5
    ours = fit_ridge(x, y, alphas=ALPHAS)
    assert ours.scores[:, 0].isnan().all()
    assert ours.scores[:, 1:].isfinite().all()
    assert ours.predict(new)[:, 0].numpy() == pytest.approx(2.5)


@pytest.mark.parametrize("broken", ["x", "y"])
def test_values_that_are_not_finite_are_refused(broken: str) -> None:
    x, y, _ = planted(20, 30)
    (x if broken == "x" else y)[3, 2] = np.nan if broken == "x" else np.inf
    with pytest.raises(InputError, match=f"values in {broken} are NaN") as error:
        fit_ridge(x, y, alphas=[1.0])
    assert error.value.code == "CHI-IN-310"


def test_more_folds_than_images_are_refused() -> None:
    x, y, _ = planted(20, 30)
    for cv, groups in ((21, None), (5, np.arange(20) // 5), ("loo", np.zeros(20, int))):
        with pytest.raises(InputError) as error:
            fit_ridge(x, y, alphas=ALPHAS, cv=cv, groups=groups)
        assert error.value.code == "CHI-IN-311"


def test_every_mistake_of_the_caller_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"x \(n, p\).*alphas must be.*cv must be.*groups must have"):
        fit_ridge(np.ones((3, 2)), np.ones((4, 1)), alphas=[0.0], cv=1, groups=np.zeros(2, int))
