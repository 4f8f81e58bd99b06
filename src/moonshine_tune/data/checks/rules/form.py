"""The form of transcripts: labels, placeholders, names and markup, by the one table of rules.

The rules are in `corpus/transcript_form.py`, and `data import` counts by them, too.
"""

from collections import Counter
from collections.abc import Iterator
from unicodedata import name

from moonshine_tune.corpus.rolling_captions import repeated_captions
from moonshine_tune.corpus.transcript_form import FormMatch, without_prefix
from moonshine_tune.data.checks.base import Drop, edit_form, edit_text, manifest_check
from moonshine_tune.data.checks.checked_manifest import CheckedManifest, Occurrence
from moonshine_tune.data.checks.text import shortened


# An empty text is dropped.
@manifest_check("warning", rank=141, fix=edit_text("strip_label", lambda _text: ""))
def silence_label(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript is a label|transcripts are labels] of silence or noise: the model would learn to
    write it.

    Remove [the line|the lines], or add what is said.
    """
    return _whole_texts(manifest, "silence_label")


@manifest_check("warning", rank=142, fix=Drop())
def placeholder(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript is|transcripts are] what tables have instead of a text: the model would learn to
    write it.

    Add [the text, or remove the line|the texts, or remove the lines].
    """
    return _whole_texts(manifest, "placeholder")


@manifest_check("warning", rank=143, fix=Drop(on_request=True))
def possible_label(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript is|transcripts are] a word that tables and aligners write where there is no text.

    Keep [it|them] if the word is spoken; else drop with: moonshine-tune data fix AUDIT --also
    possible_label.
    """
    return _whole_texts(manifest, "possible_label")


@manifest_check("warning", rank=144, fix=Drop(on_request=True))
def list_or_object(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript is a list or an object|transcripts are lists or objects] as Python or JSON writes
    them.

    Import again with the text in a column of its own.
    """
    return _whole_texts(manifest, "list_or_object")


@manifest_check("warning", rank=145, fix=edit_form("strip_speaker", "speaker_prefix"))
def speaker_prefix(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript starts|transcripts start] with a speaker, whom nobody reads aloud.

    Move the name to the key speaker.
    """
    return _parts(manifest, "speaker_prefix")


@manifest_check(
    "warning",
    rank=146,
    fix=edit_text("strip_possible_speaker", without_prefix, on_request=True),
)
def possible_speaker(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript starts|transcripts start] with what may be the name of a speaker.

    Keep [it|them] if it is spoken; else remove it with: moonshine-tune data fix AUDIT --also
    possible_speaker.
    """
    return _parts(manifest, "possible_speaker")


@manifest_check("warning", rank=140, fix=edit_form("strip_markup", "markup"))
def markup(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] tags, entities, links or sounds in brackets, which nobody
    speaks.

    Remove them from [the text|the texts].
    """
    return _parts(manifest, "markup")


@manifest_check(
    "warning",
    rank=147,
    fix=edit_form("strip_bracketed_words", "bracketed_words", on_request=True),
)
def bracketed_words(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] words in brackets or asterisks, spoken or not.

    Listen: remove the brackets alone, or brackets and words with: moonshine-tune data fix AUDIT
    --also bracketed_words.
    """
    return _parts(manifest, "bracketed_words")


@manifest_check("note", rank=60, fix=edit_form("strip_parentheses", "parentheses", on_request=True))
def parentheses(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] words in parentheses, spoken or not.

    Do nothing if they are spoken; else remove them with: moonshine-tune data fix AUDIT --also
    parentheses.
    """
    return _parts(manifest, "parentheses")


@manifest_check("warning", rank=148, fix=edit_form("plain_letters", "lookalike_letters"))
def lookalike_letters(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] letters that only look right: of another script, in a
    special form, or an accent as an apostrophe. The model would learn other words.

    Write [the word|the words] in plain letters of one script.
    """
    return _parts(manifest, "lookalike_letters", with_repair=True)


@manifest_check(
    "warning",
    rank=148,
    fix=edit_form("plain_possible_lookalike", "possible_lookalike", on_request=True),
)
def possible_lookalike(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] a word that may be in letters of another script than it
    seems.

    Keep [it|them] if it is meant; else write it again, or change it with: moonshine-tune data fix
    AUDIT --also possible_lookalike.
    """
    return _parts(manifest, "possible_lookalike", with_repair=True)


@manifest_check("warning", rank=148)
def broken_characters(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] characters of a wrong encoding.

    Save the source as UTF-8, and import again.
    """
    return _parts(manifest, "broken_characters")


@manifest_check("warning", rank=149)
def repeated_caption(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript starts|transcripts start] with the end of the one before it, as in captions that
    roll: the words are taught twice.

    Keep each phrase in [the cue|the cues] in which it is spoken.
    """
    for utterance, phrase in repeated_captions(manifest.utterances):
        yield utterance.id, f"{phrase!r} also ends the one before it"


@manifest_check("note", rank=70)
def cleaned_text(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[text is|texts are] read with single spaces and composed characters (NFC), unlike the file.

    Do nothing.
    """
    for identifier, text in manifest.scan.written_texts.items():
        if any(map(str.isalnum, text)):
            yield identifier, shortened(ascii(text))


def _whole_texts(manifest: CheckedManifest, kind: str) -> Iterator[Occurrence]:
    """The most repeated first: a repeated label is hardly a word."""
    texts = [(item.id, item.text or "") for item, _ in manifest.form.get(kind, ())]
    counts = Counter(text for _, text in texts)
    for identifier, text in sorted(texts, key=lambda pair: -counts[pair[1]]):
        times = f", {counts[text]} times" if counts[text] > 1 else ""
        yield identifier, f"{shortened(repr(text))}{times}"


def _parts(
    manifest: CheckedManifest, kind: str, *, with_repair: bool = False
) -> Iterator[Occurrence]:
    for utterance, match in manifest.form.get(kind, ()):
        text = utterance.text or ""
        detail = _shown(match, text)
        if with_repair and (letters := _odd_letters(text[match.start : match.end], match)):
            detail += f": {letters}"
        yield utterance.id, detail


def _odd_letters(word: str, match: FormMatch) -> str:
    """Names of the letters that look alike and would change; empty where none would."""
    names = (name(letter, ascii(letter)) for letter in word if letter not in match.replacement)
    return ", ".join(dict.fromkeys(names))


def _shown(match: FormMatch, text: str) -> str:
    return f"{text[match.start : match.end].strip()!r} in {shortened(text)}"
