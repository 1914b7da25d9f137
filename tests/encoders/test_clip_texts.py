"""Caption tokens: normalisation by hand, padding, cutting, and folders without a tokenizer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from chiasm.data.errors import WeightsError
from chiasm.encoders.clip_texts import load_text_target
from chiasm.encoders.target_spaces import SPACES
from chiasm.encoders.transformer_folder import quiet

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "projection_dim": 24,
}
SPACE = replace(SPACES["clip-text-vd"], tokens=8, width=24)
WORDS = [
    "<|startoftext|>",
    "<|endoftext|>",
    *"abcdr",
    *(f"{letter}</w>" for letter in "abcdr"),
    "ca",
    "ca</w>",
    "car</w>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "net"
    text = {
        **SIZES,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 8,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    with quiet():
        CLIPModel(
            CLIPConfig(text_config=text, vision_config={**SIZES, "image_size": 28, "patch_size": 14}, projection_dim=24)
        ).save_pretrained(path)
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (path / "merges.txt").write_text("#version: 0.2\nc a\nca r</w>\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 8}))
    return path


def test_tokens_are_projected_and_divided_by_the_norm_of_the_embedding(folder: Path) -> None:
    encoder = load_text_target(folder, space=SPACE)
    tokens = encoder(["a car", ""])
    with quiet():
        whole = CLIPModel.from_pretrained(folder)
    begin, end, a, car = 0, 1, WORDS.index("a</w>"), WORDS.index("car</w>")
    ids = torch.tensor([[begin, a, car] + [end] * 5, [begin] + [end] * 7])
    with torch.no_grad():
        hidden = whole.text_model(ids).last_hidden_state
        embedding = whole.get_text_features(ids).pooler_output
        expected = whole.text_projection(hidden) / embedding.norm(dim=-1)[:, None, None]
    assert torch.allclose(tokens, expected, atol=1e-6)
    assert torch.allclose(tokens[0, 3].norm(), torch.ones(()), atol=1e-5)  # where the embedding is read


def test_a_long_caption_is_cut(folder: Path) -> None:
    encoder = load_text_target(folder, space=SPACE)
    assert torch.equal(encoder(["a b c d a b c d a b"]), encoder(["a b c d a b"]))


def test_folders_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(WeightsError) as caught:
        load_text_target(copy)
    assert caught.value.code == "CHI-WT-072"
    (copy / "vocab.json").write_text("{")
    with pytest.raises(WeightsError) as caught:
        load_text_target(copy, space=SPACE)
    assert caught.value.code == "CHI-WT-073"
    (copy / "vocab.json").unlink()
    with pytest.raises(WeightsError) as caught:
        load_text_target(copy, space=SPACE)
    assert caught.value.code == "CHI-WT-073"
    tokens = load_text_target(copy, space=SPACE, tokenizer=folder)(["a"])
    assert torch.equal(tokens, load_text_target(folder, space=SPACE)(["a"]))
