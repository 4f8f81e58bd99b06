r"""Sentences from templates: `turn {left|right} heading {digits:3}`.

A line is a template, or defines a list: `airline = Lufthansa | Air France`. In a template

- `{left|right}` is one of several; one of them may be empty, and each may be a template;
- `{airline}` is one item of a list;
- `{digits}`, `{number}` and `{letters}` are drawn: `{digits:3}` has three digits, spelled in words
  ("two seven zero") or, with `{digits:3 figures}`, written 270 and spoken digit by digit;
  `{number:1-99}` is a number within bounds; `{letters:2}` are two letters of the English alphabet;
- `\{`, `\}` and `\|` are those characters.

Lines that start with `#` are left out.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from moonshine_tune.core.bounded_files import utf8_text
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.text import did_you_mean
from moonshine_tune.data.synthesis.prompts import Prompt

_LIST_LINE = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(.*)")
_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*(?::(.*))?", re.DOTALL)
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_DRAWN = 12
# Most sentences of a template that is enumerated; of others, sentences are drawn.
_MOST_LISTED = 20_000
# After so many repeated sentences in a row a template counts as exhausted.
_MAX_REPEATS = 2000

# Escaped characters while a template is read: of the private use area.
_ESCAPED = {"\\{": "\ue000", "\\}": "\ue001", "\\|": "\ue002"}

# A text, and how it is spoken.
_Piece = tuple[str, str]


class _TemplateError(Exception):
    """What is wrong with a template, in a sentence."""


class _Drawer:
    """Random numbers, and for each choice the options that it has left: all are drawn equally."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._decks: dict[int, list[int]] = {}

    def option(self, choice: "_Choice") -> int:
        """The index of the next option of a choice."""
        deck = self._decks.setdefault(id(choice), [])
        if not deck:
            deck += range(len(choice.options))
            self.rng.shuffle(deck)
        return deck.pop()


@dataclass(frozen=True)
class _Choice:
    """One of several."""

    options: Sequence["_Part"]

    @property
    def size(self) -> int:
        """Number of derivations."""
        return sum(option.size for option in self.options)

    def draw(self, drawer: _Drawer) -> _Piece:
        """A random derivation."""
        return self.options[drawer.option(self)].draw(drawer)

    def every(self) -> Iterator[_Piece]:
        """All derivations."""
        for option in self.options:
            yield from option.every()


@dataclass(frozen=True)
class _Sequence:
    """Parts one after the other."""

    parts: Sequence["_Part"]

    @property
    def size(self) -> int:
        """Number of derivations."""
        total = 1
        for part in self.parts:
            total *= part.size
        return total

    def draw(self, drawer: _Drawer) -> _Piece:
        """A random derivation."""
        return _joined([part.draw(drawer) for part in self.parts])

    def every(self) -> Iterator[_Piece]:
        """All derivations."""
        for pieces in product(*(list(part.every()) for part in self.parts)):
            yield _joined(pieces)


@dataclass(frozen=True)
class _Literal:
    """A fixed text, or a number that is drawn from a range.

    Attributes:
        count: how many there are.
        write: the piece of a number below `count`.
    """

    count: int
    write: Callable[[int], _Piece]

    @property
    def size(self) -> int:
        """Number of derivations."""
        return self.count

    def draw(self, drawer: _Drawer) -> _Piece:
        """A random one."""
        return self.write(drawer.rng.randrange(self.count))

    def every(self) -> Iterator[_Piece]:
        """All of them."""
        return map(self.write, range(self.count))


_Part = _Choice | _Sequence | _Literal


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    return "".join(piece[0] for piece in pieces), "".join(piece[1] for piece in pieces)


def _text(text: str) -> _Literal:
    for escaped, letter in _ESCAPED.items():
        text = text.replace(letter, escaped[1])
    return _Literal(1, lambda _: (text, text))


class Templates:
    """The templates of a file.

    Args:
        path: UTF-8 text.
        lists: further lists by name; one of the file with the same name is an error.

    Raises:
        RequestError: no such file, not text, or no template in it.
        ProblemsError: templates that cannot be read; all are listed with file and line.
    """

    def __init__(self, path: Path, lists: Mapping[str, Sequence[str]] | None = None) -> None:
        self._path = path
        self._problems: list[str] = []
        self._lists: dict[str, tuple[str, Sequence[str]]] = {
            name: ("--list", items) for name, items in (lists or {}).items()
        }
        self._parsed: dict[str, _Choice] = {}
        lines = self._read_lines()
        for location, line in lines:
            self._define(location, line)
        for name, (location, _) in self._lists.items():
            self._parse_list(location, name)
        self._templates: list[_Part] = []
        for location, line in lines:
            if not _LIST_LINE.fullmatch(line):
                self._collect(location, line)
        if self._problems:
            raise ProblemsError(
                f"{len(self._problems)} templates cannot be read",
                self._problems,
                hint="such as: turn {left|right} heading {digits:3}",
            )
        if not self._templates:
            raise RequestError("the file has no templates", where=path)

    @property
    def size(self) -> int:
        """How many sentences there are at most; equal ones are counted each time."""
        return sum(template.size for template in self._templates)

    def draw(self, count: int, seed: int) -> tuple[Prompt, ...]:
        """Distinct sentences, as many from each template as far as it has them.

        A prefix of any larger count of the same seed. There are fewer where the templates have no
        more.
        """
        streams = [
            _stream(template, random.Random(f"{seed}/template/{number}"))
            for number, template in enumerate(self._templates)
        ]
        prompts: dict[str, Prompt] = {}
        while streams and len(prompts) < count:
            for stream in list(streams):
                prompt = _next_new(stream, prompts)
                if prompt is None:
                    streams.remove(stream)
                    continue
                prompts[prompt.text] = prompt
                if len(prompts) == count:
                    break
        return tuple(prompts.values())

    def _read_lines(self) -> list[tuple[str, str]]:
        try:
            content = utf8_text(self._path.read_bytes(), self._path)
        except FileNotFoundError as error:
            raise RequestError("no such file of templates", where=self._path) from error
        except OSError as error:
            raise RequestError(f"templates cannot be read: {error}", where=self._path) from error
        for escaped, letter in _ESCAPED.items():
            content = content.replace(escaped, letter)
        return [
            (f"{self._path}:{number}", " ".join(line.split()))
            for number, line in enumerate(content.splitlines(), start=1)
            if line.strip() and not line.lstrip().startswith("#")
        ]

    def _define(self, location: str, line: str) -> None:
        """Keep the list that a line defines, if it does."""
        match = _LIST_LINE.fullmatch(line)
        if match is None:
            return
        name = match[1]
        items = [item.strip() for item in _split(match[2]) if item.strip()]
        if name in _DRAWN:
            self._problems.append(f"{location}: {name!r} is drawn, and cannot be a list")
        elif name in self._lists:
            self._problems.append(f"{location}: the list {name!r} is defined twice")
        elif not items:
            self._problems.append(f"{location}: the list {name!r} is empty")
        else:
            self._lists[name] = (location, items)

    def _parse_list(self, location: str, name: str) -> None:
        try:
            self._list(name, ())
        except _TemplateError as error:
            self._problems.append(f"{location}: {error}")
            # Its fault is reported once, not at every template that uses it.
            self._parsed[name] = _Choice([_text(name)])

    def _collect(self, location: str, line: str) -> None:
        try:
            self._templates.append(self._parse(line, ()))
        except _TemplateError as error:
            self._problems.append(f"{location}: {error}")

    def _parse(self, text: str, inside: tuple[str, ...]) -> _Part:
        """A template, or a part of one.

        Args:
            inside: names of the lists that it is an item of.
        """
        parts: list[_Part] = []
        position = 0
        while position < len(text):
            if text[position] == "{":
                end = _closing(text, position)
                parts.append(self._slot(text[position + 1 : end], inside))
                position = end + 1
            elif text[position] == "}":
                raise _TemplateError(f"column {position + 1}: a closing brace without an opening")
            else:
                end = min((at for at in map(text.find, "{}", (position,) * 2) if at >= 0),
                          default=len(text))  # fmt: skip
                parts.append(_text(text[position:end]))
                position = end
        return parts[0] if len(parts) == 1 else _Sequence(parts)

    def _slot(self, content: str, inside: tuple[str, ...]) -> _Part:
        """What stands between braces."""
        options = _split(content)
        if len(options) > 1:
            return _Choice([self._parse(option.strip(), inside) for option in options])
        match = _NAME.fullmatch(content)
        if match is None:
            raise _TemplateError(f"{{{content}}} is neither a list nor a choice such as {{a|b}}")
        name, form = match[1], match[2]
        if name in _DRAWN:
            return _DRAWN[name]((form or "").split())
        if name not in self._lists or form is not None:
            known = [*self._lists, *_DRAWN]
            raise _TemplateError(
                f"no list is called {content.strip()!r}{did_you_mean(name, known)}"
            )
        return self._list(name, inside)

    def _list(self, name: str, inside: tuple[str, ...]) -> _Part:
        if name in inside:
            raise _TemplateError(f"the list {name!r} contains itself")
        if name not in self._parsed:
            items = self._lists[name][1]
            self._parsed[name] = _Choice([self._parse(item, (*inside, name)) for item in items])
        # A deck of its own in each place: else two places would exclude each other's items.
        return _Choice(self._parsed[name].options)


def _split(text: str) -> list[str]:
    """The parts between bars that are not inside braces."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if letter == "|" and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _closing(text: str, start: int) -> int:
    """Where the brace that opens at `start` is closed."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return position
    raise _TemplateError(f"column {start + 1}: an opening brace without a closing one")


def _stream(template: _Part, rng: random.Random) -> Iterator[_Piece]:
    """Derivations of a template in random order: all once, or drawn without an end."""
    if template.size <= _MOST_LISTED:
        pieces = list(template.every())
        rng.shuffle(pieces)
        yield from pieces
        return
    drawer = _Drawer(rng)
    while True:
        yield template.draw(drawer)


def _next_new(stream: Iterator[_Piece], known: Mapping[str, Prompt]) -> Prompt | None:
    """The next sentence of a template that is not known; None where it has no more."""
    for repeats, (text, spoken) in enumerate(stream):
        text, spoken = _tidy(text), _tidy(spoken)
        if text and text not in known:
            return Prompt(text, "" if spoken == text else spoken)
        if repeats >= _MAX_REPEATS:
            break
    return None


def _tidy(text: str) -> str:
    """Single spaces, and none before punctuation, where an option was empty."""
    return re.sub(r" +([,.;:!?])", r"\1", " ".join(text.split()))


# --- what is drawn


def _count_of(name: str, words: Sequence[str], default: int) -> int:
    if not words:
        return default
    if len(words) > 1 or not words[0].isdecimal() or not 1 <= int(words[0]) <= _MOST_DRAWN:
        form = ":".join((name, " ".join(words)))
        raise _TemplateError(f"{{{form}}}: write a number from 1 to {_MOST_DRAWN}: {{{name}:3}}")
    return int(words[0])


def _digits(words: list[str]) -> _Part:
    as_figures = "figures" in words
    length = _count_of("digits", [word for word in words if word != "figures"], 3)

    def write(value: int) -> _Piece:
        figures = f"{value:0{length}d}"
        spoken = " ".join(_DIGITS[int(figure)] for figure in figures)
        return (figures if as_figures else spoken), spoken

    return _Literal(10**length, write)


def _letters(words: list[str]) -> _Part:
    length = _count_of("letters", words, 3)

    def write(value: int) -> _Piece:
        drawn = []
        for _ in range(length):
            value, letter = divmod(value, len(_LETTERS))
            drawn.append(_LETTERS[letter])
        return (" ".join(drawn),) * 2

    return _Literal(len(_LETTERS) ** length, write)


def _number(words: list[str]) -> _Part:
    bounds = re.fullmatch(r"(\d{1,9})-(\d{1,9})", words[0] if words else "0-999")
    if bounds is None or len(words) > 1 or int(bounds[1]) > int(bounds[2]):
        raise _TemplateError(f"{{number:{' '.join(words)}}}: write a range: {{number:1-99}}")
    low, high = int(bounds[1]), int(bounds[2])
    return _Literal(high - low + 1, lambda value: (str(low + value),) * 2)


_DRAWN: Mapping[str, Callable[[list[str]], _Part]] = {
    "digits": _digits,
    "number": _number,
    "letters": _letters,
}
