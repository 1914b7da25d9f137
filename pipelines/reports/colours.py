"""Colours of labels: as written in pages, and in words for those who do not tell them apart."""

from __future__ import annotations

import re
from colorsys import rgb_to_hls

Rgb = tuple[int, int, int]

# Distinct for the common colour-vision deficiencies (Okabe and Ito, https://jfly.uni-koeln.de/color/), on black.
DEFAULT_COLOURS: tuple[Rgb, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (240, 228, 66),
    (204, 121, 167),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
)

_HUES = (
    (15, "red"),
    (45, "orange"),
    (70, "yellow"),
    (150, "green"),
    (190, "teal"),
    (215, "light blue"),
    (255, "blue"),
    (290, "purple"),
    (345, "pink"),
    (361, "red"),
)


def default_colour(index: int) -> Rgb:
    """Return the colour of the `index`-th label (from 0), repeated after seven."""
    return DEFAULT_COLOURS[index % len(DEFAULT_COLOURS)]


def hex_colour(rgb: Rgb) -> str:
    """Return ``#rrggbb``."""
    return "#" + "".join(f"{max(0, min(255, int(part))):02x}" for part in rgb)


def parse_hex(text: str) -> Rgb:
    """Return the parts of ``#rrggbb``; grey for anything else, as no foreign string may stand as a colour in a page."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return 128, 128, 128
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def colour_word(rgb: Rgb) -> str:
    """Return an everyday name of a colour: ``orange``, ``light blue``, ``grey``."""
    hue, lightness, saturation = rgb_to_hls(*(part / 255.0 for part in rgb))
    if lightness < 0.08:
        return "black"
    if lightness > 0.94:
        return "white"
    if saturation < 0.12:
        return "grey"
    return next(word for end, word in _HUES if hue * 360.0 < end)
