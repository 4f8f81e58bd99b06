"""Letters that only look right: of another script, in a special form, or accents as apostrophes.

They are other tokens than the letters that a reader sees, and other words to a scorer. A repair is
certain where all letters of a word become letters of one script. Words that people write in two
scripts on purpose are left alone: `SMSки`, `iPhoneのケース`, `μm`, `kΩ`, `Wi-Fi-роутер`.

The pairs are those of Unicode Technical Standard 39 (confusables) that look the same in print.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_CYRILLIC = "\u0400-\u0481\u048a-\u052f"
_GREEK = "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u03ff\u1f00-\u1fff"
_SCRIPTS = {
    "Latin": re.compile(f"[{_LATIN}]"),
    "Cyrillic": re.compile(f"[{_CYRILLIC}]"),
    "Greek": re.compile(f"[{_GREEK}]"),
}
_PAIRS = (
    ("Latin", "AaBCcEeHIiJjKMOopPSsTXxyhYQqWw", "Cyrillic", "АаВСсЕеНІіЈјКМОорРЅѕТХхуһҮԚԛԜԝ"),
    ("Latin", "ABEZHIKMNOPTYXo", "Greek", "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο"),
)
# From a script to another: what each letter that has a twin there becomes.
_TWINS: dict[tuple[str, str], dict[str, str]] = {}
for _first, _ours, _second, _theirs in _PAIRS:
    _TWINS[_second, _first] = dict(zip(_theirs, _ours, strict=True))
    _TWINS[_first, _second] = dict(zip(_ours, _theirs, strict=True))

_TWO_SCRIPTS = re.compile(f"[{_CYRILLIC}{_GREEK}]")
_WORD = re.compile(rf"[{_LATIN}{_CYRILLIC}{_GREEK}\u0300-\u036f]+")
# Of an acronym or a brand with an ending of another script: `SMSка`, `VIPа`.
_STEM_AND_ENDING = re.compile(rf"[A-Z]{{2,}}[{_CYRILLIC}{_GREEK}]+|[А-ЯЁ]{{2,}}[a-z]+")
_VARIABLES = frozenset("xyхуνορ")
# Units and formulas: `kΩ`, `MΩ`, `ΔT`, `TNFα`; the letters of a word are more.
_FEWEST_LETTERS = 3

# Decompositions that are another form of the same letter; not of `²`, `½`, `№`, `ำ` or `ĳ`.
_FORMS = ("<font>", "<wide>", "<narrow>", "<initial>", "<medial>", "<final>", "<isolated>")
_FORM_RANGES = "\u2102-\u214f\ufb1d-\ufdff\ufe70-\ufeff\uff10-\uffdc\U0001d400-\U0001d7ff"
_MAY_BE_FORM = re.compile(f"[{_FORM_RANGES}]")
_FORM_WORD = re.compile(f"[{_FORM_RANGES}]+")
# Full-width letters and digits are usual in texts of these scripts.
_EAST_ASIAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")

# `don´t`, `it`s`, `l´eau`: keyboards with accents as keys of their own.
_ACCENT = re.compile(
    rf"(?<=[{_LATIN}])[´`](?=(?:s|t|m|d|re|ve|ll)\b)|"
    r"(?i:(?<=\b[cdjlmnst])|(?<=\bqu))[´`](?=[aeiouhàâæéèêëîïôœùûü])"
)

Letters = tuple[bool, int, int, str]
"""Whether the repair is certain, the characters `text[start:end]`, and what they become."""


def find_letters(text: str) -> Iterator[Letters]:
    """Letters of a text in NFC that only look right, in no order."""
    if "´" in text or "`" in text:
        yield from ((True, *match.span(), "'") for match in _ACCENT.finditer(text))
    if text.isascii():
        return
    if _MAY_BE_FORM.search(text):
        yield from _special_forms(text)
    if _TWO_SCRIPTS.search(text) and _SCRIPTS["Latin"].search(text):
        yield from _lookalikes(text)


def _special_forms(text: str) -> Iterator[Letters]:
    is_east_asian = _EAST_ASIAN.search(text) is not None
    for match in _FORM_WORD.finditer(text):
        kinds = [unicodedata.decomposition(letter).partition(" ")[0] for letter in match[0]]
        plain = unicodedata.normalize("NFKC", match[0])
        if not set(kinds) <= set(_FORMS) or " " in plain or not any(map(str.isalnum, plain)):
            continue
        if is_east_asian and "<wide>" in kinds:
            continue
        # Of a PDF: the letters are in the order in which they are seen.
        is_reversed = len(kinds) > 1 and (kinds[0] == "<final>" or kinds[-1] == "<initial>")
        yield not is_reversed, *match.span(), match[0] if is_reversed else plain


def _lookalikes(text: str) -> Iterator[Letters]:
    scripts_of_text = {
        name
        for name, letters in _SCRIPTS.items()
        if not set(letters.findall(text)) <= _twins_of(name)
    }
    for match in _WORD.finditer(text):
        word = match[0]
        scripts = [name for name, letters in _SCRIPTS.items() if letters.search(word)]
        if len(scripts) > 1:
            if len(word) >= _FEWEST_LETTERS and not _STEM_AND_ENDING.fullmatch(word):
                yield from _of_two_scripts(word, scripts, scripts_of_text, match.start())
        elif len(scripts_of_text) == 1 and scripts_of_text.isdisjoint(scripts) and word.islower():
            # A whole word of twins, such as `а` in an English sentence; `PC` and `XXI` are names
            # and numbers, and `x` is a variable.
            if word in _VARIABLES or text[match.start() - 1 : match.start()].isdigit():
                continue
            plain = _written_in(word, scripts[0], next(iter(scripts_of_text)))
            if plain is not None:
                yield False, *match.span(), plain


def _of_two_scripts(
    word: str, scripts: list[str], scripts_of_text: set[str], start: int
) -> Iterator[Letters]:
    plain = {
        script: written
        for script in scripts
        for source in scripts
        if source != script and (written := _written_in(word, source, script)) is not None
    }
    # Where every letter has a twin, the script of the other words decides.
    likely = [script for script in plain if script in scripts_of_text]
    if len(scripts) == 2 and (len(plain) == 1 or len(likely) == 1):
        yield True, start, start + len(word), plain[(likely or list(plain))[0]]
    elif plain or _num_changes(word) > 1:
        yield False, start, start + len(word), word


def _twins_of(script: str) -> set[str]:
    """Letters of a script that have a twin in another one."""
    return {letter for (first, _), twins in _TWINS.items() if first == script for letter in twins}


def _written_in(word: str, script: str, target: str) -> str | None:
    """The word with the letters of one script as their twins in another; None if one has none."""
    twins = _TWINS.get((script, target), {})
    foreign = set(_SCRIPTS[script].findall(word))
    return "".join(twins.get(letter, letter) for letter in word) if foreign <= set(twins) else None


def _num_changes(word: str) -> int:
    """How often the script changes within a word."""
    names = [
        name for letter in word for name, letters in _SCRIPTS.items() if letters.fullmatch(letter)
    ]
    return sum(first != second for first, second in pairwise(names))
