"""Pictures of an interview draw what was measured; tokens spread over words, seconds and bands without loss."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from chiasm.pipelines.reports import speech_figures as figures
from chiasm.pipelines.reports import speech_grids as grids
from chiasm.pipelines.reports.speech_figures import RelevanceMap, SpeechPicture, TransportPlan
from chiasm.pipelines.reports.speech_patient import ShownWord


def sound(times: np.ndarray) -> SpeechPicture:
    values = np.tile(np.arange(len(times), dtype=np.float32), (8, 1))
    return SpeechPicture(decibels=values, times_s=times, centre_hz=np.linspace(50, 8000, 8))


def test_frames_become_columns_and_what_was_not_heard_stays_empty() -> None:
    times = np.r_[np.arange(0.0, 1.0, 0.1), np.arange(2.0, 3.0, 0.1)]
    columns, (start, stop) = figures.columns_of(sound(times))
    assert columns.shape == (8, 30)
    assert (start, stop) == (pytest.approx(-0.05), pytest.approx(2.95))
    np.testing.assert_array_equal(columns[0, :10], np.arange(10))
    np.testing.assert_array_equal(columns[0, 20:], np.arange(10, 20))
    assert np.isnan(columns[:, 10:20]).all()


def test_long_recordings_are_averaged_and_order_does_not_matter() -> None:
    times = np.arange(0.0, 600.0, 0.05)
    whole = sound(times)
    columns, _ = figures.columns_of(whole)
    assert columns.shape[1] == figures.MAX_COLUMNS
    assert np.isfinite(columns).all()
    assert columns.mean() == pytest.approx(whole.decibels.mean(), rel=1e-3)
    mixed = np.random.default_rng(0).permutation(len(times))
    again = SpeechPicture(decibels=whole.decibels[:, mixed], times_s=times[mixed], centre_hz=whole.centre_hz)
    np.testing.assert_allclose(figures.columns_of(again)[0], columns, rtol=1e-5)
    assert figures.columns_of(sound(np.array([1.0])))[0].shape == (8, 1)


def test_the_picture_names_the_largest_relevance_in_seconds_and_hertz() -> None:
    grid = np.zeros((2, 3))
    grid[1, 2] = 3.0
    relevance = RelevanceMap(grid=grid, edges_s=np.array([0.0, 1.0, 2.0, 3.0]), band_edges=np.array([0.0, 4.0, 8.0]))
    drawn = figures.sound_figure(sound(np.arange(0, 3, 0.1)), relevance)
    assert "largest from 2.0 to 3.0 s and from 4,025 to 8,000 Hz" in drawn.alt
    with Image.open(io.BytesIO(drawn.png)) as picture:
        assert picture.size == drawn.size
    assert figures.sound_figure(sound(np.arange(0, 3, 0.1)), relevance).png == drawn.png
    one = RelevanceMap(grid=grid[1:], edges_s=relevance.edges_s, band_edges=np.array([0.0, 8.0]))
    assert "2.0 to 3.0 s." in figures.sound_figure(None, one).alt


@pytest.mark.parametrize(
    ("picture", "relevance", "message"),
    [
        (None, None, "needs the sound"),
        (sound(np.arange(3.0)), RelevanceMap(grid=np.ones((1, 1)), edges_s=np.arange(2.0), band_edges=np.array([0.0, 9.0])), "8 bands"),
        (None, RelevanceMap(grid=np.ones((1, 2)), edges_s=np.arange(2.0), band_edges=np.array([0.0, 8.0])), r"\(1, 1\)"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(
    picture: SpeechPicture | None, relevance: RelevanceMap | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        figures.sound_figure(picture, relevance)


def test_information_of_a_plan() -> None:
    edges = np.arange(5.0)
    assert TransportPlan(mass=np.eye(4), edges_s=edges).information_bits == pytest.approx(2.0)
    assert TransportPlan(mass=np.full((3, 4), 0.2), edges_s=edges).information_bits == pytest.approx(0.0, abs=1e-12)
    assert TransportPlan(mass=np.zeros((3, 4)), edges_s=edges).information_bits == 0.0


def test_the_most_relevant_words_are_drawn_in_the_order_they_were_said() -> None:
    words = [
        ShownWord("a", relevance=0.1),
        ShownWord("b", relevance=0.9),
        ShownWord("c"),
        ShownWord("d", relevance=0.5),
    ]
    plan = TransportPlan(mass=np.ones((4, 2)), edges_s=np.arange(3.0))
    assert figures.telling_words(words, plan, most=2) == [1, 3]
    # Without relevance, the words that choose their seconds; a word without mass is never drawn.
    silent = [ShownWord(text) for text in "abcd"]
    chosen = TransportPlan(mass=np.array([[1, 1], [0, 0], [5, 0], [3, 1.0]]), edges_s=np.arange(3.0))
    assert figures.telling_words(silent, chosen, most=2) == [2, 3]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("cookie", "cookie"),
        ("$\\frac{a", "$\\frac{a"),
        ("x" * 30, "x" * 17 + "…"),
        ("日本", "word 5"),
        ("\u202eabc", "abc"),
        ("\n\t", "word 5"),
    ],
)
def test_every_word_can_be_drawn(text: str, label: str) -> None:
    assert figures.drawable(text, 4) == label
    plan = TransportPlan(mass=np.array([[1.0, 2.0]]), edges_s=np.arange(3.0))
    assert figures.plan_figure([ShownWord(text, 0.5, 0.7, 1.0)], plan, [0]).png.startswith(b"\x89PNG")


def test_relevance_of_tokens_spreads_over_the_grid_without_loss() -> None:
    # Two pictures of 2 s with two rows of patches; half a second lies between them.
    spans = np.array([(s, s + 1, b, b + 4) for s in (0.0, 1.0, 2.5, 3.5) for b in (0, 4)], np.float32)
    relevance = np.arange(1.0, 9.0)
    edges = grids.second_edges(spans, max_bins=9)
    np.testing.assert_allclose(edges, np.linspace(0, 4.5, len(edges)))
    found = grids.relevance_map(spans, relevance, np.linspace(0, 4.5, 10), n_mels=8)
    assert found.grid.shape == (2, 9)
    assert np.nansum(found.grid) == pytest.approx(36.0)
    np.testing.assert_allclose(found.grid[1, :2], [1.0, 1.0])  # token (0 to 1 s, upper bands) has 2, over two bins
    assert np.isnan(found.grid[:, 4]).all()
    np.testing.assert_array_equal(found.band_edges, [0, 4, 8])


def test_tokens_of_fourteen_rows_give_fourteen_rows() -> None:
    rows = np.arange(14) * 100 / 14
    spans = np.stack([np.zeros(14), np.ones(14), rows, rows + 100 / 14], axis=1).astype(np.float32)
    found = grids.relevance_map(spans, np.ones(14), np.array([0.0, 1.0]), n_mels=100)
    np.testing.assert_allclose(found.grid, np.ones((14, 1)), atol=1e-12)


def test_words_sum_their_tokens_and_unread_words_are_nan() -> None:
    found = grids.sums_of_words(np.array([9.0, 1.0, 2.0, 4.0]), [-1, 0, 0, 2], 4)
    np.testing.assert_array_equal(found, [3.0, np.nan, 4.0, np.nan])


def test_a_plan_keeps_the_mass_of_its_words() -> None:
    plan = np.array([[5.0, 5.0], [1.0, 3.0], [2.0, 2.0]])
    found = grids.transport_plan(plan, [-1, 0, 0], 2, spans=np.array([[0.0, 2.0], [2.0, 4.0]]), edges_s=np.arange(5.0))
    np.testing.assert_allclose(found.mass, [[1.5, 1.5, 2.5, 2.5], [0, 0, 0, 0]])


def test_a_token_without_length_falls_into_one_bin_and_edges_need_a_length() -> None:
    np.testing.assert_array_equal(
        grids.shares_of_bins(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.arange(3.0)), [[0, 1], [0, 1]]
    )
    with pytest.raises(ValueError, match="length"):
        grids.second_edges(np.array([[1.0, 1.0]]))
    assert len(grids.second_edges(np.array([[0.0, 0.01], [0.0, 100.0]]))) == grids.MAX_BINS + 1
