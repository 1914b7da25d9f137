"""What every brain network checks of its input: a subject that it knows, and that subject's number of voxels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..data.errors import WeightsError, did_you_mean

CODES = {
    "CHI-WT-050": "Voxels are not as many as the network was made for.",
    "CHI-WT-051": "The network has no part for this subject.",
}


def check_voxels(voxels: Tensor, subject: str, n_voxels: Mapping[str, int]) -> None:
    """Compare voxels (..., V) with what a network was made for.

    Parameters
    ----------
    voxels : Tensor, shape (..., V)
    subject : str
    n_voxels : mapping of str to int
        Subject -> voxels that the network takes.

    Raises
    ------
    WeightsError
        ``CHI-WT-050`` another number of voxels, ``CHI-WT-051`` an unknown subject.
    """
    if subject not in n_voxels:
        raise WeightsError(
            "CHI-WT-051",
            f"the network has no part for subject '{subject[:40]}'.{did_you_mean(subject, list(n_voxels))}",
            f"It knows: {', '.join(n_voxels)}. A newcomer is trained in with `chiasm train ... --new-subject`.",
        )
    if voxels.shape[-1] != n_voxels[subject]:
        raise WeightsError(
            "CHI-WT-050",
            f"{voxels.shape[-1]} voxels of '{subject}' meet a network made for {n_voxels[subject]}.",
            "Read the betas with the region that the network was trained with (nsdgeneral for the published ones).",
        )


def only_subject(n_voxels: Mapping[str, int]) -> int:
    """Return the voxels of the one subject that a network of one subject is made for.

    Raises
    ------
    ValueError
        For none or several.
    """
    if len(n_voxels) != 1:
        raise ValueError(f"this network is made for one subject, got {len(n_voxels)}: {', '.join(n_voxels) or 'none'}")
    return next(iter(n_voxels.values()))
