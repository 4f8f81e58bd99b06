"""Cells of tables that know how they sort, and numbers, times and texts as people read them."""

import re
from dataclasses import dataclass
from math import isfinite

# Beyond this a value is a fault of the run; drawn, it would flatten all the others.
_LARGEST = 1e12
# Points of WER that are shown as no change.
_NO_CHANGE = 0.005
# A value of a damaged or odd file must not fill the page.
_LONGEST_TEXT = 400
# Sets that commands name; any other name is a folder's and is shown as it is.
SET_NAMES = ("domain", "dev", "canary")


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown.
        sort: what it sorts by; by its text where None.
        detail: a second, smaller line.
        kind: `number`, `better`, `worse`, `code`, `word`, `quiet` or empty.
    """

    text: str
    sort: float | None = None
    detail: str = ""
    kind: str = ""


def clean(value: object) -> float | None:
    """`value` where it is a number that can be shown, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # The order matters: an integer may be too large for a float.
    return float(value) if abs(value) <= _LARGEST and isfinite(value) else None


def text_cell(
    value: object, kind: str = "", detail: object = "", *, sort: float | None = None
) -> Cell:
    """Any value as text, cut where it is too long."""
    return Cell(short(value), sort, short(detail), kind=kind)


def written_cell(text: str) -> Cell:
    """A text of this program, complete, with what is marked as code in quotes."""
    return Cell(re.sub("`([^`]*)`", "“\\1”", text), kind="quiet")


def number_cell(value: object, digits: int = 2, detail: str = "") -> Cell:
    """A number; a dash where there is none that can be shown."""
    number = clean(value)
    if number is None:
        return Cell("–", sort=float("-inf"), kind="number")
    return Cell(f"{number:,.{digits}f}", sort=number, detail=detail, kind="number")


def change_cell(
    difference: object, detail: str = "", *, is_colored: bool = True, digits: int = 2
) -> Cell:
    """A change in points, where lower is better; colored where it is not about zero."""
    number = clean(difference)
    if number is None:
        return Cell("–", sort=float("-inf"), kind="number")
    kind = "better" if number < 0 else "worse"
    if abs(number) <= _NO_CHANGE or not is_colored:
        kind = "number"
    return Cell(signed(number, digits), sort=number, detail=detail, kind=kind)


def time_cell(seconds: object) -> Cell:
    """A duration."""
    return Cell(duration_text(seconds), sort=clean(seconds), kind="number")


def measured_cell(value: object, unit: str, divisor: float = 1.0) -> Cell:
    """A number in about three digits, with its unit."""
    number = clean(value)
    if number is None:
        return number_cell(None)
    number /= divisor
    size = abs(number)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if unit else 4
    return Cell(f"{number:,.{digits}f} {unit}".strip(), sort=number, kind="number")


def exact_cell(value: object) -> Cell:
    """A value of any type as it would be typed."""
    number = clean(value)
    if number is None:
        return text_cell("–" if value is None else value, "code")
    return Cell(f"{number:.4g}", sort=number, kind="code")


def percent_cell(share: float) -> Cell:
    """A share of 1 in percent."""
    return Cell(f"{share:.0%}", sort=share)


def signed(value: float, digits: int = 2) -> str:
    """With its sign, a true minus, and no sign for zero."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def interval_text(ends: tuple[float, float] | None, digits: int = 2, *, sign: bool = False) -> str:
    """`0.80 to 1.10`, with signs where it is the interval of a change; empty without one."""
    known = clean_interval(ends) or ()
    return " to ".join(signed(end, digits) if sign else f"{end:.{digits}f}" for end in known)


def clean_interval(ends: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval whose ends can be shown, else None."""
    low, high = ends or (None, None)
    low, high = clean(low), clean(high)
    return None if low is None or high is None else (low, high)


def set_title(name: str) -> str:
    """A set's name at the start of a line."""
    return name.capitalize() if name in SET_NAMES else name


def short(value: object, longest: int = _LONGEST_TEXT) -> str:
    """The text of a value, or its beginning."""
    text = str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def duration_text(value: object) -> str:
    """Seconds, minutes or hours, in three digits."""
    seconds = clean(value)
    if seconds is None or seconds < 0:
        return "–"
    if seconds < 90:
        return f"{seconds:.3g} s"
    if seconds < 5400:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"


def tick_label(value: float) -> str:
    """A tick's number in as few characters as it needs."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.4g}"
