"""Helpers for the text of messages."""

import difflib
import re
import shlex
from collections.abc import Iterable

# Characters that act on a terminal instead of being shown: those that start escape sequences, move
# the cursor, or reverse the direction of the text around them. Tabs and line feeds stay.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def first_line(text: object, limit: int = 200) -> str:
    """The first line of a text or an error, cut to `limit` characters.

    For an error without a message, the name of its class.
    """
    lines = str(text).strip().splitlines()
    return lines[0].strip()[:limit] if lines else type(text).__name__


def quoted(value: object) -> str:
    """A path or name as one word of a shell command, for commands that are shown to be pasted."""
    return shlex.quote(str(value))


def printable(text: str) -> str:
    r"""The text for a terminal: control characters are shown as escapes, such as `\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The known name most similar to `name`; None if none is similar.

    Dotted names are also compared by their last part: `rank` is near `adapter.rank`.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    if close:
        return close[0]
    by_last = {key.rpartition(".")[2]: key for key in names}
    close = difflib.get_close_matches(name.rpartition(".")[2], list(by_last), n=1, cutoff=0.6)
    return by_last[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """`; did you mean 'x'?` as the end of a message; empty if no known name is similar."""
    close = nearest(name, known, cutoff=cutoff)
    return f"; did you mean {close!r}?" if close else ""
