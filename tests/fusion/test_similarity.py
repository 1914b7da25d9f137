"""Similarity matrices by hand."""

from __future__ import annotations

import pytest
import torch

from chiasm.fusion.similarity import cosine_matrix, pearson_matrix, top_k_accuracy


def test_similarity_matrices_have_a_row_for_each_row_of_the_first() -> None:
    a, b = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [5.0, 0.0], [-1.0, 0.0]])
    assert torch.allclose(cosine_matrix(a, b), torch.tensor([[0.0, 1.0, -1.0], [0.8, 0.6, -0.6]]))
    assert torch.allclose(pearson_matrix(a + 7, b), torch.tensor([[-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]]), atol=1e-5)


def test_the_right_column_counts_where_it_is_among_the_k_most_similar() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.1, 0.9, 0.5]])
    labels = torch.tensor([0, 1, 2])
    assert [float(top_k_accuracy(similarity, labels, k=k)) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
