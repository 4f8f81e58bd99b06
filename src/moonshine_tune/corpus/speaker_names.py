"""Names of speakers and sessions, compared as people mean them."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from moonshine_tune.corpus.transcript_form import clean_text, is_placeholder

# What tables have where nobody is named, in lower case.
_NOBODY = """
    n/a <na> none null nan unknown unk undefined unnamed anonymous - -- --- – — ? ?? ??? . _ / #n/a
    unbekannt inconnu inconnue desconocido desconocida sconosciuto desconhecido onbekend okänd
    nieznany неизвестно неизвестный 알수없음 未知 不明 不詳 匿名
    anon nobody missing empty blank nil unspecified unidentified undisclosed untitled tbd tba todo
    n.a k.a n.d s/n
"""
_NO_NAME = frozenset(_NOBODY.split())
_NO_NAMES = frozenset((
    "no one", "not known", "not specified", "not available", "not given", "sin nombre",
    "ohne angabe", "keine angabe", "non renseigné", "sans nom",
))  # fmt: skip
_PERSON = re.compile(r"^(?:speaker|person|voice|reader|name) +|"
                     r"(?<=\w) +(?:speaker|person|voice|reader|name)$")  # fmt: skip
_MARKS = re.compile("[\u0300-\u036f\u0640\u064b-\u0652]")


def clean_name(name: str | None) -> str | None:
    """The name in NFC with single spaces; None where it means that nobody is named."""
    if not name:
        return None
    cleaned = clean_text(name)
    if not cleaned or cleaned == "Nan":
        return cleaned or None
    if _INITIALS.fullmatch(cleaned):
        return cleaned
    # `Unknown Speaker`, `(blank)`, `n.a.`
    bare = cleaned.lower().strip("()[]<>").rstrip(".")
    bare = _PERSON.sub("", bare) if " " in bare else bare
    is_nobody = bare in _NO_NAME or bare in _NO_NAMES or cleaned.lower() in _NO_NAME
    return None if is_nobody or is_placeholder(cleaned) else cleaned


_NUMBER = re.compile(r"0*(\d+?)(?:\.0+)?")
_INITIALS = re.compile(r"[A-Z]\.?[A-Z]\.?")
_UNSURE = frozenset(("NA", "N.A.", "N.A", "K.A.", "N.D."))


def mean_nobody(names: Iterable[str]) -> frozenset[str]:
    """Which of all names of a manifest mean that nobody is named: `NA` and `N.A.`, unless others
    are initials, too.
    """
    distinct = set(names)
    initials = {name for name in distinct if _INITIALS.fullmatch(name)} - _UNSURE
    return frozenset(() if initials else distinct & _UNSURE)


def similar_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ in case, accents or the form of a number only, each sorted.

    Tables make `1` of `01`, and `1.0` of `1` where another row has none.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for name in names:
        decomposed = unicodedata.normalize("NFKD", name).casefold().replace("ı", "i")
        plain = _MARKS.sub("", decomposed)
        number = _NUMBER.fullmatch(plain)
        groups[number[1] if number else plain].add(name)
    return [tuple(sorted(group)) for _, group in sorted(groups.items()) if len(group) > 1]
