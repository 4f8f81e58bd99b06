"""Dividing a transcript among the pieces of its recording, without a model."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.data.alignment import judge, letters
from moonshine_tune.data.alignment.join import absorb_faults, join_segments
from moonshine_tune.data.alignment.letters import align_letters
from moonshine_tune.data.alignment.match import SpokenPiece
from moonshine_tune.data.alignment.pairs import find_pairs, transcript_text
from moonshine_tune.data.alignment.segments import AlignedSegment, DividedText, divide_text
from moonshine_tune.data.alignment.text_words import text_words
from moonshine_tune.registry.open import OpenedModel

ENGLISH, BASIC = normalizer_for(None, "en"), normalizer_for(None, "ja")
_SYLLABLES = [a + b + c for a in "bdfklmnprst" for b in "aeiou" for c in ("", "n", "r", "s")]


# --- letters


def paired(hypothesis: str, text: str) -> str:
    """The partner of each letter of the text."""
    partners = align_letters(hypothesis, text, [0], [0])
    return "".join(hypothesis[index] if index >= 0 else "-" for index in partners)


def test_letters_that_only_one_side_has_are_left_out_in_one_piece() -> None:
    assert paired("notepadhere", "notepadhere") == "notepadhere"
    assert paired("theshipsails", "thesheepsails").replace("-", "") == "theshipsails"
    assert paired("onetwothreefour", "onetwomanyotherwordsthreefour") == (
        "onetwo" + "-" * len("manyotherwords") + "threefour"
    )
    assert paired("onetwomanyotherwordsthreefour", "onetwothreefour") == "onetwothreefour"
    assert paired("", "abc") == "---"
    assert paired("abc", "") == ""


@pytest.mark.parametrize("limit", [200, 4_000_000])
@pytest.mark.parametrize("seed", range(4))
def test_partners_follow_each_other(seed: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where areas are too large to be aligned at once."""
    monkeypatch.setattr(letters, "_MAX_CELLS", limit)
    rng = random.Random(seed)
    text = "".join(rng.choice(_SYLLABLES) for _ in range(400))
    hypothesis = "".join(rng.choice("abcde") if rng.random() < 0.1 else c for c in text[200:])
    partners = align_letters(hypothesis, text, [0], [0])
    aligned = partners[partners >= 0]
    assert (np.diff(aligned) > 0).all()
    equal = sum(hypothesis[p] == text[i] for i, p in enumerate(partners) if p >= 0)
    assert equal > 0.85 * len(hypothesis) * (limit > 1000 or 0.5)


def test_a_text_that_repeats_itself_is_aligned() -> None:
    text = "thesamewordsagainandagain" * 200
    partners = align_letters(text, text, [0], [0])
    assert (partners == np.arange(len(text))).mean() > 0.99


# --- words


@pytest.mark.parametrize(
    ("text", "letters_of_words"),
    [
        ("It was twenty five.", ["it", "was", "2", "5"]),
        ("two hundred and five; four six two", ["2", "0", "and", "5", "4", "6", "2"]),
        ("sixty one four one two", ["6", "1", "4", "1", "2"]),
        ("P-i-t-t-s we're — OK [laughs]", ["pitts", "weare", "", "ok", ""]),
        ("$5 million, or 5 %", ["$5", "000000", "or", "5", "%"]),
    ],
)
def test_each_word_has_its_letters(text: str, letters_of_words: list[str]) -> None:
    words = text_words(text, ENGLISH)
    assert [text[word.start : word.end] for word in words] == text.split()
    assert [word.letters for word in words] == letters_of_words


def test_characters_are_words_where_there_are_no_spaces() -> None:
    words = text_words("東京へ行きたい。はい", BASIC)
    assert [word.letters for word in words] == list("東京へ行きたいはい")
    assert text_words("", ENGLISH) == []


# --- segments


@dataclass
class Talk:
    """Sentences that are spoken in pieces of a few seconds, and what a model writes for each."""

    sentences: list[str]
    pieces: list[SpokenPiece]


def talk(seed: int, *, num_sentences: int = 60, errors: float = 0.12) -> Talk:
    """Each sentence is one piece of 4 s; letters are wrong at random."""
    rng = random.Random(seed)
    sentences = []
    for _ in range(num_sentences):
        words = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))) for _ in range(8)]
        sentences.append(" ".join(words).capitalize() + ".")
    pieces = []
    for number, sentence in enumerate(sentences):
        heard = "".join(
            rng.choice("aeiounst") if letter != " " and rng.random() < errors else letter
            for letter in sentence.lower()
        )
        pieces.append(SpokenPiece(4.0 * number, 4.0 * (number + 1), heard, 0.6))
    return Talk(sentences, pieces)


def divided(pieces: Sequence[SpokenPiece], text: str) -> DividedText:
    return divide_text(pieces, text, text_words(text, ENGLISH), ENGLISH)


def kept(result: DividedText, bound: float = 0.6) -> list[AlignedSegment]:
    return [item for item in result.segments if item.text and item.agreement >= bound]


def own_sentences(segment: AlignedSegment, spoken: Talk) -> str:
    first, end = round(segment.start_s / 4), round(segment.end_s / 4)
    return " ".join(spoken.sentences[first:end])


@pytest.mark.parametrize("seed", range(3))
def test_every_piece_gets_its_sentence_as_it_is_written(seed: int) -> None:
    spoken = talk(seed)
    result = divided(spoken.pieces, "\n".join(spoken.sentences))
    assert len(kept(result)) >= 58
    assert all(item.text == own_sentences(item, spoken) for item in kept(result))
    assert result.fit > 0.8
    assert result.unread == ()


@pytest.mark.parametrize("seed", range(3))
def test_no_segment_has_the_words_of_another_where_text_and_speech_differ(seed: int) -> None:
    spoken, other = talk(seed), talk(seed + 100)
    text = " ".join(
        [
            *other.sentences[:5],  # a preface that nobody reads
            *spoken.sentences[:20],
            *spoken.sentences[26:40],  # 6 sentences that are not in the text
            *other.sentences[5:12],  # a paragraph that nobody reads
            *spoken.sentences[40:50],
            *other.sentences[20:24],  # other words than those that are spoken
            *spoken.sentences[54:],
        ]
    )
    result = divided(spoken.pieces, text)
    assert len(kept(result)) >= 42
    for item in kept(result):
        assert item.text == own_sentences(item, spoken)
    unread = " ".join(text[start:end] for start, end in result.unread)
    assert sum(sentence in unread for sentence in other.sentences[:12]) >= 10


def test_a_text_of_another_recording_does_not_fit() -> None:
    spoken, other = talk(0), talk(50)
    assert divided(spoken.pieces, " ".join(other.sentences)).fit < 0.05
    # A part of the text, or of the recording, does.
    assert divided(spoken.pieces, " ".join(spoken.sentences[20:30])).fit > 0.8
    assert divided(spoken.pieces[20:30], " ".join(spoken.sentences)).fit > 0.8


def test_pieces_with_an_uncertain_border_are_one_segment() -> None:
    pieces = [
        SpokenPiece(0, 3, "we went to the harbor and"),
        SpokenPiece(3, 6, "mumble grunt"),
        SpokenPiece(6, 9, "came home in the evening"),
    ]
    text = "We went to the harbor and bought some fresh fish. We came home in the evening."
    result = divided(pieces, text)
    assert [item.text for item in result.segments] == [
        "We went to the harbor and",
        "bought some fresh fish. We",
        "came home in the evening.",
    ]
    assert [item.is_sure for item in result.segments] == [
        (True, True), (False, False), (True, True),
    ]  # fmt: skip


def test_a_passage_inside_of_a_piece_is_not_its_text() -> None:
    passage = "whose long paragraph nobody ever read aloud in this recording"
    pieces = [SpokenPiece(0, 4, "we went out to fifth avenue")]
    (segment,) = divided(pieces, f"We went out {passage} to fifth avenue.").segments
    assert segment.text == "We went out to fifth avenue."
    (segment,) = divided(
        [SpokenPiece(0, 4, "a fifth avenue")], f"A {passage}, a fifth avenue"
    ).segments
    assert segment.text == "a fifth avenue"
    # Where the model wrote something else, the passage may be what is spoken.
    unclear = [SpokenPiece(0, 4, "we went out mumble bumble grunt and to fifth avenue")]
    (segment,) = divided(unclear, f"We went out {passage} to fifth avenue.").segments
    assert passage in segment.text


def test_silence_and_short_made_up_words_are_in_no_segment() -> None:
    written = ["the first sentence", "You", "", "the second one"]
    pieces = [SpokenPiece(4 * n, 4 * n + 4, text) for n, text in enumerate(written)]
    result = divided(pieces, "The first sentence. The second one.")
    assert [(item.start_s, item.text) for item in result.segments] == [
        (0, "The first sentence."), (12, "The second one."),
    ]  # fmt: skip
    assert divided([SpokenPiece(0, 4, "")], "Words.").segments == ()


# --- judging and joining


def judged(
    segments: Sequence[AlignedSegment], monkeypatch: pytest.MonkeyPatch, own_loss: float
) -> list[AlignedSegment]:
    monkeypatch.setattr(
        judge, "text_losses", lambda utterances, texts, *_: [[own_loss, 5.0, 6.0, 7.0]] * len(texts)
    )
    return judge.judge_segments(
        segments, Path("a.wav"), cast(OpenedModel, None), SilentProgress(),
        max_s=30.0, min_agreement=0.75,
    )  # fmt: skip


def test_a_doubtful_segment_is_kept_if_no_other_text_is_likelier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoken = talk(5, num_sentences=10)
    pieces = list(spoken.pieces)
    pieces[4] = replace(pieces[4], hypothesis="quite other words than those spoken")
    segments = divided(pieces, " ".join(spoken.sentences)).segments
    assert [item.problem for item in judged(segments, monkeypatch, 2.0)] == [None] * 10
    problems = [item.problem for item in judged(segments, monkeypatch, 4.9)]
    assert problems[4] == "too little agreement"
    assert problems[:4] + problems[5:] == [None] * 9


def test_a_border_that_only_a_left_out_neighbor_confirms_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sure = AlignedSegment(0, 4, "a b", "a b", (0, 2), 0.5, 90, 100, (True, True))
    doubtful = replace(sure, num_equal=10)
    open_end = replace(sure, is_sure=(False, True))
    problems = [item.problem for item in judged([sure, doubtful, open_end], monkeypatch, 6.0)]
    assert problems == [None, "too little agreement", "its first words are uncertain"]
    too_long = replace(sure, end_s=40.0)
    assert judged([too_long], monkeypatch, 0.0)[0].problem == "no certain border within 30 s"


def test_a_short_segment_with_a_wrong_word_goes_with_its_neighbors() -> None:
    text = "We went out one thousand and came back"
    words = text_words(text, ENGLISH)
    first = AlignedSegment(0, 3, "We went out", "We went out", (0, 3), 0.4, 40, 40, (True, True))
    fault = AlignedSegment(3, 5, "one thousand", "one hundred", (3, 5), 0.4, 2, 8, (False, False),
                           "too little agreement")  # fmt: skip
    last = replace(first, start_s=5, end_s=8, text="and came back", words=(5, 8))
    three = [first, fault, last]
    (joined,) = absorb_faults(three, text, words, 30.0)
    assert (joined.text, joined.problem, joined.end_s) == (text, None, 8)
    for bad in (
        replace(fault, hypothesis="quite another sentence that is longer"),
        replace(fault, problem="no words of the text"),
        replace(fault, num_letters=80),
        replace(fault, words=(3, 4)),
    ):
        assert len(absorb_faults([first, bad, last], text, words, 30.0)) == 3
    assert len(absorb_faults(three, text, words, 6.0)) == 3


def test_segments_are_joined_up_to_ends_of_sentences() -> None:
    text = "We went out, and then. We came back again; it was late. And we slept"
    words = text_words(text, ENGLISH)
    spans = [(0, 3, 0, 3), (3, 6, 3, 5), (6, 9, 5, 9), (9, 12, 9, 12), (12, 15.5, 12, 15)]
    segments = [
        AlignedSegment(
            start, end, text[words[a].start : words[b - 1].end], "x", (a, b), 0.4, 9, 10,
            (True, True),
        )
        for start, end, a, b in spans
    ]  # fmt: skip
    joined = join_segments(segments, text, words, max_s=30.0)
    assert [item.text for item in joined] == [
        "We went out, and then. We came back again; it was late.", "And we slept",
    ]  # fmt: skip
    assert (joined[0].start_s, joined[0].end_s, joined[0].words) == (0, 12, (0, 12))
    # What is left out, or is not beside it, stays alone.
    apart = [segments[0], replace(segments[1], problem="x"), segments[2], segments[4]]
    assert len(join_segments(apart, text, words, max_s=30.0)) == 4


# --- files


def test_texts_of_the_same_names_are_paired(tmp_path: Path) -> None:
    for name in ("a.wav", "b.mp3", "b.txt", "notes.md", "sub/c.flac", "sub/C.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("words", encoding="utf-8")
    pairs, missing = find_pairs(tmp_path, None)
    assert [(item.audio.name, item.transcript.name) for item in pairs] == [
        ("b.mp3", "b.txt"), ("c.flac", "C.md"),
    ]  # fmt: skip
    assert [path.name for path in missing] == ["a.wav"]
    assert find_pairs(tmp_path / "b.mp3", None)[0][0].transcript == tmp_path / "b.txt"
    with pytest.raises(RequestError, match="no text of the same name") as caught:
        find_pairs(tmp_path / "a.wav", None)
    assert "--cut" in (caught.value.hint or "")
    with pytest.raises(RequestError, match="no such transcript"):
        find_pairs(tmp_path / "a.wav", tmp_path / "none.txt")
    (tmp_path / "b.md").write_text("words", encoding="utf-8")
    with pytest.raises(RequestError, match="two texts may be"):
        find_pairs(tmp_path / "b.mp3", None)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "Hello  there.\n\nBye *now*.", "Hello  there.\n\nBye *now*."),
        ("a.md", "# Title\n\n- A **bold** [link](https://x.org).\n> `Said` _so_ snake_case",
         "Title\n\nA bold link.\nSaid so snake_case"),
        ("a.txt", "Caf\u00e9".encode("utf-16"), "Caf\u00e9"),
    ],
)  # fmt: skip
def test_the_text_of_a_transcript(
    name: str, content: str | bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert transcript_text(path) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n ", "the transcript is empty"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\nHello\n", "has times already"),
        ("a.txt", b"0.0\t1.5\tHello there\n1.5\t3.0\tBye\n", "has times already"),
        ("a.docx", b"PK\x03\x04", "Word files"),
        ("a.txt", "Caf\u00e9".encode("cp1252"), "not UTF-8"),
    ],
)
def test_what_is_no_plain_text_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        transcript_text(tmp_path / name)
    if "times" in message:
        assert "data import" in (caught.value.hint or "")
