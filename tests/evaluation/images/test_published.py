"""The published table: values as the papers print them, generations of the split kept apart."""

from __future__ import annotations

import pytest

from chiasm.pipelines.evaluation.images.feature_metrics import FEATURE_METRICS
from chiasm.pipelines.evaluation.images.published import SPLITS, published_results


def test_rows_stand_under_their_split() -> None:
    rows = published_results()
    assert len(rows) == 18
    assert {row.split for row in rows} == set(SPLITS)
    mindeye2 = next(row for row in published_results("40") if row.method == "MindEye2")
    assert mindeye2.scores["CLIP"] == pytest.approx(0.93)
    assert mindeye2.scores["PixCorr"] == pytest.approx(0.322)
    assert mindeye2.scores["image_retrieval"] == pytest.approx(0.988)
    mindbridge = next(row for row in published_results("37") if row.method.startswith("MindBridge"))
    assert mindbridge.scores["SwAV"] == pytest.approx(0.418)
    assert "image_retrieval" not in mindbridge.scores
    with pytest.raises(ValueError, match="split must be one of"):
        published_results("41")


def test_every_row_has_the_metrics_of_a_scorecard_in_their_ranges() -> None:
    names = {"PixCorr", "SSIM", *(metric.name for metric in FEATURE_METRICS if metric.published)}
    for row in published_results():
        assert names <= set(row.scores), row.method
        assert all(0 < value < 1 for value in row.scores.values()), row.method
