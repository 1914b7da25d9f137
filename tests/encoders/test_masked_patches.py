"""Masked patches: what is hidden stays hidden, and something is learnt that the mean does not know."""

import pytest
import torch

from chiasm.encoders.image_transformer import ImageTransformer
from chiasm.encoders.masked_patches import MaskedPatches, MaskedPatchesConfig, begin, patchify, sincos_positions

NET = {
    "model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "patch_size": 4, "image_size": 16, "num_channels": 3,
}  # fmt: skip


def network(**fields) -> MaskedPatches:
    torch.manual_seed(0)
    net = MaskedPatches(
        ImageTransformer.from_config(NET), MaskedPatchesConfig(decoder_width=24, decoder_layers=1, **fields)
    )
    begin(net)
    return net


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    """Waves of one direction and length a picture: what is hidden follows from what is seen."""
    generator = torch.Generator().manual_seed(seed)
    phase, step = torch.rand(n, 1, 1, 1, generator=generator) * 6.28, torch.rand(n, 1, 1, 1, generator=generator) * 0.3
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    return torch.sin(phase + 0.2 * y + step * x).expand(-1, 3, -1, -1).contiguous()


def test_patches_go_row_by_row() -> None:
    pixels = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = patchify(pixels, (2, 3))
    assert patches.shape == (2, 4, 18)
    assert torch.equal(patches[1, 2], pixels[1, :, 2:4, 0:3].flatten())


@pytest.mark.parametrize(("ratio", "n_hidden"), [(0.75, 12), (0.6, 10), (0.999, 15)])
def test_how_many_patches_are_hidden(ratio: float, n_hidden: int) -> None:
    out = network(ratio=ratio)(pictures(3))
    assert out.hidden.sum(1).tolist() == [n_hidden] * 3
    assert (out.hidden[0] != out.hidden[1]).any()


def test_hidden_patches_do_not_reach_the_prediction() -> None:
    net, pixels = network(), pictures(2)
    first = net(pixels, generator=torch.Generator().manual_seed(4))
    patches = first.hidden.reshape(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    second = net(torch.where(patches, torch.randn_like(pixels), pixels), generator=torch.Generator().manual_seed(4))
    assert torch.equal(first.hidden, second.hidden)
    assert torch.allclose(first.predicted, second.predicted, atol=1e-6)
    seen = net(torch.where(patches, pixels, torch.randn_like(pixels)), generator=torch.Generator().manual_seed(4))
    assert not torch.allclose(first.predicted, seen.predicted, atol=1e-2)


def test_the_loss_is_over_hidden_patches_and_weighs_planes() -> None:
    weights = (1.0, 0.5, 0.0)
    out = network(plane_weights=weights)(pictures(2) * torch.tensor([1.0, 2.0, 3.0])[:, None, None])
    error = (out.predicted - out.target).square().unflatten(2, (3, 16)).mean(3)
    by_hand = sum(error[out.hidden][:, i].mean() * weight for i, weight in enumerate(weights)) / 1.5
    assert float(out.loss.detach()) == pytest.approx(float(by_hand.detach()))


def test_targets_are_scaled() -> None:
    pixels = torch.randn(2, 3, 16, 16) * torch.tensor([1.0, 5.0, 0.1])[:, None, None] + 3
    image = network().targets(pixels).unflatten(2, (3, 16))
    assert torch.allclose(image.mean((1, 3)), torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose(image.var((1, 3), correction=0), torch.ones(2, 3), atol=1e-3)
    patch = network(target="patch").targets(pixels)
    assert torch.allclose(patch.mean(2), torch.zeros(2, 16), atol=1e-5)
    assert torch.allclose(patch.var(2, correction=0), torch.ones(2, 16), atol=1e-3)


def test_it_learns_what_the_mean_does_not_know() -> None:
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(120):
        loss = net(pictures(32, seed=step), generator=generator).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        out = net(pictures(64, seed=10_000), generator=generator)
        mean = out.target.mean(0, keepdim=True).expand_as(out.target)
        constant = (mean - out.target).square().mean(2)[out.hidden].mean()
    assert float(out.loss) < 0.5 * float(constant)


def test_positions_tell_row_and_column() -> None:
    positions = sincos_positions((3, 5), 8).unflatten(0, (3, 5))
    assert torch.equal(positions[2, :, :4], positions[2, :1, :4].expand(5, -1))
    assert torch.equal(positions[:, 3, 4:], positions[:1, 3, 4:].expand(3, -1))
    assert len(positions.flatten(0, 1).round(decimals=4).unique(dim=0)) == 15
    assert positions[1, 0, 0] == pytest.approx(0.841471)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions((3, 5), 10)
    net = network()
    places = net.encoder.model.embeddings.position_embeddings[0, 1:]
    assert torch.equal(places, sincos_positions((4, 4), 32))


def test_what_cannot_be_hidden_is_refused() -> None:
    spectrogram = {**NET, "model_type": "audio-spectrogram-transformer", "num_mel_bins": 16, "max_length": 16}
    with pytest.raises(ValueError, match="overlap"):
        MaskedPatches(ImageTransformer.from_config(spectrogram), MaskedPatchesConfig())
    with pytest.raises(ValueError, match="ratio"):
        MaskedPatchesConfig(ratio=1.0)
