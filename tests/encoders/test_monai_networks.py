"""MONAI's networks by name: only those listed, only plain parameters, every mistake named."""

from __future__ import annotations

import pytest
import torch

from chiasm.data.errors import RecipeError
from chiasm.encoders.monai_networks import ALLOWED, build, check_plain

UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}


def code_of(parameters: dict[str, object]) -> tuple[str, str]:
    with pytest.raises(RecipeError) as error:
        build(parameters)
    return error.value.code, str(error.value)


def test_a_listed_network_is_built_with_its_parameters() -> None:
    network = build({"network": "UNet", **UNET})
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)


@pytest.mark.parametrize("name", ALLOWED)
def test_every_listed_name_is_a_network_of_monai(name: str) -> None:
    from monai.networks import nets

    assert issubclass(getattr(nets, name), torch.nn.Module)


def test_a_misspelt_network_gets_a_proposal() -> None:
    code, text = code_of({"network": "SegResnet"})
    assert code == "CHI-RC-062"
    assert "Did you mean 'SegResNet'?" in text


@pytest.mark.parametrize("name", ["os.system", "monai.bundle.run", "", None, 3, "Generator"])
def test_nothing_outside_the_list_can_be_named(name: object) -> None:
    assert code_of({"network": name})[0] == "CHI-RC-062"


def test_every_wrong_parameter_is_named_at_once() -> None:
    code, text = code_of({"network": "UNet", "spatial_dims": 3, "in_chanels": 1, "out_channels": 2, "channels": [4, 8]})
    assert code == "CHI-RC-063"
    for part in (
        "'in_chanels' is unknown. Did you mean 'in_channels'?",
        "'in_channels' is missing",
        "'strides' is missing",
    ):
        assert part in text


def test_a_refusal_by_the_network_itself_is_a_coded_error() -> None:
    assert code_of({"network": "UNet", **UNET, "strides": [2, 2, 2, 2], "channels": [4]})[0] == "CHI-RC-064"


@pytest.mark.parametrize(
    "value", ["$__import__('os')", "@network", "%config", {"_target_": "x"}, [1, {"a": "$1"}], object()]
)
def test_expressions_and_objects_are_no_plain_values(value: object) -> None:
    assert check_plain(value, "here")


@pytest.mark.parametrize(
    "value", [1, 1.5, "INSTANCE", None, True, [1, [2, 3]], {"eps": 1e-5}, ["leakyrelu", {"slope": 0.1}]]
)
def test_plain_values_pass(value: object) -> None:
    assert check_plain(value, "here") == []
