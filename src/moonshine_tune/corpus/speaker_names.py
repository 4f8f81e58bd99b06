"""Names of speakers and sessions, compared as people mean them."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from moonshine_tune.corpus.transcript_form import clean_text

# What tables have where nobody is named, in lower case.
_NOBODY = """
    n/a <na> none null nan unknown unk undefined unnamed anonymous - -- --- – — ? ?? ??? . _ / #n/a
    unbekannt inconnu inconnue desconocido desconocida sconosciuto desconhecido onbekend okänd
    nieznany неизвестно неизвестный 알수없음 未知 不明 (none) (unknown) [unknown] <unknown> <none>
"""
_NO_NAME = frozenset(_NOBODY.split())
_MARKS = re.compile("[\u0300-\u036f\u0640\u064b-\u0652]")


def clean_name(name: str | None) -> str | None:
    """The name in NFC with single spaces; None where it means that nobody is named."""
    if not name:
        return None
    cleaned = clean_text(name)
    return None if not cleaned or (cleaned.lower() in _NO_NAME and cleaned != "Nan") else cleaned


def mean_nobody(names: Iterable[str]) -> frozenset[str]:
    """Which of all names of a manifest mean that nobody is named: `NA`, unless others are initials,
    too.
    """
    distinct = set(names)
    initials = [name for name in distinct if re.fullmatch(r"[A-Z]{2}", name) and name != "NA"]
    return frozenset(() if initials else distinct & {"NA"})


def similar_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ in case or accents only, each sorted."""
    groups: dict[str, set[str]] = defaultdict(set)
    for name in names:
        decomposed = unicodedata.normalize("NFD", name).casefold().replace("ı", "i")
        groups[_MARKS.sub("", decomposed)].add(name)
    return [tuple(sorted(group)) for _, group in sorted(groups.items()) if len(group) > 1]
