"""The templates of the package: HTML and SVG are written there, from records and numbers."""

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from moonshine_tune import __version__
from moonshine_tune.report import cells


@cache
def environment() -> Environment:
    """The environment of all templates. Texts are escaped; an unknown name is an error."""
    made = Environment(
        loader=PackageLoader("moonshine_tune.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "breakable": _breakable,
        "change": cells.change_cell,
        "clean": cells.clean,
        "exact": cells.exact_cell,
        "interval": cells.interval_text,
        "measured": cells.measured_cell,
        "number": cells.number_cell,
        "percent": cells.percent_cell,
        "set_title": cells.set_title,
        "short": cells.short,
        "signed": cells.signed,
        "text": cells.text_cell,
        "written": cells.written_cell,
        "tick_label": cells.tick_label,
        "time": cells.time_cell,
    }
    return made


def render_page(template: str, **content: Any) -> bytes:
    """A page of a template, with the style, the script and its fingerprint."""
    style = palette() + _asset("report.css")
    script = _asset("report.js")
    # The hash under which the content security policy lets this one script run, and no other.
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    page = (
        environment()
        .get_template(template)
        .render(
            **content,
            style=Markup(style),  # the package's own file
            script=Markup(script),  # the package's own file
            script_hash=f"sha256-{digest}",
            made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
            version=__version__,
        )
    )
    # Half of a character, which JSON can hold and UTF-8 cannot, becomes a question mark.
    return page.encode("utf-8", "replace")


def palette() -> str:
    """The style sheet of the colors, light and dark, which other pages share."""
    return _asset("palette.css")


def _asset(name: str) -> str:
    return (files("moonshine_tune.report") / "assets" / name).read_text(encoding="utf-8")


def _breakable(text: str) -> Markup:
    """Names and paths with places where a narrow screen may break them."""
    escaped = str(escape(text))
    for mark in "./_":
        escaped = escaped.replace(mark, f"{mark}<wbr>")
    return Markup(escaped)  # escaped above
