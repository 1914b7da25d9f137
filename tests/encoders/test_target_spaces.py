"""The registry of target spaces, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chiasm.data.errors import WeightsError
from chiasm.encoders.small_image_tokens import SmallImageTokens, SmallImageTokensConfig
from chiasm.encoders.target_spaces import SPACES, check_shape, folder_sha256, load_target, target_space


def test_shapes_of_the_published_spaces() -> None:
    shapes = {name: (space.tokens, space.width) for name, space in SPACES.items()}
    assert shapes == {
        "clip-vit-l14-vd": (257, 768),
        "clip-vit-l14-hidden": (256, 1024),
        "clip-vit-l14-hidden-cls": (257, 1024),
        "clip-vit-l14-global": (1, 768),
        "clip-vit-b32-global": (1, 512),
        "clip-vit-h14": (257, 1280),
        "clip-vit-h14-global": (1, 1024),
        "openclip-bigg-14": (256, 1664),
        "openclip-bigg-14-exact": (256, 1664),
        "openclip-bigg-14-global": (1, 1280),
        "clip-text-vd": (77, 768),
        "sd-vae-512": (4, 64 * 64),
        "sd-vae-224": (4, 28 * 28),
        "thumbnail-8": (3, 64),
        "small-16x64": (16, 64),
    }


def test_every_space_says_how_it_is_normalised_and_latents_have_their_grid() -> None:
    for space in SPACES.values():
        assert space.normalisation
        assert space.weights or space.kind == "thumbnail"
        if space.latent:
            channels, rows, cols = space.latent
            assert (channels, rows * cols) == (space.tokens, space.width)


def test_latents_are_viewed_with_their_rows_and_columns() -> None:
    space = SPACES["thumbnail-8"]
    tokens = torch.arange(192.0).reshape(1, 3, 64)
    assert space.as_latents(tokens)[0, 1, 2, 3] == tokens[0, 1, 2 * 8 + 3]
    with pytest.raises(ValueError, match="no space of latents"):
        SPACES["clip-vit-l14-vd"].as_latents(tokens)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(WeightsError, match=r"Did you mean 'openclip-bigg-14'") as caught:
        target_space("openclip-bigg14")
    assert caught.value.code == "CHI-WT-070"


def test_no_folder_where_one_is_needed() -> None:
    with pytest.raises(WeightsError) as caught:
        load_target("clip-vit-l14-vd", None)
    assert caught.value.code == "CHI-WT-071"
    assert "openai/clip-vit-large-patch14" in str(caught.value)


def test_captions_have_their_own_loader() -> None:
    with pytest.raises(ValueError, match="load_text_target"):
        load_target("clip-text-vd", None)


def test_another_shape_is_refused() -> None:
    with pytest.raises(WeightsError) as caught:
        check_shape(SPACES["clip-vit-l14-vd"], 50, 512, "folder")
    assert caught.value.code == "CHI-WT-072"
    assert "50 tokens of 512" in str(caught.value)


def test_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    hashes = set()
    for name, text, weights in (("a", "{}", 0.0), ("b", "{}", 0.0), ("c", "{} ", 0.0), ("d", "{}", 1.0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(text)
        save_file({"w": torch.full((2,), weights)}, folder / "model.safetensors")
        (folder / "README.md").write_text(name)
        hashes.add(folder_sha256(folder))
    assert len(hashes) == 3
    assert folder_sha256(tmp_path / "a") == folder_sha256(tmp_path / "b")


def test_hash_of_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        folder_sha256(tmp_path)
    assert caught.value.code == "CHI-WT-071"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = SmallImageTokensConfig(size=32, widths=(8, 8, 8), blocks=1, layers=1, heads=2)
    save_file(SmallImageTokens(config).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"kind": "small-image-tokens", "parameters": {"size": 32, "widths": [8, 8, 8], "blocks": 1, "layers": 1, "heads": 2}}'
    )
    return tmp_path


def test_small_tokens_take_pictures_of_any_size(small: Path) -> None:
    encoder = load_target("small-16x64", small)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    tokens = encoder(pixels)
    assert torch.equal(tokens, SmallImageTokens.load(small)(pixels))
    flat = torch.full((1, 80, 80, 3), 90, dtype=torch.uint8)
    assert torch.allclose(encoder(flat), encoder(flat[:, :32, :32]), atol=1e-5)
    assert encoder.sha256 == folder_sha256(small)


def test_small_tokens_of_another_network(small: Path) -> None:
    (small / "config.json").write_text('{"kind": "brain-mask"}')
    with pytest.raises(WeightsError) as caught:
        load_target("small-16x64", small)
    assert caught.value.code == "CHI-WT-071"


def test_a_space_is_frozen() -> None:
    space = SPACES["sd-vae-512"]
    with pytest.raises(AttributeError):
        space.tokens = 5  # type: ignore[misc]
    assert replace(space, tokens=5).tokens == 5
