"""What templates draw: tables of cells that know how they sort, and numbers as people read them."""

from dataclasses import dataclass, field

from markupsafe import Markup

from moonshine_tune.report.figures import clean

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
        figure: a drawing instead of text.
        kind: `number`, `better`, `worse`, `code`, `word`, `quiet` or empty.
    """

    text: str
    sort: float | None = None
    detail: str = ""
    figure: Markup = field(default_factory=Markup)
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """A column: `kind` is `text`, `number` or `figure`; `aside` is left out on a phone."""

    name: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """A table. The first cell of a row names the row; `note` stands below."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    sortable: bool = True


def text_cell(value: object, kind: str = "") -> Cell:
    """Any value as text, cut where it is too long."""
    return Cell(short(str(value)), kind=kind)


def number_cell(value: object, digits: int = 2, detail: str = "") -> Cell:
    """A number; a dash where there is none that can be shown."""
    number = clean(value)
    if number is None:
        return Cell("–", sort=float("-inf"), kind="number")
    return Cell(f"{number:,.{digits}f}", sort=number, detail=detail, kind="number")


def change_cell(
    difference: object, detail: str = "", threshold: float = 0.005, digits: int = 2
) -> Cell:
    """A change in points, where lower is better; colored where it is larger than `threshold`."""
    number = clean(difference)
    if number is None:
        return Cell("–", sort=float("-inf"), kind="number")
    kind = "better" if number < -threshold else "worse" if number > threshold else "number"
    return Cell(signed(number, digits), sort=number, detail=detail, kind=kind)


def time_cell(seconds: object) -> Cell:
    """A duration."""
    return Cell(duration_text(seconds), sort=clean(seconds), kind="number")


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


def short(text: str, longest: int = _LONGEST_TEXT) -> str:
    """The text, or its beginning."""
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
