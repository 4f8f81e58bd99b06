"""The marks and the case of a transcript on the words of a reference.

Both are aligned word by word. Where they agree, marks and case are carried over. No word changes:
without marks and case, the result is the reference.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from moonshine_tune.corpus.punctuation import (
    FINAL_MARKS,
    MARKS,
    OPENING_MARKS,
    Block,
    WrittenText,
    align,
    ends_sentence,
    has_capital,
    has_marks,
)

# A model that ends fewer of its transcripts with a mark does not write sentences.
_MIN_SENTENCES = 0.5
# A word that is written once may be a name by mistake.
_MIN_OCCURRENCES = 2


def with_style(
    reference: str,
    transcript: str,
    *,
    final: str | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    lowers: bool = False,
) -> str:
    """The reference with marks and capital letters of a transcript of the same clip.

    A reference with marks keeps its own, and a capital letter stays one.

    Args:
        final: for a transcript that is too different to show where marks belong: none of its marks
            are carried over, and the reference ends with this one.
        names: of `capitalized_words`, for words that the transcript does not have here.
        lowers: the case of the reference means nothing: letters also become small.
    """
    own, model = WrittenText.of(reference), WrittenText.of(transcript)
    blocks, gaps = align(own, model), list(own.gaps)
    keeps_marks = has_marks(reference) or not own.words
    if final is not None and not keeps_marks:
        gaps[-1] = _marked(gaps[-1], final)
    elif not keeps_marks:
        for own_gap, model_gap in _certain_gaps(blocks, model):
            gaps[own_gap] = _marked(gaps[own_gap], model.gaps[model_gap])
    words = list(own.words)
    aligned = dict(_aligned(blocks))
    for index, word in enumerate(words):
        position = aligned.get(index)
        starts = index == 0 or ends_sentence(gaps[index])
        starts_there = position == 0 or (
            position is not None and ends_sentence(model.gaps[position])
        )
        name = names.get(own.keys[index], "")
        if position is None and len(name) == len(word):
            words[index] = _with_case(word, name)
        elif position is None or (starts and not starts_there):
            words[index] = _capitalized(word) if starts else word
        elif starts or not starts_there or _is_first_person(model.words[position]):
            words[index] = _with_case(word, model.words[position], lowers=lowers)
    return str(WrittenText(tuple(words), tuple(gaps)))


def capitalized_words(transcripts: Sequence[str]) -> dict[str, str]:
    """Words that a model writes with a capital wherever they are inside a sentence: `I`, names.

    Returns:
        The written word by its form without case.
    """
    written: dict[str, Counter[str]] = defaultdict(Counter)
    for text in map(WrittenText.of, transcripts):
        for index, (key, word) in enumerate(zip(text.keys, text.words, strict=True)):
            if index and not ends_sentence(text.gaps[index]):
                written[key][word] += 1
    return {
        key: word
        for key, forms in written.items()
        if len(forms) == 1
        for word, count in forms.items()
        if count >= _MIN_OCCURRENCES and has_capital(word)
    }


def usual_final_mark(transcripts: Sequence[str]) -> str:
    """The mark that most of a model's sentences end with; empty if it does not end them so."""
    ends = [text.rstrip()[-1:] for text in transcripts if text.strip()]
    marks = Counter(end for end in ends if end in FINAL_MARKS)
    if not marks or marks.total() < _MIN_SENTENCES * len(ends):
        return ""
    return marks.most_common(1)[0][0]


def _certain_gaps(blocks: Sequence[Block], model: WrittenText) -> Iterator[tuple[int, int]]:
    """Gaps of the reference, and those of the transcript at the same position.

    A gap beside a word that only one of both has is at no certain position. The end of the text is,
    if a sentence ends there.
    """
    for number, block in enumerate(blocks):
        if block.is_one_sided:
            continue
        if number == 0 or not blocks[number - 1].is_one_sided:
            yield block.first.start, block.second.start
        if block.is_equal:
            yield from zip(block.first[1:], block.second[1:], strict=True)
    if blocks and (not blocks[-1].is_one_sided or ends_sentence(model.gaps[-1])):
        yield blocks[-1].first.stop, blocks[-1].second.stop


def _marked(gap: str, signs: str) -> str:
    """A gap of spaces alone with the marks among some signs; a quote or a hyphen stays alone."""
    if gap.strip():
        return gap
    closing = "".join(sign for sign in signs if sign in MARKS and sign not in OPENING_MARKS)
    opening = "".join(sign for sign in signs if sign in OPENING_MARKS)
    return f"{closing}{gap}{opening}"


def _aligned(blocks: Sequence[Block]) -> Iterator[tuple[int, int]]:
    for block in blocks:
        if block.is_equal:
            yield from zip(block.first, block.second, strict=True)


def _is_first_person(word: str) -> bool:
    """`I`, `I'm`: a capital anywhere in a sentence."""
    return word[:1] == "I" and not word[1:2].isalpha()


def _with_case(word: str, model: str, *, lowers: bool = False) -> str:
    """A word in the case of the same word; letter by letter, or the first letter alone."""
    size = len(word) if len(word) == len(model) else 1
    letters = [
        cased if own.casefold() == cased.casefold() and (lowers or cased != cased.lower()) else own
        for own, cased in zip(word[:size], model[:size], strict=True)
    ]
    return "".join(letters) + word[size:]


def _capitalized(word: str) -> str:
    """A word with a capital letter at its start, if its first letter has one (ß does not)."""
    first = word[0].title()
    is_same = len(first) == 1 and first.casefold() == word[0].casefold()
    return first + word[1:] if is_same else word
