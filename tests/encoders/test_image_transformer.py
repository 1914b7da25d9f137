"""Image encoders: where a patch's token stands, what is left of special tokens, and folders that are not usable."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chiasm.data.errors import RecipeError, WeightsError
from chiasm.encoders.image_transformer import KINDS, ImageTransformer, load_image_transformer, reduce_tokens
from chiasm.encoders.transformer_folder import EncoderOutput, read_config
from chiasm.pipelines.engine.weights import find

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8,
}  # fmt: skip


def config(kind: str = "deit") -> dict:
    spectrogram = {"num_mel_bins": 24, "max_length": 40, "frequency_stride": 8, "time_stride": 8}
    image = {"image_size": [24, 40], "num_channels": 3}
    return {"model_type": kind, **SIZES, **(spectrogram if "spectrogram" in kind else image)}


def encoder(kind: str = "deit", attention: str = "sdpa") -> ImageTransformer:
    torch.manual_seed(0)
    return ImageTransformer.from_config(config(kind), attention=attention)


def pixels(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 24, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encoder().save(tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.parametrize("kind", KINDS)
def test_token_of_a_patch(kind: str) -> None:
    net = encoder(kind)
    assert net.grid == (3, 5)
    assert net.width == 32
    blank = torch.zeros(1, 3, 24, 40)
    for i, j in ((0, 0), (0, 4), (2, 1)):
        lit = blank.clone()
        lit[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = 1
        with torch.no_grad():  # after the embedding only this patch's token differs
            moved = net(lit, all_layers=True).hidden[0] - net(blank, all_layers=True).hidden[0]
        assert moved[0].abs().amax(1).nonzero().tolist() == [[net.n_special + 5 * i + j]]


def test_published_deit_has_198_tokens_in_rows_of_14() -> None:
    net = ImageTransformer.from_config({"model_type": "deit", **SIZES, "patch_size": 16, "image_size": 224})
    assert (net.n_special, net.grid, net.size) == (2, (14, 14), (224, 224))
    lit = torch.zeros(2, 3, 224, 224)
    lit[1, :, 48:64, 112:128] = 1  # Mel rows 48-63 (i = 3), frames 112-127 (j = 7)
    with torch.no_grad():
        first = net(lit, all_layers=True).hidden[0]
    assert first.shape[1] == 198
    assert (first[1] - first[0]).abs().amax(1).nonzero().tolist() == [[2 + 14 * 3 + 7]]


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_of_attention_agree_and_only_one_gives_maps(kind: str) -> None:
    fast, slow = encoder(kind, "sdpa"), encoder(kind, "eager")
    with torch.no_grad():
        out = slow(pixels(), keep_attention=True, all_layers=True)
        assert torch.allclose(fast(pixels()).tokens, out.tokens, atol=1e-5)
    assert len(out.attentions) == 2
    assert out.attentions[1].shape == (2, 2, net_tokens := 15 + KINDS[kind], net_tokens)
    assert torch.allclose(out.attentions[1].sum(-1), torch.ones(()))
    assert len(out.hidden) == 3
    assert torch.allclose(slow.model.layernorm(out.hidden[-1]), out.tokens, atol=1e-6)
    with pytest.raises(ValueError, match="attention='eager'"):
        fast(pixels(), keep_attention=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_gives_the_same_tokens(kind: str, tmp_path: Path) -> None:
    net = encoder(kind)
    net.save(tmp_path / "net")
    with torch.no_grad():
        assert torch.equal(load_image_transformer(tmp_path / "net")(pixels()).tokens, net(pixels()).tokens)


def test_both_namings_of_tensors_are_understood(folder: Path) -> None:
    """Files are written in the names of the published ones, `encoder.layer.N...`; the network's own are others."""
    assert "encoder.layer.1.attention.attention.query.weight" in load_file(folder / "model.safetensors")
    own = encoder().model.state_dict()
    assert "layers.1.attention.q_proj.weight" in own
    save_file(own, folder / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(load_image_transformer(folder)(pixels()).tokens, encoder()(pixels()).tokens)


def test_a_tensor_for_each_parameter_and_heads_left_out(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "pooler.dense.weight": torch.zeros(32, 32)}, folder / "model.safetensors")
    load_image_transformer(folder)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="1 tensors missing") as caught:
        load_image_transformer(folder)
    assert caught.value.code == "CHI-WT-034"


def test_own_fields_of_a_weights_folder_are_not_handed_on(folder: Path, tmp_path: Path) -> None:
    own = {
        "licence": "Apache-2.0",
        "sha256": {"model.safetensors": "0"},
        "training_data": "synthetic",
        "parameters": {},
    }
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | own | {"auto_map": {"AutoModel": "evil.Net"}}))
    load_image_transformer(folder).save(tmp_path / "copy")
    assert not {*own, "auto_map"} & set(read_config(tmp_path / "copy"))


def test_visible_patches_alone() -> None:
    net = encoder()
    with torch.no_grad():
        everything = net.encode_visible(pixels(), torch.arange(15).expand(2, -1))
        assert torch.allclose(everything, net(pixels()).tokens, atol=1e-6)
        visible = torch.tensor([[7, 2], [0, 14]])
        part = net.encode_visible(pixels(), visible)
        changed = pixels()
        changed[0, :, :8, :8] = 9  # patch 0: hidden in the first picture, visible in the second
        changed[1, :, :8, :8] = 9
        moved = (net.encode_visible(changed, visible) - part).abs().amax((1, 2))
    assert part.shape == (2, 4, 32)
    assert moved[0] == 0
    assert moved[1] > 0.01


def test_reduced_tokens() -> None:
    tokens = torch.arange(2 + 6.0)[None, :, None].repeat(1, 1, 4)
    output = EncoderOutput(tokens, n_special=2, grid=(2, 3))
    assert reduce_tokens(output, "patches")[0, :, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert reduce_tokens(output, "patches", keep_special=True)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert reduce_tokens(output, "time")[0, :, 0].tolist() == [3.5, 4.5, 5.5]
    assert reduce_tokens(output, "chunk")[0, :, 0].tolist() == [0]
    with pytest.raises(ValueError, match="'rows'"):
        reduce_tokens(output, "rows")
    with pytest.raises(ValueError, match="no grid"):
        reduce_tokens(EncoderOutput(tokens), "time")


def test_a_recipe_with_pictures_of_another_size() -> None:
    encoder().check_size((24, 40))
    with pytest.raises(RecipeError, match="24 x 40") as caught:
        encoder().check_size((40, 24))
    assert caught.value.code == "CHI-RC-105"
    with pytest.raises(ValueError, match="shape"):
        encoder()(torch.zeros(1, 3, 40, 24))


def test_folders_that_cannot_be_used(tmp_path: Path, folder: Path) -> None:
    weights, described = folder / "model.safetensors", folder / "config.json"

    def code() -> str:
        with pytest.raises(WeightsError) as caught:
            load_image_transformer(folder)
        assert caught.value.file == "net"
        assert str(tmp_path) not in str(caught.value)
        return caught.value.code

    good = weights.read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    assert code() == "CHI-WT-034"
    weights.unlink()
    assert code() == "CHI-WT-030"
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert code() == "CHI-WT-033"
    weights.write_bytes(good)
    whole = json.loads(described.read_text())
    described.write_text(json.dumps(whole | {"hidden_size": 64}))
    assert code() == "CHI-WT-034"
    described.write_text(json.dumps(whole | {"model_type": "bert"}))
    assert code() == "CHI-WT-032"
    described.write_text("[1")
    assert code() == "CHI-WT-031"
    described.unlink()
    assert code() == "CHI-WT-030"


def test_loading_says_nothing_on_the_terminal(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_image_transformer(folder)
    assert capfd.readouterr() == ("", "")


def test_the_shipped_speech_encoder() -> None:
    folder = find("chiasm/speech-deit")  # files and sha256 are checked here
    assert folder.config["training_data"] != "synthetic" or folder.config["statement"] != "person"
    assert folder.files["model"].stat().st_size < 8e6
    assert "never seen" in folder.card
    net = load_image_transformer(folder.path)
    assert (net.size, net.grid, net.width, net.kind) == ((224, 224), (14, 14), 192, "deit")
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    # Half a picture of sound, half of silence: the columns' tokens tell one from the other, whichever half it is.
    sound = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    halves = (
        torch.where(torch.arange(224) < 112, sound, -torch.ones(())),
        torch.where(torch.arange(224) < 112, -torch.ones(()), sound),
    )
    with torch.no_grad():
        first, second = (reduce_tokens(net(half), "time")[0] for half in halves)
    left, right = first[:6].mean(0), first[8:].mean(0)
    assert torch.dot(left - right, second[8:].mean(0) - second[:6].mean(0)) > 0.5 * (left - right).square().sum()
