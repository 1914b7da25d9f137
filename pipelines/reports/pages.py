"""What every page has in common: templates with autoescape, and a policy that keeps the page off the network."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ...data.atomic import write_bytes
from .colours import hex_colour, parse_hex


def render(template: str, nonce: str, **values: Any) -> str:
    """Fill a template of ``templates/``; every value is escaped.

    Parameters
    ----------
    template : str
        File name.
    nonce : str
        From `nonce_of`: the only scripts and styles that a browser runs are those that carry it.
    """
    return _environment().get_template(template).render(nonce=nonce, policy=content_policy(nonce), **values)


def content_policy(nonce: str) -> str:
    """Return the content security policy: own scripts and styles, pictures beside the page, no network, no forms.

    ``file:`` stands beside ``'self'`` because browsers disagree on what a page opened from disk may call itself.
    """
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' file: data:; "
        "base-uri 'none'; form-action 'none'"
    )


def nonce_of(parts: Iterable[bytes | str]) -> str:
    """Return a nonce from all the content of a page.

    A page on disk cannot have a random nonce and equal bytes on every run. A hash over the content serves: text that
    wants to carry the right nonce would have to contain its own hash.
    """
    digest = hashlib.sha256(b"chiasm report\0")
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def safe_href(path: str) -> str:
    """Return a relative path as a link: the colon of a scheme such as ``javascript:`` does not survive."""
    return quote(path.replace("\\", "/").lstrip("/"), safe="/._-~")


def place_picture(page: Path, name: str, content: bytes, *, inline: bool) -> tuple[str, Path | None]:
    """Put a PNG into ``figures/`` beside a page, or into the page itself.

    Returns
    -------
    src : str
        What the page's ``img`` points to.
    path : Path or None
        The file; None for a picture within the page.

    Raises
    ------
    ResourceError
        The disk is full or may not be written.
    """
    if inline:
        return "data:image/png;base64," + base64.b64encode(content).decode("ascii"), None
    target = page.parent / "figures" / f"{page.stem}_{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, content)
    return f"figures/{target.name}", target


def asset(name: str) -> Markup:
    """Return one of our own style sheets or scripts, which go into the page as they are."""
    return Markup((files(__package__) / "templates" / name).read_text("utf-8"))  # noqa: S704 - our file, not input


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__ or "", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ml"] = millilitres
    environment.filters["decimal"] = decimal
    environment.filters["percent"] = lambda share: f"{100.0 * share:.1f} %"
    environment.filters["hex"] = hex_colour
    environment.filters["safe_colour"] = lambda text: hex_colour(parse_hex(text))
    environment.filters["href"] = safe_href
    environment.globals["asset"] = cache(asset)
    return environment


def millilitres(value: float | None) -> str:
    """Return a volume as text: a decimal below 100 ml, none above, a dash where it is missing."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100.0 else f"{value:.1f}" if abs(value) >= 1.0 else f"{value:.2f}"


def decimal(value: float | None, digits: int = 2) -> str:
    """Return a number as text, a dash where it is missing or not finite; minus is a minus sign."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")
