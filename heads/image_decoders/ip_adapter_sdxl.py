"""IP-Adapter for SDXL: one image embedding to a 1024 x 1024 picture (Ye et al., 2023), the embedding handed in directly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...data.errors import WeightsError
from .diffusers_folder import check_size, load_scheduler, quiet
from .interface import check_request, to_pixels
from .latent_sampling import Noise, batches, begin, decoded, first_step, run_schedule, start_latents
from .sdxl_parts import SdxlParts, load_sdxl

CODES: dict[str, str] = {
    "CHI-WT-082": "an image adapter's file is missing, damaged or of another kind than the plain IP-Adapter",
}

ADAPTERS = {
    "openclip-bigg-14-global": ("ip-adapter_sdxl.safetensors", 1280),
    "clip-vit-h14-global": ("ip-adapter_sdxl_vit-h.safetensors", 1024),
}
"""Target -> the published file's name and the embedding's length."""


@dataclass(frozen=True, kw_only=True)
class IpAdapterConfig:
    """How it samples.

    Parameters
    ----------
    target : str
        Of `ADAPTERS`.
    width : int
        Length of the embedding; 0 for the target's published one.
    steps : int
        Of Euler's method.
    guidance : float
        1 is none.
    scale : float
        Weight of the image's cross-attention.
    prompt : str
        What the text's cross-attention sees.
    pixels : int
        Side of a picture.
    batch : int
        Pictures at once.
    """

    target: Literal["openclip-bigg-14-global", "clip-vit-h14-global"] = "openclip-bigg-14-global"
    width: int = 0
    steps: int = 30
    guidance: float = 5.0
    scale: float = 1.0
    prompt: str = ""
    pixels: int = 1024
    batch: int = 1

    def __post_init__(self) -> None:
        """Refuse impossible settings; ValueError."""
        if self.target not in ADAPTERS or self.steps < 1 or self.batch < 1 or self.pixels % 8:
            raise ValueError(
                f"target one of {', '.join(ADAPTERS)}, steps and batch from 1, pixels in eights; got {self}"
            )

    @property
    def length(self) -> int:
        """Length of the embedding."""
        return self.width or ADAPTERS[self.target][1]


class IpAdapterSdxl:
    """An `ImageDecoder`.

    Parameters
    ----------
    parts : SdxlParts
        With the adapter in its U-Net.
    scheduler : diffusers' scheduler
    config : IpAdapterConfig
    """

    def __init__(self, parts: SdxlParts, scheduler: Any, config: IpAdapterConfig) -> None:
        self.parts, self.scheduler, self.config = parts, scheduler, config
        self.caption = parts.captions([config.prompt])

    @property
    def target(self) -> str:
        """Target space."""
        return self.config.target

    @property
    def resolution(self) -> int:
        """Side of a picture."""
        return self.config.pixels

    @property
    def settings(self) -> Mapping[str, Any]:
        """For reports."""
        return {"kind": "ip-adapter-sdxl", "scheduler": "Euler", **asdict(self.config)}

    @torch.no_grad()
    def decode(
        self,
        tokens: Tensor,
        *,
        text: Tensor | None = None,
        start: Tensor | None = None,
        start_strength: float = 0.85,
        seed: int,
        indices: Sequence[int],
    ) -> Tensor:
        """Decode embeddings (B, 1, d) that keep their norm; caption tokens are not looked at. See `ImageDecoder`."""
        config = self.config
        check_request(tokens, (1, config.length), start=start, start_strength=start_strength, indices=indices)
        parts = [torch.zeros((0, config.pixels, config.pixels, 3), dtype=torch.uint8)]
        for part in batches(len(tokens), config.batch):
            noise = Noise(seed=seed, indices=indices[part])
            latents = self._latents(tokens[part], None if start is None else start[part], start_strength, noise)
            parts.append(to_pixels(decoded(self.parts.vae, latents) / 2 + 0.5))
        return torch.cat(parts)

    def _latents(self, embeddings: Tensor, start: Tensor | None, strength: float, noise: Noise) -> Tensor:
        unet, config = self.parts.unet, self.config
        weight = next(unet.parameters())
        side = config.pixels // self.parts.shrunk
        drawn = noise.draw((unet.config.in_channels, side, side), "latents", weight.device)
        from_start = None if start is None else start_latents(self.parts.vae, start, config.pixels, noise)
        skip = first_step(config.steps, strength)
        latents, times = begin(self.scheduler, drawn, steps=config.steps, start=from_start, skip=skip)
        captions = self.caption.repeated(len(drawn))
        if config.guidance != 1:
            captions = captions.after(captions.zeros())
            embeddings = torch.cat([torch.zeros_like(embeddings), embeddings])
        given_too = self.parts.conditions(
            captions, (config.pixels, config.pixels, 0, 0) + (config.pixels,) * 2, embeddings
        )

        def predict(given: Tensor, time: Tensor) -> Tensor:
            answer: Tensor = unet(given, time, **given_too).sample
            return answer

        return run_schedule(
            self.scheduler, predict, latents=latents, times=times, guidance=config.guidance, dtype=weight.dtype
        )


def load_ip_adapter_sdxl(
    folder: Path,
    config: IpAdapterConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> IpAdapterSdxl:
    """Load SDXL and, from ``ip_adapter`` in its folder, the adapter's published file.

    Raises
    ------
    WeightsError
        ``CHI-WT-077`` to ``CHI-WT-080``, ``CHI-WT-082``.
    """
    from diffusers import EulerDiscreteScheduler

    config = config or IpAdapterConfig()
    parts = load_sdxl(folder, device=device, dtype=dtype)
    state = _adapter_state(folder, ADAPTERS[config.target][0])
    projection = state["image_proj"]["proj.weight"]
    check_size(folder, "the length of the adapter's embedding", projection.shape[1], config.length)
    _adapt(parts.unet, state, config.scale, folder.name)
    with quiet():
        parts.unet.to(device=device, dtype=dtype)  # the adapter's own layers were made in float32 on the CPU
    return IpAdapterSdxl(parts, load_scheduler(folder, EulerDiscreteScheduler), config)


def _adapter_state(folder: Path, name: str) -> dict[str, dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = folder / "ip_adapter" / name
    try:
        tensors = load_file(place)
    except (SafetensorError, OSError) as error:
        raise _no_adapter(folder.name, f"'ip_adapter/{name}' cannot be read ({type(error).__name__})") from error
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        if part in state:
            state[part][rest] = value
    if "proj.weight" not in state["image_proj"] or not state["ip_adapter"]:
        raise _no_adapter(folder.name, f"'ip_adapter/{name}' is no plain IP-Adapter")
    return state


def _adapt(unet: Any, state: dict[str, dict[str, Tensor]], scale: float, name: str) -> None:
    """Put the adapter's attention into the U-Net, as diffusers' loader does."""
    from diffusers.loaders import IPAdapterMixin

    class Holder(IPAdapterMixin):  # type: ignore[misc]
        """What the loader needs of a pipeline: no image encoder, which it would look for."""

        def __init__(self) -> None:
            self.unet = unet

    holder = Holder()
    with quiet():
        try:
            holder.load_ip_adapter([state], subfolder="", weight_name="", low_cpu_mem_usage=False)
        except (RuntimeError, KeyError, ValueError) as error:
            raise _no_adapter(name, f"the adapter does not fit the U-Net ({type(error).__name__})") from error
        holder.set_ip_adapter_scale(scale)
    unet.eval().requires_grad_(False)


def _no_adapter(name: str, why: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-082",
        f"{why}.",
        f"Put {' or '.join(file for file, _ in ADAPTERS.values())} into the folder 'ip_adapter' beside SDXL's.",
        file=name,
    )
