"""The predicted activations of a network, against sums that are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chiasm.pipelines.engine.footprint import WORKSPACE, forward_bytes


class _Chain(nn.Module):
    """Ten additions, each result replacing the one before: three tensors are alive at most (input, old, new)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x + 1
        for _ in range(9):
            y = y + 1
        return y


class _Hoarder(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = [x + i for i in range(10)]
        return torch.stack(kept).sum(0)


class _Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


MB = 1 << 20
SHAPE = (1, 1, 64, 64, 64)  # 1 MiB in float32


def test_what_is_freed_is_not_counted() -> None:
    assert forward_bytes(_Chain().to("meta"), SHAPE) == int(WORKSPACE * 3 * MB)


def test_what_is_kept_is_counted() -> None:
    # the input, ten results, their stack of ten, and the sum
    assert forward_bytes(_Hoarder().to("meta"), SHAPE) == int(WORKSPACE * 22 * MB)


def test_fused_attention_never_holds_its_matrix() -> None:
    n = 4096
    assert forward_bytes(_Attention().to("meta"), (1, 1, n, 16)) < n * n * 4 / 10
