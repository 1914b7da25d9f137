"""The list of public checkpoints in ``configs/weights.yaml``."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ...data.errors import WeightsError, did_you_mean

CODES = {
    "CHI-WT-014": "No published checkpoint of that name is on the list.",
}


class ManifestEntry(BaseModel):
    """One public checkpoint: where it is from, its terms, and the config of the folder that it becomes.

    ``shipped`` is inside this package, ``packages`` are the Python packages that bring it, ``hub:OWNER/NAME`` is looked for in the Hugging
    Face cache of the machine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    kind: Literal[
        "brain-mask",
        "unet3d",
        "swin-unetr",
        "swin-unetr-encoder",
        "monai",
        "silero-vad",
        "text-transformer",
        "image-transformer",
        "two-stream",
        "whisper",
        "whisper-encoder",
        "mindeye",
        "mindeye-low-level",
        "mindeye2",
        "mindbridge",
        "small-image-tokens",
        "small-image-decoder",
        "sdxl-unclip",
        "image-judge",
    ]
    parameters: dict[str, Any] = Field(default_factory=dict)
    channels: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    training_data: Literal["real", "synthetic", "self-supervised"]
    statement: Literal["anatomy", "person", "features"]
    format: str
    licence: str
    page: str = ""
    source: str = ""
    files: dict[str, str] = Field(default_factory=dict)
    sha256: dict[str, str | None] = Field(default_factory=dict)
    half: bool = False
    shipped: bool = False
    packages: tuple[str, ...] = ()
    note: str = ""


@lru_cache(maxsize=1)
def load_manifest() -> dict[str, ManifestEntry]:
    """Return name -> entry, in the order of the file."""
    text = resources.files("chiasm.configs").joinpath("weights.yaml").read_text("utf-8")
    return {name: ManifestEntry(**entry) for name, entry in yaml.safe_load(text)["weights"].items()}


def entry_of(name: str) -> ManifestEntry:
    """Return the entry of a name, with or without ``chiasm/`` before it.

    Raises
    ------
    WeightsError
        ``CHI-WT-014``.
    """
    manifest = load_manifest()
    entry = manifest.get(name) or manifest.get(f"chiasm/{name}")
    if entry is None:
        raise WeightsError(
            "CHI-WT-014",
            f"no published checkpoint is called '{name[:120]}'.{did_you_mean(name, list(manifest))}",
            f"Known: {', '.join(manifest)}. For one of your own give --kind and --parameters.",
        )
    return entry
