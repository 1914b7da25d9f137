"""SDXL unCLIP's published checkpoint (names of Stability AI's generative-models) to a folder in diffusers' form.

Sizes are those of the authors' unclip6.yaml; names are mapped by diffusers' own functions for single files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...data.errors import WeightsError
from .diffusers_folder import quiet

CODES: dict[str, str] = {
    "CHI-WT-081": "a checkpoint is not that of SDXL unCLIP: tensors are missing, left over or of another shape",
}


@dataclass(frozen=True, kw_only=True)
class UnclipSizes:
    """Sizes of U-Net and auto-encoder, named as in the authors' configuration.

    Parameters
    ----------
    model_channels, num_res_blocks, num_head_channels, context_dim, adm_in_channels : int
    channel_mult, transformer_depth : tuple of int
        One a resolution; the first depth is not used.
    attention_resolutions : tuple of int
    vae_channels : int
    vae_mult : tuple of int
    latent : int
        Side of the latents.
    scale_factor : float
        Of the latents.
    norm_groups : int
    """

    model_channels: int = 320
    num_res_blocks: int = 2
    num_head_channels: int = 64
    context_dim: int = 1664
    adm_in_channels: int = 1024
    channel_mult: tuple[int, ...] = (1, 2, 4)
    transformer_depth: tuple[int, ...] = (1, 2, 10)
    attention_resolutions: tuple[int, ...] = (4, 2)
    vae_channels: int = 128
    vae_mult: tuple[int, ...] = (1, 2, 4, 4)
    latent: int = 96
    scale_factor: float = 0.13025
    norm_groups: int = 32

    def original(self) -> dict[str, Any]:
        """Return what diffusers' functions take: the part of the YAML file that they read."""
        network = {
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": self.model_channels,
            "channel_mult": list(self.channel_mult),
            "num_res_blocks": self.num_res_blocks,
            "attention_resolutions": list(self.attention_resolutions),
            "transformer_depth": list(self.transformer_depth),
            "num_head_channels": self.num_head_channels,
            "use_linear_in_transformer": True,
            "context_dim": self.context_dim,
            "num_classes": "sequential",
            "adm_in_channels": self.adm_in_channels,
        }
        auto_encoder = {
            "in_channels": 3,
            "out_ch": 3,
            "ch": self.vae_channels,
            "ch_mult": list(self.vae_mult),
            "num_res_blocks": 2,
            "z_channels": 4,
        }
        first_stage = {"params": {"ddconfig": auto_encoder}}
        parts = {"network_config": {"params": network}, "first_stage_config": first_stage}
        return {"model": {"params": {**parts, "scale_factor": self.scale_factor}}}


def convert_sdxl_unclip(state: Mapping[str, Tensor], folder: Path, *, sizes: UnclipSizes | None = None) -> None:
    """Write ``unet`` and ``vae`` of a checkpoint into a folder that `sdxl_unclip.load_sdxl_unclip` reads.

    Parameters
    ----------
    state : mapping of str to Tensor
        With ``model.diffusion_model.`` and ``first_stage_model.`` in front of the names; others (the image encoder) are
        left out.
    folder : Path
    sizes : UnclipSizes, optional
        The published ones where none are given.

    Raises
    ------
    WeightsError
        ``CHI-WT-081``.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as names

    sizes = sizes or UnclipSizes()
    original = sizes.original()
    tensors = dict(state)
    with quiet():
        about = names.create_unet_diffusers_config_from_ldm(original, tensors)
        about |= {"sample_size": sizes.latent, "norm_num_groups": sizes.norm_groups}
        vae_about = names.create_vae_diffusers_config_from_ldm(original, tensors)
        vae_about |= {"sample_size": 8 * sizes.latent, "norm_num_groups": sizes.norm_groups, "force_upcast": True}
        try:
            unet_state = names.convert_ldm_unet_checkpoint(tensors, about)
            vae_state = names.convert_ldm_vae_checkpoint(tensors, vae_about)
        except (KeyError, IndexError, AttributeError) as error:
            raise _other(f"a tensor is missing ({type(error).__name__})") from error
        unet, vae = UNet2DConditionModel.from_config(about), AutoencoderKL.from_config(vae_about)
        _fill(unet, unet_state, "the U-Net")
        _fill(vae, vae_state, "the auto-encoder")
        unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")


def _fill(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    wanted = model.state_dict()
    missing, left = len(wanted.keys() - state.keys()), len(state.keys() - wanted.keys())
    other = [name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape]
    if missing or left or other:
        first = f", '{min(other)}' first" if other else ""
        raise _other(f"{what}: {missing} tensors missing, {left} left over, {len(other)} of another shape{first}")
    model.load_state_dict(dict(state))


def _other(why: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-081",
        f"the checkpoint is not that of SDXL unCLIP with the published sizes: {why}.",
        "Give unclip6_epoch0_step110000.ckpt of the MindEye2 data set, or name the sizes of yours.",
    )
