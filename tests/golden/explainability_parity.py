"""The `explainability` golden files through `chiasm.heads`: rollout, relevance rules, propagation, LRP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from chiasm.heads import lrp_rules as lrp
from chiasm.heads.attention_rollout import attention_rollout, class_token_row, fuse_heads
from chiasm.heads.lrp_vit import RelevanceViT, RelevanceViTConfig
from chiasm.heads.relevance import (
    CoAttentionRule,
    CrossLayer,
    Weighted,
    co_attention_relevance,
    decoder_addition,
    encoder_decoder_relevance,
    encoder_decoder_rollout,
    head_average,
    normalise_residual,
    self_additions,
)

Arrays = Mapping[str, np.ndarray]


def _tensors(arrays: Arrays, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value).to(dtype) for name, value in arrays.items()}


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in tensors.items()}


def _layers(inputs: Mapping[str, torch.Tensor], name: str) -> list[Weighted]:
    """Layers of (H, n, m): a batch of one is taken off."""
    pairs = zip(inputs[f"attn_{name}"], inputs[f"grad_{name}"], strict=True)
    return [(a.reshape(-1, *a.shape[-2:]), g.reshape(-1, *g.shape[-2:])) for a, g in pairs]


def _rule(hyperparameters: Mapping[str, Any]) -> CoAttentionRule:
    return CoAttentionRule(
        normalise=hyperparameters.get("norm", True), self_in_rule_10=hyperparameters.get("self10", True), empty="nan"
    )


def rollout(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Both products and the class token's row."""
    layers = [fuse_heads(layer) for layer in torch.from_numpy(inputs["attn"])]
    start = hyperparameters.get("start", 0)
    normalised = attention_rollout(layers, start=start)
    return _arrays({
        "rollout": normalised,
        "rollout_unnormalised": attention_rollout(layers, start=start, normalise=False),
        "cls_map": class_token_row(normalised),
    })  # fmt: skip


def relevance_rules(_hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Each rule by itself, with and without its switches."""
    x = _tensors(inputs)
    (cam_tt, cam_ti) = (head_average(x[f"attn_{name}"], x[f"grad_{name}"])[0] for name in ("tt", "ti"))
    within, across = self_additions(cam_tt, x["R_tt"], x["R_ti"])
    results = {"cam_tt": cam_tt, "cam_ti": cam_ti, "self_ss": within, "self_sq": across}
    results["hat_tt"] = normalise_residual(x["R_tt"], empty="nan")
    rules = {
        "default": CoAttentionRule(empty="nan"),
        "nonorm": CoAttentionRule(normalise=False),
        "noself": CoAttentionRule(self_in_rule_10=False),
    }
    for name, rule in rules.items():
        sq, ss = rule.additions(cam_ti, x["R_tt"], x["R_ii"], x["R_it"])
        results |= {f"co_sq_{name}": sq, f"co_ss_{name}": ss}
        results[f"detr_sq_{name}"] = decoder_addition(cam_ti, x["R_tt"], x["R_ii"], rule=rule)
    eye = torch.eye(len(cam_tt))
    results["detr_sq_identity"] = decoder_addition(cam_ti, eye, x["R_ii"], rule=rules["default"])
    return _arrays(results)


def co_attention(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Two streams, class token in the text."""
    x = _tensors(inputs)
    names = {"ta": "ti", "at": "it", "t": "lself", "a": "vself"}
    parts = {ours: _layers(x, theirs) for ours, theirs in names.items()}
    crossings = [CrossLayer(**{name: layers[i] for name, layers in parts.items()}) for i in range(len(parts["ta"]))]
    text, image = (_layers(x, name) if f"attn_{name}" in x else [] for name in ("lang", "vis"))
    r_tt, r_ti = co_attention_relevance(text, image, crossings, rule=_rule(hyperparameters))
    return _arrays({"R_tt": r_tt, "R_ti": r_ti})


def encoder_decoder(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Relevance of the encoder's tokens for one query, and its rollout baseline."""
    x = _tensors(inputs)
    encoder, decoder, crossing = (_layers(x, name) for name in ("enc", "dec", "cross"))
    target = hyperparameters["target"]
    relevance = encoder_decoder_relevance(encoder, decoder, crossing, rule=_rule(hyperparameters))
    plain = [[attention for attention, _ in layers] for layers in (encoder, decoder, crossing)]
    baseline = encoder_decoder_rollout(plain[0], plain[1], plain[2][-1])
    return _arrays({"relevance": relevance[None, None, target], "rollout": baseline[None, None, target]})


def lrp_layers(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Every single-layer rule."""
    x = _tensors(inputs, torch.float64)
    alpha = float(hyperparameters.get("alpha", 1.0))
    stride = x["k"].shape[-1]
    add_a, add_b = lrp.add_rule(x["x"], x["x2"], x["Rx"])
    matmul_a, matmul_b = lrp.einsum_rule("bid,bjd->bij", x["q"], x["x"], x["Rq"])
    return _arrays({
        "linear": lrp.linear_rule(x["x"], x["w"], x["R"], alpha=alpha),
        "add_a": add_a,
        "add_b": add_b,
        "clone": lrp.clone_rule(x["x"], x["Rx"], x["Rx2"]),
        "matmul_a": matmul_a,
        "matmul_b": matmul_b,
        "select": lrp.select_rule(x["x"], x["Rx"][:, :1]),
        "conv_rgb": lrp.bounded_conv_rule(x["img"], x["k"], x["Rk"], stride=stride),
        "conv_multi": lrp.conv_rule(x["img4"], x["k4"], x["Rk"], stride=stride, alpha=alpha),
        "safe_divide": lrp.safe_divide(x["x"], x["x2"]),
    })  # fmt: skip


def vit_lrp(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Every method of the network with relevance propagation; attention, gradient and relevance of every layer."""
    names = {
        "img": "image_size", "patch": "patch_size", "classes": "n_classes", "embed": "width", "depth": "depth",
        "heads": "n_heads", "mlp": "mlp_ratio", "qkv_bias": "qkv_bias", "chans": "in_channels",
    }  # fmt: skip
    sizes = {ours: hyperparameters[theirs] for theirs, ours in names.items() if theirs in hyperparameters}
    x = torch.from_numpy(inputs["x"]).double()
    model = RelevanceViT(RelevanceViTConfig(**{"in_channels": x.shape[1], **sizes})).double().eval()
    model.load_state_dict(_tensors(state, torch.float64))
    found = model.explain(x, hyperparameters.get("index"), alpha=float(hyperparameters.get("alpha", 1.0)))
    start = hyperparameters.get("start", 0)
    results = {
        "logits": found.logits,
        "full": found.pixels,
        "rollout": found.relevance_rollout(start=start),
        "transformer_attribution": found.transformer_attribution(start=start),
        "last_layer": found.layer()[0],
        "last_layer_ablation": found.layer(with_gradient=True)[0],
        "last_layer_attn": found.raw_attention()[0],
    }
    if len(found.relevance) > 1:
        results["second_layer"] = found.layer(1)[0]
        results["second_layer_ablation"] = found.layer(1, with_gradient=True)[0]
    for index, (relevance, gradient) in enumerate(zip(found.relevance, found.gradient, strict=True)):
        results |= {f"attn_cam{index}": relevance, f"attn_grad{index}": gradient}
    return _arrays(results)


MODULES: dict[str, Callable[[Mapping[str, Any], Arrays, Arrays], dict[str, Any]]] = {
    "attention_rollout": rollout,
    "relevance_rules": relevance_rules,
    "co_attention_propagation": co_attention,
    "encoder_decoder_propagation": encoder_decoder,
    "lrp_layers": lrp_layers,
    "vit_lrp": vit_lrp,
}
