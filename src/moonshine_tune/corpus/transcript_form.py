"""The form of transcripts: what in a text is not speech, in one table of rules.

`data import`, `data check`, `data audit` and `data fix` share the table. Each match has the kind of
its finding. A match of a certain kind is not speech, and `data fix` changes exactly its characters.
A match of another kind may be speech: a person decides.

The labels are those of aligners (MFA, MAUS, Kaldi, WebMAUS), captions, transcription guides (LDC,
CHAT, GAT) and speech recognizers.
"""

import ast
import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html.entities import html5

from moonshine_tune.corpus.letter_forms import find_letters
from moonshine_tune.corpus.sound_words import (
    MODIFIERS,
    SOUND_BEGINNINGS,
    SOUND_WORDS,
    SOURCE_BEGINNINGS,
)

# --- white space and code points

# Characters without a width or a sound. Joiners (U+200C, U+200D) stay: Persian and Indic spelling
# uses them, and so do emoji; between letters of Latin, Greek and Cyrillic words they say nothing.
_CASED = "A-Za-z\u00c0-\u024f\u0370-\u052f\u1e00-\u1fff"
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    f"\U000e0001-\U000e007f]|(?<=[{_CASED}])[\u200c\u200d]+(?=[{_CASED}])"
)
# Between letters of these scripts, which have no spaces, a zero-width space is a word boundary.
_WORD_BREAK = re.compile("(?<=[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b+"
                         "(?=[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])")  # fmt: skip
_KEPT_BREAK = "\ufdd0"


def clean_text(text: str) -> str:
    """The text in NFC with single spaces, without spaces at its ends and invisible characters."""
    if not text.isascii():
        if _INVISIBLE.search(text):
            text = _WORD_BREAK.sub(_KEPT_BREAK, text)
            text = _INVISIBLE.sub("", text).replace(_KEPT_BREAK, "\u200b")
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


# --- labels of silence and noise

# Labels that aligners write without brackets, as they write them.
_BARE_LABELS = frozenset({
    "sil", "SIL", "sp", "SP", "spn", "SPN", "nsn", "NSN", "lau", "LAU", "h#", "!SIL", "#", "##",
    "<p:>", "xxx", "XXX", "yyy", "www", "&=", "[bb]",
})  # fmt: skip
_MUSIC = "♩♪♫♬🎵🎶"
_PUNCTUATION = ".,;:!?…'\"-"


def _folded(text: str) -> str:
    """Lower case without accents, except in scripts where a mark is part of the letter's sound."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFD", text.lower())
    return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", decomposed))


def _describes_sound(content: str, *, every_word: bool) -> bool:
    """Whether the content of brackets is a description of a sound, such as `door slams`.

    Args:
        every_word: for brackets that also enclose speech: no word may be another.
    """
    if re.fullmatch(r"[A-Z]+(?:[_-][A-Z]+)+", content):
        return True
    words = [_folded(word).strip(_PUNCTUATION) for word in content.replace("_", " ").split()]
    sounds = [word in SOUND_WORDS or word.startswith(SOUND_BEGINNINGS) for word in words]
    sources = [word.startswith(SOURCE_BEGINNINGS) for word in words]
    known = [
        is_sound or is_source or word in MODIFIERS
        for word, is_sound, is_source in zip(words, sounds, sources, strict=True)
    ]
    if any(sounds):
        return not every_word or all(known)
    is_verb = any(
        word.endswith(("s", "ing"))
        for word, is_source in zip(words, sources, strict=True)
        if is_source
    )
    return is_verb and all(known)


# --- the table of rules

# Kinds of findings, with the sentence that `data import` counts them in.
KINDS = {
    "placeholder": "a placeholder of a table",
    "silence_label": "a label of silence or noise",
    "possible_label": "a word that may be a label",
    "list_or_object": "a list or an object",
    "speaker_prefix": "the name of a speaker",
    "possible_speaker": "what may be the name of a speaker",
    "markup": "markup",
    "bracketed_words": "words in brackets",
    "parentheses": "words in parentheses",
    "lookalike_letters": "letters of another script or form",
    "possible_lookalike": "a word that may be in letters of another script",
    "broken_characters": "broken characters",
    "repeated_caption": "the end of the one before",
    "cleaned_text": "other spaces or characters than now (single spaces, NFC)",
}

# What is certainly not speech.
CERTAIN = frozenset(
    {"placeholder", "silence_label", "speaker_prefix", "markup", "lookalike_letters"}
)


@dataclass(frozen=True)
class FormMatch:
    """Characters of a text that are not speech, or may not be.

    Attributes:
        kind: of the finding.
        start, end: the characters `text[start:end]`.
        replacement: what `data fix` puts there.
    """

    kind: str
    start: int
    end: int
    replacement: str = ""


# What a rule says of a match: the kind of finding and the replacement; None if it is no match.
_Verdict = tuple[str, str] | None


@dataclass(frozen=True)
class _Rule:
    written: str
    verdict: Callable[[re.Match[str]], _Verdict]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Compiled when a text first needs it: most corpora have no such text."""
        return re.compile(self.written)


def _always(kind: str, replacement: str) -> Callable[[re.Match[str]], _Verdict]:
    return lambda match: (kind, match.expand(replacement))


_INLINE = re.compile(r"(?i)abbr|big|em|font|lang|mark|rt|ruby|small|span|strike|strong|su[bp]|"
                     r"[abciqsuv]")  # fmt: skip
_BLOCKS = re.compile(r"(?i)br|p|div|li|ul|ol|hr|h[1-6]|p:|eos|bos|sos|mask|laugh|breath")


def _tag(match: re.Match[str]) -> _Verdict:
    """Tags of HTML and of aligners; `<yes>` may be a word, and `a<b>c` is a formula."""
    # A tag inside a word leaves the word; a line break or a sound separates two words.
    name, text = match["name"], match.string
    if match["voice"] or _INLINE.fullmatch(name):
        around = text[match.start() - 1 : match.start()] + text[match.end() : match.end() + 1]
        is_formula = len(around) == 2 and around.isalnum() and f"</{name}" not in text
        return None if name and is_formula and match[0][1] != "/" else ("markup", "")
    is_tag = re.search(r"[/=]", match[0]) or _BLOCKS.fullmatch(name)
    is_certain = is_tag or _describes_sound(name, every_word=True)
    return ("markup", " ") if is_certain else ("bracketed_words", " ")


def _brackets(match: re.Match[str]) -> _Verdict:
    """Square and curly brackets: descriptions, except words of transcription guides."""
    content = match[0][1:-1].strip()
    is_word = any(map(str.isalnum, content)) and not re.fullmatch(r"[\d:.,]*:[\d:.,]*", content)
    # Switchboard: `[laughter-yeah]` is a spoken word, `[ I, + I think ]` a repair.
    is_spoken = "+" in content or re.match(r"laughter-|[A-Z] ", content)
    is_certain = not is_word or _describes_sound(content, every_word=False)
    return ("markup", " ") if is_certain and not is_spoken else ("bracketed_words", " ")


def _parentheses(match: re.Match[str]) -> _Verdict:
    content = match[0][1:-1].strip()
    # CHAT and GAT: `(.)` and `(0.8)` are pauses.
    if re.fullmatch(r"\.+|\d+\.\d+|-", content) or _describes_sound(content, every_word=True):
        return "markup", " "
    return ("parentheses", " ") if any(map(str.isalnum, content)) else ("markup", " ")


def _marked(match: re.Match[str]) -> _Verdict:
    """`*coughs*`, `++BREATH++`, `%hesitation`, `_noise_`; `*really*` is an emphasis."""
    if _describes_sound(match["words"], every_word=True):
        return "markup", " "
    return ("bracketed_words", " ") if match["mark"] == "*" else None


def _entity(match: re.Match[str]) -> _Verdict:
    name = match["name"]
    if not name.startswith("#") and f"{name};" not in html5:
        return None
    text = match[0]
    for _ in range(3):
        decoded = html.unescape(text)
        if decoded == text:
            break
        text = decoded
    return "markup", text


def _join(match: re.Match[str]) -> _Verdict:
    """A clitic: spaces go, and the apostrophe is decoded."""
    cut = match["cut"] if "cut" in match.re.groupindex else match[0]
    joined = html.unescape(re.sub(" |amp;", "", cut))
    return "markup", joined


def _name_in_capitals(match: re.Match[str]) -> _Verdict:
    """`ANNA: the words`; in a text all in capitals nothing sets a name apart."""
    is_name = match["name"].isupper() and not match["rest"].isupper()
    return ("possible_speaker", "") if is_name else None


_APOSTROPHE = r"&(?:amp;)*(?:apos|rsquo|#39|#x27|#8217);"
_NEGATED = ("ai|are|ca|could|dare|did|do|does|had|has|have|is|might|must|need|sha|should|was|"
            "were|wo|would")  # fmt: skip
_NAME = r"[^\W\d_][\w.'’-]*(?: [^\W\d_][\w.'’-]*){0,2}"
_NUMBERED = (r"(?:speaker|spk|guest|voice|sprecher(?:in)?|locuteur|locutrice|intervenant|hablante|"
             r"interlocutor|parlante|falante|spreker|talare|mówca|спикер|диктор|화자|참석자|話者|"
             r"说话人|說話人)[ _-]?(?:\d{1,3}|[A-Z])\b")  # fmt: skip
# Bounded, so that a long row of digits is read once and not from each of its digits on.
_CLOCK = r"(?:\d{1,5}:)?\d{1,5}:\d\d[.,]\d{3}"
_RULES = tuple(
    _Rule(pattern, verdict)
    for pattern, verdict in (
        # Entities, joined as the Moses scripts split them: `don &apos;t`, `l &apos; eau`. Dutch
        # `'s avonds` and `in 't` are words of their own.
        (rf"(?<=\w) +{_APOSTROPHE}(?:s(?! (?:\w+dags|avonds|morgens|ochtends|nachts|winters|zomers)"
         r"\b)|re|ve|ll|d|m|S|RE|VE|LL|D|M)(?!\w)", _join),
        (rf"(?i)\b(?:{_NEGATED})n(?P<cut> +{_APOSTROPHE}t)(?!\w)", _join),
        (rf"(?i)\b(?:{_NEGATED})(?P<cut> +n{_APOSTROPHE}t)(?!\w)", _join),
        (rf"(?i)\b(?:[cdjlmnst]|qu|jusqu|lorsqu|puisqu|un|all|dall|dell|nell|sull|quell)"
         rf"(?P<cut> *{_APOSTROPHE} +)(?=[aeiouhàâæéèêëîïôœùûü])", _join),
        (rf"(?i)\b(?:[cdjlmnst]|qu|jusqu|lorsqu|puisqu)(?P<cut> +{_APOSTROPHE})"
         r"(?=[aeiouhàâæéèêëîïôœùûü])", _join),
        (rf"(?<=s)(?P<cut> +{_APOSTROPHE})(?= \w)", _join),
        (r"&(?:amp;)*(?P<name>[A-Za-z][A-Za-z0-9]{1,30}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});", _entity),
        (r"(?<=\w) @(?P<mark>[-,./])@ (?=\w)", _always("markup", r"\g<mark>")),
        # Subtitles: times, overrides of ASS, escaped line breaks.
        (rf"{_CLOCK} *--> *{_CLOCK}", _always("markup", " ")),
        # Times of f4 and MAXQDA: `#00:00:03-5#`.
        (r"#\d\d:\d\d:\d\d(?:[-.,]\d{1,3})?#", _always("markup", " ")),
        (r"\{\\[^{}]*\}", _always("markup", "")),
        (r"(?<![A-Za-z]:)\\[Nnhrt]", _always("markup", " ")),
        # Tags of HTML, WebVTT, aligners and recognizers; `x <y and y> z` is none.
        (r"<\|[^|<>]{0,40}\|>|<\d[\d:.]*>", _always("markup", " ")),
        (r"</?(?P<name>[A-Za-z!][\w:-]*)(?:\.[\w.-]+)*"
         r"(?: +[\w:-]+ *= *(?:\"[^\"]*\"|'[^']*'|[^\s<>]+))* */?>|"
         r"<(?P<voice>v|lang|c)(?:\.[\w.-]+)* [^<>]+>", _tag),
        # Web pages and Markdown: the marks go, and the words stay.
        (r"!?\[(?P<words>[^\[\]]+)\]\((?:https?:|www\.|/|#|mailto:)[^()\s]*\)",
         _always("markup", r"\g<words>")),
        (r"https?://[^\s<>()\[\]]*[^\s<>()\[\].,;:!?\"']", _always("markup", " ")),
        (r"(?<!\w)(?P<mark>\*\*|__|~~|`)(?=[^\s*_~`])(?P<words>[^*_~`]+)(?<=\S)(?P=mark)(?!\w)",
         _always("markup", r"\g<words>")),
        (r"^#{2,6} ", _always("markup", "")),
        # Brackets of transcribers. LDC's double parentheses enclose words that were spoken.
        (r"\(\((?P<words>[^()]*)\)\)", _always("markup", r"\g<words>")),
        (r"(?<!\()\((?![()])[^()]*\)(?!\))|（[^（）]*）", _parentheses),
        (r"\[[^\[\]]*\](?!\()|［[^［］]*］|【[^【】]*】|〔[^〔〕]*〕|\{(?!\\)[^{}]*\}", _brackets),
        (r"(?<![\w*+~=])(?P<mark>\*|\+{1,2}|~|=|_)(?P<words>[^\W_](?:[^*+~=_<>\[\]()]{0,38}[^\W_])?)"
         r"(?P=mark)(?![\w*])", _marked),
        (r"(?<!\S)(?P<mark>%|&=)(?P<words>[^\W\d_]+)\b(?!;)", _marked),
        (f"[{_MUSIC}\ufe0f]*[{_MUSIC}]", _always("markup", "")),
        # Speakers.
        (r"(?:^|(?<=[.?!…\"”] ))>>+ *", _always("speaker_prefix", "")),
        (rf"(?i)^(?:[\[(<]{_NUMBERED}[\])>][:：]?|{_NUMBERED} ?[:：]|SPEAKER_\d\d\b) *",
         _always("speaker_prefix", "")),
        (r"^\d\d:\d\d:\d\d(?:[.,]\d{1,3})? +(?=\D)", _always("markup", "")),
        (rf"^[\[(]{_NAME}[\])] ?[:：] *", _always("speaker_prefix", "")),
        (rf"^(?P<cut>(?P<name>{_NAME})[:：] +)(?P<rest>.+)", _name_in_capitals),
    )
)  # fmt: skip

# A text without these has no match of the table above.
_SUSPECT = re.compile(
    r"[<>\[\]{}()（［【〔&*_~`+=%@\\:："
    + _MUSIC
    + "\ufffd\x00-\x08\x0e-\x1b\x7f-\x9f]|^##|^[bu]['\"]"
)

# --- whole texts

_LONGEST_LABEL = 40
# What spreadsheets, databases and pandas write for a missing or a wrong value; a formula, a number
# too long for its cell, and the day zero.
_PLACEHOLDER = re.compile(
    r"#(?:N/[ADV]|NV|[^\s#a-z]{2,20}[?!])|#(?i:name\?|ref!|value!|num!|null!|div/0!|n/a)|Err:\d{3}|"
    r"#{3,}|=[A-Z][A-Z.]+\(.*\)|=\$?[A-Z]{1,3}\$?\d+\b.*|-?\d(?:[.,]\d+)?E[+-]\d{1,3}|"
    r"1900-01-00|0?[01]/0/1900|00\.01\.1900|\[object \w+\]|"
    r"(?i:[<\[(](?:na|nan|null|none|nil|nat|empty|missing|blank|leer|vide|unknown|not available|"
    r"not transcribed|no (?:speech|audio|text|transcript(?:ion)?))[>\])])|\\N|NaN|NaT|[nN]/[aA]|"
    r"[-–—]{1,3}|\?{1,5}|_{1,5}"
)  # fmt: skip
_MONTH = "(?:Jan|Feb|Mar|Mrz|Apr|May|Mai|Jun|Jul|Aug|Sep|Oct|Okt|Nov|Dec|Dez)"
# Words in some language, too: `null` is zero in German, `todo` is everything in Spanish. A date may
# be what a spreadsheet made of `2-1`, and a file may be meant to hold the text.
_PLACEHOLDER_WORD = re.compile(
    r"nan|NAN|none|None|NONE|null|Null|NULL|na|NA|todo|TODO|tbd|TBD|tba|TBA|missing|MISSING|"
    r"undefined|UNDEFINED|fixme|FIXME|nil|NIL|True|TRUE|False|FALSE|VRAI|FAUX|WAHR|FALSCH|"
    r"VERDADERO|FALSO|ИСТИНА|ЛОЖЬ|nan\.|"
    r"(?i:n\.a\.?|k\.a\.?|n\.d\.?|empty|blank|unknown|pending|silence|noise|inaudible|"
    r"unintelligible|untranscribed|not (?:available|transcribed)|"
    r"no (?:speech|audio|text|transcript(?:ion)?)|(?:transcript(?:ion)?|text) (?:missing|pending))|"
    rf"\d{{1,2}}[-. ]{_MONTH}|{_MONTH}[-. ]\d{{2}}|\d{{1,2}}:\d\d:\d\d [AP]M|"
    r"\S{1,30}\.(?i:wav|mp3|flac|ogg|opus|m4a|aac|txt|lab|json|textgrid)"
)
_AROUND_WORD = " -–—*"


def _whole_text_kind(text: str) -> str | None:
    """The kind of a text that as a whole is no transcript."""
    if len(text) <= _LONGEST_LABEL:
        if _PLACEHOLDER.fullmatch(text):
            return "placeholder"
        word = text.strip(_AROUND_WORD)
        if _PLACEHOLDER_WORD.fullmatch(word) or (text in _BARE_LABELS and text.isalpha()):
            return "possible_label"
    if is_list_or_object(text):
        return "list_or_object"
    return "silence_label" if is_silence_label(text) else None


def is_placeholder(text: str) -> bool:
    """Whether a text is what tables certainly have instead of a value: `#NAME?`, `NaN`, `-`."""
    return _PLACEHOLDER.fullmatch(text) is not None


def is_list_or_object(text: str) -> bool:
    """Whether a text is what Python or JSON writes for a list, a tuple, bytes or an object."""
    if text[:7] == "array([" and text[-1:] == ")":
        return True
    if text[:1] in "bu" and text[1:2] in "'\"" and len(text) > 2 and text[-1] == text[1]:
        return True
    if (
        len(text) < 2
        or text[0] + text[-1] not in ("[]", "{}", "()")
        or not set("'\",:") & set(text)
    ):
        return False
    try:
        return isinstance(ast.literal_eval(text), list | tuple | dict | set)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        return False


def is_silence_label(text: str) -> bool:
    """Whether a whole text is a label of silence or noise: `sil`, `<eps>`, `[noise]`, `♪ ♪`."""
    text = clean_text(text)
    if text and all(word in _BARE_LABELS for word in text.split()):
        return True
    if not text or len(text) > _LONGEST_LABEL or not _SUSPECT.search(text) or "\\" in text:
        return False
    if "://" in text or "-->" in text:
        return False
    matches = [match for match in _table_matches(text) if match.kind == "markup"]
    return bool(matches) and not any(map(str.isalnum, _applied(text, matches)))


# Characters of a program's text (`caf\\u00e9`), and those that are left of a PDF's.
_ESCAPE = re.compile(r"\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}")
_LOST = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\ue000-\uf8ff\ufb00-\ufb06\ufffd]")


def _is_broken(text: str) -> bool:
    """Whether characters were lost, or UTF-8 was read as another encoding (`cafÃ©`)."""
    if _LOST.search(text):
        return True
    for encoding in ("cp1252", "cp1251"):
        try:
            decoded = text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        # Two characters of a Latin text can be UTF-8 by accident: `É»` is a phonetic letter.
        return not re.search("[\u0250-\u036f]", decoded)
    return False


# --- matches


# A name before a colon; without a space after it, it may be a time.
_PREFIX = re.compile(rf"(?P<name>{_NAME}) ?(?:: |：) *(?=\S)")
# Names before so many texts, and before this share of all, are no `Note:` of a sentence.
_FEWEST_PREFIXES, _LEAST_SHARE = 2, 0.1


def names_before(texts: Sequence[str | None], speakers: Iterable[str | None]) -> frozenset[str]:
    """Names before a colon that are speakers of the corpus, or that repeat with others, in lower
    case.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        if text and (":" in text or "：" in text) and (match := _PREFIX.match(text)):
            counts[match["name"].lower()] += 1
    if not counts:
        return frozenset()
    repeated = {name for name, count in counts.items() if count >= _FEWEST_PREFIXES}
    share = sum(counts[name] for name in repeated) / len(texts)
    is_dialogue = len(repeated) > 1 and share >= _LEAST_SHARE
    known = {name.lower() for name in speakers if name}
    return frozenset((repeated if is_dialogue else set()) | (known & counts.keys()))


def without_prefix(text: str) -> str:
    """The text without the name before its first colon."""
    return _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text


def _may_be_label(text: str) -> bool:
    """Whether a text of several words may as a whole be a label or a placeholder."""
    if len(text) > _LONGEST_LABEL:
        return text.partition(" ")[0] in _BARE_LABELS
    return _PLACEHOLDER_WORD.fullmatch(text.strip(_AROUND_WORD)) is not None or (
        text.partition(" ")[0] in _BARE_LABELS
    )


def find_form(
    text: str, speaker: str | None = None, names: frozenset[str] = frozenset()
) -> tuple[FormMatch, ...]:
    """What in a text is not speech, or may not be, in its order.

    Args:
        text: as of `clean_text`.
        speaker: of the utterance: its name before the words is certainly not speech.
        names: of `names_before`: what may be a speaker before the words.
    """
    matches: list[FormMatch] = []
    if not text.isascii() and _is_broken(text):
        matches.append(FormMatch("broken_characters", 0, len(text), text))
    for is_certain, start, end, letters in find_letters(text):
        name = "lookalike_letters" if is_certain else "possible_lookalike"
        matches.append(FormMatch(name, start, end, letters))
    is_plain = _SUSPECT.search(text) is None
    # Most texts end here: several words without a mark, and the first is no label.
    if is_plain and " " in text and not _may_be_label(text):
        return tuple(matches)
    if not is_plain and _ESCAPE.search(text):
        matches.append(FormMatch("broken_characters", 0, len(text), text))
    if len(text) <= _LONGEST_LABEL or text[0] in "[{(a":
        kind = _whole_text_kind(text)
        if kind is not None:
            return (*matches, FormMatch(kind, 0, len(text)))
    if is_plain:
        return tuple(matches)
    matches += _table_matches(text)
    prefix = _PREFIX.match(text) if names else None
    if prefix and prefix["name"].lower() in names and all(item.start for item in matches):
        matches.append(FormMatch("possible_speaker", 0, prefix.end()))
    if speaker and (own := re.match(rf"{re.escape(speaker)} ?[:：] *(?=\S)", text, re.IGNORECASE)):
        matches = [match for match in matches if match.kind != "possible_speaker"]
        matches.append(FormMatch("speaker_prefix", 0, own.end()))
    return tuple(sorted(matches, key=lambda match: (match.start, match.end)))


def _table_matches(text: str) -> list[FormMatch]:
    """Matches of the table; of two that overlap, the certain one, then the longer one stays."""
    candidates = []
    for rule in _RULES:
        for match in rule.pattern.finditer(text):
            verdict = rule.verdict(match)
            if verdict is not None:
                group = "cut" if "cut" in rule.pattern.groupindex else 0
                candidates.append(FormMatch(verdict[0], *match.span(group), verdict[1]))
    candidates += _quotation_marks(text)
    candidates.sort(key=lambda item: (item.kind not in CERTAIN, item.start, -item.end))
    chosen: list[FormMatch] = []
    for item in candidates:
        if all(item.end <= kept.start or item.start >= kept.end for kept in chosen):
            chosen.append(item)
    return chosen


def _quotation_marks(text: str) -> list[FormMatch]:
    """Standing `&quot;` as the Moses scripts split them: they open and close alternately."""
    marks = list(re.finditer(r"(?<!\S)&(?:amp;)*quot;(?!\S)", text))
    if len(marks) % 2:
        return []
    matches = []
    for position, mark in enumerate(marks):
        start, end = mark.span()
        if position % 2 and start:
            start -= 1
        elif not position % 2 and end < len(text):
            end += 1
        matches.append(FormMatch("markup", start, end, '"'))
    return matches


def _applied(text: str, matches: Sequence[FormMatch]) -> str:
    """The text with every match replaced, and single spaces."""
    result, position = "", 0
    for match in sorted(matches, key=lambda item: item.start):
        result += text[position : match.start] + match.replacement
        position = match.end
        # `fine [laughter], yes`: no space is left before the comma.
        if not match.replacement.strip() and text[position : position + 1] in set(",.;:!?…"):
            result = result.rstrip(" ")
    return " ".join((result + text[position:]).split())


def repaired(text: str, kind: str, speaker: str | None = None) -> str:
    """The text with exactly the matches of one kind replaced; brackets in brackets go, too."""
    for _ in range(3):
        matches = [match for match in find_form(text, speaker) if match.kind == kind]
        if not matches:
            break
        text = _applied(text, matches)
    return text


def count_form(texts: Sequence[str | None]) -> dict[str, int]:
    """Kind of finding → number of texts with it, in the order of `KINDS`."""
    names = names_before(texts, ())
    forms = (find_form(text, names=names) for text in texts if text)
    counts = Counter(kind for form in forms for kind in {match.kind for match in form})
    return {kind: counts[kind] for kind in KINDS if counts[kind]}
