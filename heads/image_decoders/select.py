"""Which of several candidates of a picture is kept, as MindEye does it: by the brain's own tokens, never by the true picture.

Scotti et al., NeurIPS 2023, section 3.4. MindBridge's public script compares with the true picture instead; that is no
choice that could be made outside an experiment, and nothing here takes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True, eq=False, kw_only=True)
class Selection:
    """What was chosen.

    Parameters
    ----------
    chosen : Tensor, shape (B,)
        Number of the candidate; the first of equal ones.
    cosines : Tensor, shape (B, K)
        Of every candidate's re-encoded tokens with the brain's.
    images : Tensor, shape (B, S, S, 3), uint8
        The chosen ones.
    """

    chosen: Tensor
    cosines: Tensor
    images: Tensor


@torch.no_grad()
def select_by_brain(candidates: Tensor, projected: Tensor, encode: Callable[[Tensor], Tensor]) -> Selection:
    """Keep the candidate whose tokens have the highest cosine with the brain's projected tokens, both flattened.

    Parameters
    ----------
    candidates : Tensor, shape (B, K, S, S, 3), uint8
    projected : Tensor, shape (B, N, d)
        What the brain network gives for retrieval.
    encode : callable
        Encoder of the target space: uint8 (n, S, S, 3) -> (n, N, d).

    Raises
    ------
    ValueError
        For shapes that do not go together.
    """
    if candidates.ndim != 5 or len(candidates) != len(projected) or candidates.shape[1] == 0:
        raise ValueError(
            f"candidates (B, K, S, S, 3) and projected (B, N, d), got {tuple(candidates.shape)} and {tuple(projected.shape)}"
        )
    wanted = normalize(projected.float().flatten(1), dim=1).cpu()
    columns = []
    for pictures in candidates.unbind(1):
        tokens = encode(pictures).float().flatten(1).cpu()
        if tokens.shape != wanted.shape:
            raise ValueError(f"re-encoded tokens have {tokens.shape[1]} numbers, the brain's {wanted.shape[1]}")
        columns.append((normalize(tokens, dim=1) * wanted).sum(1))
    cosines = torch.stack(columns, dim=1)
    # A black candidate may have no direction at all; it must not win.
    chosen = cosines.nan_to_num(nan=-2.0).argmax(1)
    return Selection(
        chosen=chosen, cosines=cosines, images=candidates[torch.arange(len(chosen)), chosen.to(candidates.device)]
    )


def candidate_seed(seed: int, candidate: int) -> int:
    """Return the seed of a picture's further candidates; the first one's is `seed` itself."""
    if candidate == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{candidate}".encode()).digest()[:4], "big")
