"""Matrices of similarity between the rows of two batches, and how often the right row is among the most similar."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .costs import full_precision, widened


def cosine_matrix(a: Tensor, b: Tensor, *, centring: float = 0.0) -> Tensor:
    """Cosine of each row of `a`, (A, D), with each row of `b`, (B, D): shape (A, B).

    The authors' ``batchwise_cosine_similarity`` returns the transpose of this, (B, A).

    Parameters
    ----------
    a, b : Tensor, shapes (A, D) and (B, D)
    centring : float
        Share of each batch's mean that is taken off its rows after they were normalised (MindEye2's code): 0 gives cosines.
    """
    a, b = (functional.normalize(widened(x), dim=1) for x in (a, b))
    return _products(*(x - centring * x.mean(0) if centring else x for x in (a, b)))


def pearson_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each row of `a`, (A, D), with each row of `b`, (B, D): shape (A, B)."""
    a, b = (widened(x) - widened(x).mean(1, keepdim=True) for x in (a, b))
    return _products(functional.normalize(a, dim=1), functional.normalize(b, dim=1))


def top_k_accuracy(similarity: Tensor, labels: Tensor, *, k: int = 1) -> Tensor:
    """Share of rows of `similarity`, (A, B), whose label, (A,), is among the k most similar columns."""
    found = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
    return (found == labels[:, None]).any(1).float().mean()


def _products(a: Tensor, b: Tensor) -> Tensor:
    with full_precision(a.device):
        product: Tensor = torch.matmul(a, b.T)
    return product
