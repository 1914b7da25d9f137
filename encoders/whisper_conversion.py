"""Whisper as CTranslate2 (faster-whisper) packs it, turned into a folder of transformers; the encoder half only.

The container is little-endian: version, name and revision of the network's description, then for each tensor its name,
rank, shape, type and bytes. Queries, keys and values of a layer are one matrix; keys have a bias of zero, which
transformers leaves out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.errors import WeightsError
from .transformer_folder import save_model

CODES: dict[str, str] = {"CHI-WT-037": "a CTranslate2 file is damaged, cut, quantised, or not a Whisper model"}

Arrays = dict[str, NDArray[Any]]
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
FLOATS = (np.dtype(np.float32), np.dtype(np.float16))
MAX_BYTES = 8 << 30


def whisper_folder_from_ctranslate2(parts: Sequence[Path], out: Path) -> None:
    """Write a folder that `whisper_encoder.load_whisper_encoder` reads.

    Parameters
    ----------
    parts : sequence of Path
        ``model.bin``, or the pieces that it was cut into, in order.
    out : Path
        The new folder: config.json and model.safetensors, float32.

    Raises
    ------
    WeightsError
        ``CHI-WT-037``.
    """
    from transformers import WhisperConfig, WhisperModel

    if sum(part.stat().st_size for part in parts) > MAX_BYTES:
        raise _unusable("it is larger than any Whisper model")
    arrays = read_ctranslate2(b"".join(part.read_bytes() for part in parts))
    try:
        tensors = _encoder_tensors(arrays)
        n_heads = int(arrays.get("encoder/num_heads", arrays["decoder/num_heads"]))
    except KeyError as error:
        raise _unusable(f"no tensor {error.args[0]}") from None
    width, n_bands, _ = tensors["encoder.conv1.weight"].shape
    n_layers = sum(name.endswith("fc1.weight") for name in tensors)
    config = WhisperConfig(
        num_mel_bins=n_bands,
        d_model=width,
        encoder_layers=n_layers,
        encoder_attention_heads=n_heads,
        encoder_ffn_dim=len(tensors[f"encoder.layers.{n_layers - 1}.fc1.bias"]),
        decoder_layers=0,
        decoder_attention_heads=n_heads,
        # transformers knows no Whisper without a decoder: an empty one with a vocabulary of two.
        vocab_size=2,
        max_target_positions=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
    )
    model = WhisperModel(config)
    # Positions are sines that both sides compute; some files hold them, some do not.
    tensors = {**model.encoder.state_dict(prefix="encoder."), **tensors}
    try:
        model.encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in tensors.items()})
    except RuntimeError:
        raise _unusable("its tensors do not fit together") from None
    save_model(model, out)


def read_ctranslate2(data: bytes) -> Arrays:
    """Read every tensor of a ``model.bin``; ``CHI-WT-037`` for one that is damaged or cut."""
    view, at = memoryview(data), 0

    def take(n: int) -> memoryview:
        nonlocal at
        if n < 0 or at + n > len(view):
            raise _unusable("it ends too early")
        at += n
        return view[at - n : at]

    def number(code: str) -> int:
        return int(struct.unpack(f"<{code}", take(struct.calcsize(code)))[0])

    def text() -> str:
        return bytes(take(number("H"))).rstrip(b"\0").decode("utf-8", "replace")

    number("I")
    if text() != "WhisperSpec":
        raise _unusable("it does not call itself WhisperSpec")
    number("I")
    arrays: Arrays = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, n_bytes = TYPES.get(number("B")), number("I")
        raw = take(n_bytes)
        if kind is None or n_bytes != np.dtype(kind).itemsize * int(np.prod(shape, dtype=np.int64)):
            raise _unusable("a tensor's size is not that of its shape")
        arrays[name] = np.frombuffer(raw, dtype=kind).reshape(shape)
    return arrays


def _encoder_tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return the encoder's tensors under transformers' names."""
    out: dict[str, Tensor] = {}

    def tensor(name: str) -> Tensor:
        if arrays[name].dtype not in FLOATS:
            raise _unusable("it is quantised")
        return torch.from_numpy(arrays[name].astype(np.float32))

    def copy(target: str, source: str, *, weight: str = "weight", bias: str = "bias") -> None:
        out[f"{target}.weight"], out[f"{target}.bias"] = tensor(f"{source}/{weight}"), tensor(f"{source}/{bias}")

    def norm(target: str, source: str) -> None:
        copy(target, source, weight="gamma", bias="beta")

    for name in ("conv1", "conv2"):
        copy(f"encoder.{name}", f"encoder/{name}")
    if "encoder/position_encodings/encodings" in arrays:
        out["encoder.embed_positions.weight"] = tensor("encoder/position_encodings/encodings")
    norm("encoder.layer_norm", "encoder/layer_norm")
    n_layers = 0
    while f"encoder/layer_{n_layers}/ffn/linear_0/weight" in arrays:
        target, source = f"encoder.layers.{n_layers}", f"encoder/layer_{n_layers}"
        norm(f"{target}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
        weights = tensor(f"{source}/self_attention/linear_0/weight").chunk(3)
        biases = tensor(f"{source}/self_attention/linear_0/bias").chunk(3)
        for which, weight, bias in zip("qkv", weights, biases, strict=True):
            out[f"{target}.self_attn.{which}_proj.weight"] = weight
            if which != "k":
                out[f"{target}.self_attn.{which}_proj.bias"] = bias
        copy(f"{target}.self_attn.out_proj", f"{source}/self_attention/linear_1")
        norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")
        copy(f"{target}.fc1", f"{source}/ffn/linear_0")
        copy(f"{target}.fc2", f"{source}/ffn/linear_1")
        n_layers += 1
    if not n_layers:
        raise _unusable("it has no encoder layer")
    return out


def _unusable(why: str) -> WeightsError:
    return WeightsError(
        "CHI-WT-037", f"the CTranslate2 file cannot be used: {why}.", "Give an unquantised Whisper model.bin."
    )
