from __future__ import annotations

import pytest

from chiasm.pipelines.reports.colours import DEFAULT_COLOURS, colour_word, default_colour, hex_colour, parse_hex


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((230, 159, 0), "orange"),
        ((86, 180, 233), "light blue"),
        ((240, 228, 66), "yellow"),
        ((0, 158, 115), "teal"),
        ((255, 0, 0), "red"),
        ((128, 128, 128), "grey"),
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
    ],
)
def test_a_colour_is_called_as_people_call_it(rgb: tuple[int, int, int], word: str) -> None:
    assert colour_word(rgb) == word


def test_hexadecimal_text_goes_there_and_back() -> None:
    assert hex_colour((1, 171, 255)) == "#01abff"
    assert parse_hex("#01ABff") == (1, 171, 255)


@pytest.mark.parametrize("text", ["red", "#fff", "#12345g", "#123456;x", 'x" onload="', "", "#123456\n"])
def test_what_is_no_colour_becomes_grey(text: str) -> None:
    assert parse_hex(text) == (128, 128, 128)


def test_default_colours_differ_and_repeat_after_the_last() -> None:
    assert len(set(DEFAULT_COLOURS)) == len(DEFAULT_COLOURS) == 7
    assert default_colour(7) == default_colour(0)
