"""The `otk` golden files through `chiasm.fusion.ot_kernel`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from chiasm.fusion.ot_kernel import OTKernel, OTKernelConfig, kernel_embedding, kernel_plan

Arrays = Mapping[str, np.ndarray]


def sinkhorn(hyperparameters: Mapping[str, Any], _state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """Plans of the first reference, plans of all heads, kernel values, plain and log, with and without a mask."""
    x, w = torch.from_numpy(inputs["x"]).requires_grad_(), torch.from_numpy(inputs["w"])
    settings = {"eps": hyperparameters["eps"], "iterations": hyperparameters["iters"]}
    found: dict[str, Any] = {}
    for mask_name, mask in (("", None), ("_mask", torch.from_numpy(inputs["mask"]))):
        for name, log_domain in (("plain", False), ("log", True)):
            plan = kernel_plan(x @ w[0].T, mask, log_domain=log_domain, **settings)
            found[f"plan_{'sinkhorn' if name == 'plain' else name}{mask_name}"] = plan
            all_heads = kernel_embedding(x, w.expand(len(x), -1, -1, -1), mask, log_domain=log_domain, **settings)
            found[f"attn_{name}{mask_name}"] = all_heads.plan
            found[f"kernel_{name}{mask_name}"] = all_heads.value
    (gradient,) = torch.autograd.grad(found["kernel_log"].sum(), x)
    return {key: value.detach().numpy() for key, value in found.items()} | {"grad/x": gradient.numpy()}


def otkernel(hyperparameters: Mapping[str, Any], state: Arrays, inputs: Arrays) -> dict[str, Any]:
    """The module with official weights: embedding, plan, gradient."""
    fields = OTKernelConfig.__dataclass_fields__
    module = OTKernel(OTKernelConfig(**{key: value for key, value in hyperparameters.items() if key in fields}))
    module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    x = torch.from_numpy(inputs["x"]).requires_grad_()
    mask = torch.from_numpy(inputs["mask"]) if "mask" in inputs else None
    pooled = module(x, mask)
    pooled.embedding.square().sum().backward()
    return {
        "embedding": pooled.embedding.detach().numpy(),
        "attn": pooled.plan.detach().numpy(),
        "grad/x": x.grad.numpy(),
        "grad/weight": module.weight.grad.numpy(),
    }


MODULES: dict[str, Callable[[Mapping[str, Any], Arrays, Arrays], dict[str, Any]]] = {
    "sinkhorn": sinkhorn,
    "otkernel_mask": otkernel,
    "otkernel_position": otkernel,
    "otkernel_2d": otkernel,
}
