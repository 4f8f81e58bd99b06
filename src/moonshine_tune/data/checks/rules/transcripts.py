"""Transcripts as text: missing, repeated, or written unlike the rest of the corpus."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator

from moonshine_tune.corpus.grouping import plain_text
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.corpus.transcript_form import clean_text
from moonshine_tune.data.checks.base import Drop, Edit, edit_text, manifest_check, utterance_check
from moonshine_tune.data.checks.checked_manifest import CheckedManifest, Occurrence
from moonshine_tune.data.checks.text import (
    DIGITS,
    NUMBER_WORDS,
    in_capitals,
    sentence_case,
    shortened,
)

_PLAIN_CHARACTERS = str.maketrans({
    "’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‑": "-", "…": "...",
})  # fmt: skip
# Other shapes of the same letters: ligatures, full-width and Arabic presentation forms. NFKC would
# also change x² to x2 and ½ to 1⁄2.
_SAME_LETTERS = ("<compat>", "<wide>", "<narrow>", "<initial>", "<medial>", "<final>",
                 "<isolated>", "<noBreak>")  # fmt: skip
# A cheap bound of what a normalizer empties: fillers of these letters, and words in brackets.
_MAY_BE_EMPTY = re.compile(r"(?i)(?:\([^()]*\)|\[[^\[\]]*\]|<[^<>]*>|[\W_]|[hmu])*")
# Byte-level tokens, which spell characters without a token of their own.
_BYTE_PIECE = re.compile(r"^<0x[0-9A-F]{2}>$")
_REPEATS = 3
# A spelling with no more than this share of a corpus is a slip and not a convention.
_SLIP_SHARE, _FEWEST = 0.1, 20


@manifest_check("warning", rank=20, names_utterances=False)
def no_texts(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[line has|lines have] no transcript, as all lines: good for replay and transcribing, not for
    training or scoring.

    Add texts if you mean to train or score.
    """
    if not _has_texts(manifest):
        yield from ((utterance.id, "no text") for utterance in manifest.utterances)


@manifest_check("error", rank=90, fix=Drop())
def missing_text(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[line has|lines have] no transcript, in a manifest with transcripts.

    Add [the text, or remove the line|the texts, or remove the lines].
    """
    if _has_texts(manifest):
        yield from ((item.id, "no text") for item in manifest.utterances if item.text is None)


@utterance_check("error", rank=100, fix=Drop())
def empty_text(utterance: Utterance) -> str | None:
    """[transcript is|transcripts are] empty: every spoken word would count as wrong.

    Add [the text, or remove the line|the texts, or remove the lines].
    """
    is_empty = utterance.text is not None and not plain_text(utterance)
    return repr(utterance.text) if is_empty else None


@manifest_check("warning", rank=150, fix=Drop(on_request=True))
def empty_when_normalized(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] nothing to score: the normalizer of the language removes
    fillers such as um, and words in brackets.

    Keep [it|them] for training; every word that a model writes there counts as wrong.
    """
    labels = {item.id for item, _ in manifest.form.get("silence_label", ())}
    for utterance in manifest.utterances:
        text = utterance.text or ""
        if not _MAY_BE_EMPTY.fullmatch(text) or not plain_text(utterance):
            continue
        normalizer = normalizer_for(None, utterance.language or "en")
        if utterance.id not in labels and not normalizer(text):
            yield utterance.id, f"{shortened(repr(text))} with {normalizer.name}"


@manifest_check("warning", rank=151, fix=Drop(on_request=True))
def file_name_text(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript is|transcripts are] the name of [its|their] recording, as in most lines: the
    column of names may have been read as the texts.

    Import again, and name the column of the texts: --text-column NAME.
    """
    texts = [item for item in manifest.utterances if item.text]
    same = [item for item in texts if _is_file_name(item)]
    if len(same) > len(texts) / 2:
        yield from ((item.id, shortened(item.text or "")) for item in same)


def _is_file_name(utterance: Utterance) -> bool:
    """Words are names of files, too; those of speech have no digits beside their letters."""
    text, stem = (utterance.text or "").casefold(), utterance.audio.stem.casefold()
    return text == stem and any(map(str.isdigit, text)) and any(map(str.isalpha, text))


@manifest_check("note", rank=30)
def same_text(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript occurs|transcripts occur] more than once.

    Do nothing if it is intended.
    """
    ids: dict[str, list[str]] = defaultdict(list)
    for utterance in manifest.utterances:
        if text := plain_text(utterance):
            ids[text].append(utterance.id)
    for text, same in ids.items():
        if len(same) > 1:
            yield from ((item, f"{len(same)} times: {shortened(text)}") for item in same)


def _sentence_case(utterance: Utterance, _value: float | None = None) -> Utterance:
    return utterance.with_text(sentence_case(utterance.text or "", utterance.language))


# The last edit: the first letter may be markup, or a character that becomes a plain one.
@manifest_check("warning", rank=60, fix=Edit("sentence_case", _sentence_case, order=2))
def capitals(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript is|transcripts are] in capitals: the model would learn typography, not words.

    Write [it as you want to read it|them as you want to read them]: Turn left heading one two zero.
    """
    no_words = {
        item.id
        for kind in ("silence_label", "placeholder", "possible_label")
        for item, _ in manifest.form.get(kind, ())
    }
    for utterance in manifest.utterances:
        text = utterance.text or ""
        if in_capitals(text) and utterance.id not in no_words and plain_text(utterance):
            yield utterance.id, shortened(text)


@utterance_check("warning", rank=150, fix=Drop(on_request=True), audit_only=True)
def repeated_words(utterance: Utterance) -> str | None:
    """[transcript repeats|transcripts repeat] a phrase three times in a row, a typical error of
    speech recognizers.

    Listen, and fix [the text|the texts].
    """
    phrase = _repeated_phrase(plain_text(utterance).split())
    return f"{phrase!r} at least three times in a row" if phrase else None


@manifest_check("warning", rank=160, fix=Drop(on_request=True), audit_only=True)
def mixed_numbers(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript writes|transcripts write] numbers unlike the rest of the corpus: two spellings to
    learn for one sound.

    Write numbers as in the other transcripts.
    """
    texts = {item.id: item.text for item in manifest.utterances if item.text and item.text.strip()}
    if len(texts) < _FEWEST:
        return
    digits = [name for name, text in texts.items() if DIGITS.search(text)]
    words = [name for name, text in texts.items() if NUMBER_WORDS.search(text)]
    both = len(set(digits) | set(words))
    for few, many in ((digits, words), (words, digits)):
        if len(many) >= _FEWEST and len(few) <= _SLIP_SHARE * both:
            for name in few:
                yield name, f"{shortened(texts[name])}; {len(many)} others write differently"


def _plain_characters(text: str) -> str:
    plain = [
        unicodedata.normalize("NFKC", character)
        if unicodedata.decomposition(character).startswith(_SAME_LETTERS)
        else character
        for character in text.translate(_PLAIN_CHARACTERS)
    ]
    return clean_text("".join(plain))


@manifest_check(
    "warning",
    rank=170,
    fix=edit_text("plain_characters", _plain_characters, order=1),
    audit_only=True,
)
def odd_characters(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] characters without a token of their own, which are spelled
    as bytes.

    Write them in another way if they carry no meaning: ’ as ', ﬁ as fi.
    """
    model = manifest.model
    if model is None:
        return
    for text, identifier in ((c.utterance.text or "", c.utterance.id) for c in manifest.clips):
        odd = [
            character
            for character in sorted(set(text))
            if any(_BYTE_PIECE.match(model.pieces[token]) for token in model.encode(character))
        ]
        if odd:
            yield identifier, f"{' '.join(odd)} in {shortened(text)}"


def _has_texts(manifest: CheckedManifest) -> bool:
    return any(utterance.text is not None for utterance in manifest.utterances)


def _repeated_phrase(words: list[str]) -> str:
    """A phrase of up to four words that occurs three times in a row, else the empty string.

    `two two two` is a number: phrases of number words, and of words below three letters, do not
    count.
    """
    for size in (1, 2, 3, 4):
        for start in range(len(words) - _REPEATS * size + 1):
            phrase = words[start : start + size]
            is_repeated = words[start : start + _REPEATS * size] == phrase * _REPEATS
            text = " ".join(phrase)
            is_number = NUMBER_WORDS.fullmatch(text) or all(len(word) < 3 for word in phrase)
            if is_repeated and not is_number:
                return text
    return ""
