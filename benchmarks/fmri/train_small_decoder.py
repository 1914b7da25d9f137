"""Train `chiasm/small-image-tokens` and `chiasm/small-image-decoder` on one core: the embedded default of images from fMRI.

    python benchmarks/fmri/train_small_decoder.py OUT --emoji PACKAGE [--fashion FILE] [--minutes-tokens 13] [--minutes-decoder 28]

PACKAGE is the unpacked npm package emoji-datasource-google 16.0.0, FILE Fashion-MNIST's train-images-idx3-ubyte.gz. OUT gets
the two weights folders (config.json, model.safetensors) and training.jsonl; `--only decoder` takes the tokens that are in OUT. The
schedule follows the clock: another machine makes more or fewer steps of the same minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_pictures import Pictures, gather
from torch import nn
from train_small_tokens import fit, train_tokens
from train_small_unet import train_unet

from chiasm.encoders.small_image_tokens import SmallImageTokens
from chiasm.heads.image_decoders.small_diffusion import KIND
from chiasm.heads.image_decoders.small_unet import SmallUNet

SEED = 20261121
FASHION = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"


def save(model: nn.Module, folder: Path, kind: str, training: Mapping[str, Any], **more: Any) -> None:
    """Write a weights folder: tensors as float16, and what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for its owner only
    about = {
        "kind": kind,
        "channels": ["red", "green", "blue"],
        "parameters": asdict(model.config),  # type: ignore[call-overload]
        **more,
        "training": {"seed": SEED, "device": "cpu", "precision": "bfloat16", **training},
        "training_data": "self-supervised",
        "statement": "features",
        "licence": "Apache-2.0",
        "source": "benchmarks/fmri/train_small_decoder.py",
        "sha256": {"model.safetensors": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()},
    }
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")


def tokens_stage(pictures: Pictures, out: Path, minutes: float, batch: int) -> None:
    """Train the tokens and save them, with earlier states on the way."""
    folder = out / "small-image-tokens"

    def checkpoint(model: SmallImageTokens) -> None:
        fit(model, pictures, SEED)
        save(model, folder, "small-image-tokens", {"unfinished": True})

    model, steps = train_tokens(
        pictures, minutes=minutes, batch=batch, seed=SEED, log=out / "training.jsonl", checkpoint=checkpoint
    )
    about = {"steps": steps, "batch": batch, "minutes": minutes}
    save(model, folder, "small-image-tokens", about, target="small-16x64")


def decoder_stage(pictures: Pictures, out: Path, minutes: float, batch: int) -> None:
    """Train the decoder on the tokens in `out` and save it, with earlier states on the way."""
    encoder = SmallImageTokens.load(out / "small-image-tokens")
    folder = out / "small-image-decoder"
    of = hashlib.sha256((out / "small-image-tokens" / "model.safetensors").read_bytes()).hexdigest()
    target = {"target": "small-16x64", "tokens_sha256": of}

    def checkpoint(network: SmallUNet) -> None:
        save(network, folder, KIND, {"unfinished": True}, **target)

    network, steps = train_unet(
        pictures, encoder, minutes=minutes, batch=batch, seed=SEED, log=out / "training.jsonl", checkpoint=checkpoint
    )
    save(network, folder, KIND, {"steps": steps, "batch": batch, "minutes": minutes}, **target)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--fashion", type=Path, default=Path(FASHION))
    parser.add_argument("--minutes-tokens", type=float, default=13.0)
    parser.add_argument("--minutes-decoder", type=float, default=28.0)
    parser.add_argument("--only", choices=["tokens", "decoder"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = gather(options.fashion, options.emoji, seed=SEED)
    if options.only != "decoder":
        tokens_stage(pictures, options.out, options.minutes_tokens, batch=128)
    if options.only != "tokens":
        decoder_stage(pictures, options.out, options.minutes_decoder, batch=64)


if __name__ == "__main__":
    main()
