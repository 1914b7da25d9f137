"""MixCo: contrastive learning on voxels mixed with those of another trial.

Kim et al. 2020 (MixCo); in the form of MindEye (Scotti et al. 2023, section 3.2): v_i <- b_i v_i + (1 - b_i) v_perm(i) for a
random half of the rows, with b ~ Beta(0.15, 0.15).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class MixDraw:
    """Which rows of a batch are mixed, with which partner, and how much.

    Parameters
    ----------
    beta : Tensor, shape (B,)
        Share that a row keeps; 1 where it is not mixed.
    selected : Tensor of bool, shape (B,)
    permutation : Tensor of int64, shape (B,)
        Partner of each row, a position in the whole batch.
    """

    beta: Tensor
    selected: Tensor
    permutation: Tensor

    def mix(self, voxels: Tensor) -> Tensor:
        """Return the mixed batch; `voxels`, shape (B, ...), stays as it is."""
        return mixco(voxels, self.beta, self.selected, self.permutation)

    def of(self, rows: Tensor) -> MixDraw:
        """Return the draw of some rows, with partners counted among them.

        For batches of several subjects, whose voxels stand in tensors of their own.

        Parameters
        ----------
        rows : Tensor of int64, shape (R,)
            Positions in the batch.

        Raises
        ------
        ValueError
            Where a partner is not among the rows.
        """
        place = torch.full_like(self.permutation, -1)
        place[rows] = torch.arange(len(rows), device=place.device, dtype=place.dtype)
        partners = place[self.permutation[rows]]
        if bool((partners < 0).any()):
            raise ValueError("a partner is not among the rows: draw with groups, one a subject")
        return MixDraw(beta=self.beta[rows], selected=self.selected[rows], permutation=partners)


def draw_mixco(
    batch: int, generator: torch.Generator, *, alpha: float = 0.15, share: float = 0.5, groups: Tensor | None = None
) -> MixDraw:
    """Draw what `mixco` mixes.

    Parameters
    ----------
    batch : int
    generator : torch.Generator
        On the CPU, so that a seed means the same draw on every device; the draw lies on the CPU too.
    alpha : float
        Both parameters of the Beta distribution.
    share : float
        Probability that a row is mixed.
    groups : Tensor of int64, shape (B,), optional
        Only rows of one group (subject) are mixed with each other. MindEye2's script counts partners within each subject's own part
        of the batch and uses them as positions in the whole batch; here they are positions in the whole batch.
    """
    from scipy.special import betaincinv

    if groups is not None and groups.shape != (batch,):
        raise ValueError(f"groups must have shape {(batch,)}, got {tuple(groups.shape)}")
    if not alpha > 0 or not 0 <= share <= 1:
        raise ValueError(f"alpha must be > 0 and share in [0, 1], got {alpha} and {share}")
    # torch's Beta sampler takes no generator; the inverse distribution function needs one number a row
    uniform = torch.rand(batch, generator=generator, dtype=torch.float64)
    drawn = torch.from_numpy(betaincinv(alpha, alpha, uniform.numpy())).float()
    selected = torch.rand(batch, generator=generator) < share
    if groups is None:
        permutation = torch.randperm(batch, generator=generator)
    else:
        permutation = torch.empty(batch, dtype=torch.int64)
        groups = groups.cpu()
        for group in sorted(set(groups.tolist())):
            rows = (groups == group).nonzero()[:, 0]
            permutation[rows] = rows[torch.randperm(len(rows), generator=generator)]
    return MixDraw(beta=torch.where(selected, drawn, 1.0), selected=selected, permutation=permutation)


def mixco(voxels: Tensor, beta: Tensor, selected: Tensor, permutation: Tensor) -> Tensor:
    """Mix rows with their partners' unmixed rows.

    Parameters
    ----------
    voxels : Tensor, shape (B, ...)
        Not changed (the published function overwrites it).
    beta : Tensor, shape (B,)
    selected : Tensor of bool, shape (B,)
    permutation : Tensor of int64, shape (B,)

    Returns
    -------
    Tensor, shape (B, ...)
        Unselected rows exactly as they were.
    """
    column = (len(voxels), *(1,) * (voxels.dim() - 1))
    device = voxels.device
    weight = beta.to(device, voxels.dtype).view(column)
    mixed = weight * voxels + (1 - weight) * voxels[permutation.to(device)]
    return torch.where(selected.to(device).view(column), mixed, voxels)


def mixco_targets(beta: Tensor, permutation: Tensor, *, published: bool = False) -> Tensor:
    """Which target belongs to which mixed row, and how much.

    Parameters
    ----------
    beta : Tensor, shape (B,)
        1 where a row is not mixed.
    permutation : Tensor of int64, shape (B,)
    published : bool
        Where a row is its own partner, 1 - beta overwrites its own entry, as in MindEye's code; otherwise the two shares are
        added, which gives 1: mixing a row with itself changes nothing.

    Returns
    -------
    Tensor, shape (B, B)
        Rows sum to 1 (save for fixed points as published); columns need not.
    """
    targets = torch.diag(beta)
    rows, columns = torch.arange(len(beta), device=beta.device), permutation.to(beta.device)
    return targets.index_put((rows, columns), 1 - beta, accumulate=not published)
