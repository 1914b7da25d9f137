"""What counts as a phantom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chiasm.data.phantoms.marker import is_phantom


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps({"chiasm_phantom": True}), True),
        (json.dumps({"chiasm_phantom": "yes"}), False),
        (json.dumps({"Name": "real"}), False),
        ("[1, 2]", False),
        ("not json", False),
        ("[" * 100_000, False),
    ],
)
def test_only_the_mark_itself_makes_a_phantom(tmp_path: Path, text: str, expected: bool) -> None:
    assert not is_phantom(tmp_path)
    (tmp_path / "dataset_description.json").write_text(text)
    assert is_phantom(tmp_path) is expected


def test_a_part_of_a_phantom_is_as_synthetic_as_the_whole(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"chiasm_phantom": true}')
    part = tmp_path / "train" / "audio" / "cc"
    (part / "deeper").mkdir(parents=True)
    assert is_phantom(tmp_path / "train")
    assert is_phantom(part)
    assert not is_phantom(part / "deeper")
