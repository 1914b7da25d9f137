"""Relevance through a class-token vision transformer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chiasm.heads.lrp_vit import RelevanceViT, RelevanceViTConfig


def network(**changes: object) -> RelevanceViT:
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 4, "n_classes": 3, "width": 8, "depth": 2, "n_heads": 2, "mlp_ratio": 2.0}
    model = RelevanceViT(RelevanceViTConfig(**(sizes | changes))).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def images(n: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_state_dict_keys_are_those_of_published_weights() -> None:
    block = (
        "norm1.weight norm1.bias attn.qkv.weight attn.qkv.bias attn.proj.weight attn.proj.bias norm2.weight norm2.bias"
    )
    block += " mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias"
    outer = (
        "cls_token pos_embed patch_embed.proj.weight patch_embed.proj.bias norm.weight norm.bias head.weight head.bias"
    )
    expected = set(outer.split()) | {f"blocks.{i}.{name}" for i in range(2) for name in block.split()}
    assert set(network().state_dict()) == expected
    assert set(network(qkv_bias=False).state_dict()) == {key for key in expected if "qkv.bias" not in key}


def test_a_block_loses_no_relevance() -> None:
    model = network(width=16)
    relevance = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        _, _, kept = model._forward(images())
        for block, layer in zip(model.blocks, kept, strict=True):
            passed = block.propagate(relevance, layer, 1.0)
            torch.testing.assert_close(passed.sum((1, 2)), relevance.sum((1, 2)), rtol=1e-5, atol=1e-5)


def test_maps_of_a_case_do_not_depend_on_its_batch() -> None:
    model, x = network(), images(3)
    together, alone = model.explain(x, [0, 1, 2]), model.explain(x[1:2], 1)
    torch.testing.assert_close(together.pixels[1:2], alone.pixels)
    torch.testing.assert_close(together.transformer_attribution()[1:2], alone.transformer_attribution())
    torch.testing.assert_close(together.relevance[0][1:2], alone.relevance[0])


def test_gradient_is_that_of_the_wanted_logit() -> None:
    model, x = network(), images(1)
    found = model.explain(x, 2)
    logits, _, kept = model._forward(x)
    expected = torch.autograd.grad(logits[0, 2], kept[0]["attention"])[0]
    torch.testing.assert_close(found.gradient[0], expected)
    assert not found.pixels.requires_grad


def test_the_map_belongs_to_the_class_and_raw_attention_does_not() -> None:
    model, x = network(), images(1)
    one, other = model.explain(x, 0), model.explain(x, 1)
    assert not torch.allclose(one.transformer_attribution(), other.transformer_attribution())
    torch.testing.assert_close(one.raw_attention(), other.raw_attention())
    torch.testing.assert_close(model.explain(x).target, model(x).argmax(-1))


def test_one_layer_is_the_rollout_of_one_layer() -> None:
    found = network(depth=1).explain(images(), 0)
    torch.testing.assert_close(found.transformer_attribution(), found.layer(with_gradient=True))
    torch.testing.assert_close(found.relevance_rollout(), found.layer())


def test_alpha_and_other_channels_take_the_alpha_rule() -> None:
    model = network(in_channels=2)
    one, two = (model.explain(images(channels=2), 0, alpha=alpha).pixels for alpha in (1.0, 2.0))
    assert one.isfinite().all()
    assert not torch.allclose(one, two)


def test_wrong_sizes_and_training_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, 8, 8\), not \(2, 1, 8, 8\)"):
        network()(images(channels=1))
    with pytest.raises(ValueError, match="eval"):
        network().train().explain(images())
    with pytest.raises(ValueError, match="no multiple of patch_size"):
        RelevanceViTConfig(image_size=10, patch_size=4)
    with pytest.raises(ValueError, match="no multiple of n_heads"):
        RelevanceViTConfig(width=10, n_heads=4)
