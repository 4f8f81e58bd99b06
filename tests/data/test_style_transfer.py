"""Marks and case of a transcript on a reference: words never change."""

import random
import re

import pytest

from moonshine_tune.corpus.punctuation import MARKS
from moonshine_tune.data.style_transfer import capitalized_words, usual_final_mark, with_style

# Reference, transcript, result.
_CASES = {
    "equal words": ("i'm in london now", "I'm in London, now.", "I'm in London, now."),
    "questions": ("is it far", "Is it far?", "Is it far?"),
    "a wrong word between equal ones": (
        "we saw maintz and paris", "We saw Minz, and Paris.", "We saw maintz, and Paris.",
    ),
    "a wrong word at the start": ("hale replied he", "Hail, replied he.", "Hale, replied he."),
    "numbers written otherwise": (
        "turn left heading two seven zero please", "Turn left, heading 270, please.",
        "Turn left, heading two seven zero, please.",
    ),
    "a mark beside an added word is at no certain place": (
        "turn left now please", "Turn left, uh, now please.", "Turn left now please.",
    ),
    "a mark beside a missing word, too": (
        "turn left right now please", "Turn left, now please.", "Turn left right now please.",
    ),
    "the end of the sentence is certain": (
        "too much of steel anon", "Too much of steel.", "Too much of steel anon.",
    ),
    "made up after the end": ("turn left", "Turn left. Thank you.", "Turn left."),
    "two wrong words": ("a b you and me", "A, c. D, and me!", "A, b you, and me!"),
    "a capital of a sentence that is none here": (
        "okay uh turn left", "Okay. Turn left.", "Okay uh turn left.",
    ),
    "I is none": ("okay uh i turn left", "Okay. I turn left.", "Okay uh I turn left."),
    "a sentence that starts with a wrong word": (
        "go on the rest is fine", "Go on. A rest is fine.", "Go on. The rest is fine.",
    ),
    "hyphens and apostrophes stay": (
        "twenty one picture-books don't", "Twenty-one picture books, don't.",
        "Twenty one picture-books, don't.",
    ),
    "apostrophes are not added": ("dont go", "Don't go.", "Dont go."),
    "own marks stay": ("go now, i said", "Go now. I said!", "Go now, I said"),
    "capitals stay": ("the NATO in Bonn", "The NATO in Bonn.", "The NATO in Bonn."),
    "acronyms": ("nasa said so", "NASA said so.", "NASA said so."),
    "half a quote is none": ('she said go', 'She said, "Go.', "She said, Go."),
    "sharp s": ("straße und gasse", "Strasse, und Gasse.", "Straße, und Gasse."),
    "no capital sharp s": ("ßa gasse", "Esa Gasse.", "ßa Gasse."),
    # Without case, `İ` is two characters, and another letter than `i`.
    "dotted i": ("in istanbul now", "In İstanbul now.", "In istanbul now."),
    "Georgian has no capital at a start": ("ჰო კარგი", "Ხო კარგი.", "ჰო კარგი."),
    "Spanish": ("qué hora es", "¿Qué hora es?", "¿Qué hora es?"),
    "Spanish inside": ("hola qué tal", "Hola, ¿qué tal?", "Hola, ¿qué tal?"),
    "Chinese": ("今天天气很好我们走吧", "今天天气很好，我们走吧。", "今天天气很好，我们走吧。"),
    "Korean": ("안녕 잘 지내", "안녕, 잘 지내?", "안녕, 잘 지내?"),
    "Arabic": ("نعم كيف الحال", "نعم، كيف الحال؟", "نعم، كيف الحال؟"),
    "nothing recognized": ("turn left", "", "Turn left"),
    "no words": ("", "Made up.", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", _CASES)
def test_style_is_carried_over(name: str) -> None:
    reference, transcript, expected = _CASES[name]
    assert with_style(reference, transcript) == expected


def test_a_sentence_form_has_a_capital_and_a_final_mark_only() -> None:
    text = with_style("but how would i go about it", "Poha, woda I. Zamur!", final=".")
    assert text == "But how would I go about it."
    assert with_style("go on?", "no", final=".") == "Go on?"
    assert with_style("今天天气", "不。", final="。") == "今天天气。"


def test_texts_in_capitals_take_the_case_of_the_transcript() -> None:
    text = with_style("Turn left at Bonn A", "turn left at bonn a.", lowers=True)
    assert text == "turn left at bonn a."


def test_a_name_of_other_clips_is_a_name_where_the_transcript_is_wrong() -> None:
    names = capitalized_words(
        ["Then I go to Bonn. May he?", "So I saw Bonn, May.", "We may. Bill paid.", "Go, NASA."]
    )
    # A word that also has a small letter, starts a sentence, or is there once is no name.
    assert names == {"i": "I", "bonn": "Bonn"}
    text = with_style("rich i saw bonn nasa may", "Rich, eyes or born nasal pay.", names=names)
    assert text == "Rich, I saw Bonn nasa may."


def test_the_usual_final_mark_is_that_of_most_transcripts() -> None:
    assert usual_final_mark(["Go.", "Go?", "Go. ", ""]) == "."
    assert usual_final_mark(["走。", "走。"]) == "。"
    assert usual_final_mark(["go", "go", "Go."]) == "" == usual_final_mark([])


def _plain(text: str) -> str:
    return re.sub(f"[{re.escape(MARKS)}]", "", text).casefold()


def test_words_never_change() -> None:
    rng = random.Random(0)
    words = ["i'm", "London", "straße", "İst", "ı", "twenty-one", "U.S", "3.5", "dž", "ς", "ﬁn",
             "你", "好", "ไทย", "don’t", "NASA", "a", "élan", "ا", "50%", "ßa"]  # fmt: skip
    signs = [" ", ", ", ". ", "? ", "… ", "; ", " - ", ' "', "。", " ¿", "", "... ", "\u00a0"]
    changed = 0
    for _ in range(200):
        own = [rng.choice(words) for _ in range(rng.randrange(7))]
        kept = [word for word in own if rng.random() < 0.8]
        others = [
            rng.choice([str.upper, str.title, str])(rng.choice([word, word, rng.choice(words)]))
            for word in kept
        ]
        reference = " ".join(own)
        transcript = "".join(word + rng.choice(signs) for word in others)
        for final in (None, "."):
            for lowers in (False, True):
                result = with_style(reference, transcript, final=final, lowers=lowers)
                assert _plain(result) == _plain(reference), (reference, transcript, result)
                changed += result != reference
    assert changed > 400
