"""Stretches in which the model writes too little of the text are divided again.

Letters that are the same by accident, as single spelled ones are, put a border into the wrong
place, and what is not recognized has no border at all. How likely the model finds each range of
words in each piece tells more, and costs more: only doubtful stretches are divided so.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from moonshine_tune.core.progress import Progress
from moonshine_tune.data.alignment.blocks import MADE_UP_LETTERS, PieceBlock
from moonshine_tune.data.alignment.borders import Border, Scores, WordRange, likely_borders
from moonshine_tune.data.alignment.letters import align_letters
from moonshine_tune.data.alignment.match import TextMatch

# A block with less agreement is doubtful, with its neighbors.
_ENOUGH_AGREEMENT = 0.75
# Speech with a heavy accent is doubtful throughout; more at once takes longer and says no more.
_MOST_BLOCKS = 8
# A border beside a shorter word, as a spelled letter, is doubtful, unless two words there are sure.
_LONG_WORD_LETTERS = 3

RateWords = Callable[[Sequence[int], Sequence[int], Sequence[WordRange]], list[Scores]]
"""`RateRanges` of pieces and words by their indices in the match."""


def divide_again(
    match: TextMatch, blocks: Sequence[PieceBlock], rate: RateWords, progress: Progress
) -> list[PieceBlock]:
    """The blocks, those of doubtful stretches divided by likelihood."""
    result: list[PieceBlock] = []
    stretches = list(_stretches(match, blocks))
    with progress.stage("dividing doubtful stretches", len(stretches)) as stage:
        for stretch in stretches:
            result += _divided(match, stretch, rate) if len(stretch) > 1 else stretch
            stage.advance()
    return result


def _stretches(match: TextMatch, blocks: Sequence[PieceBlock]) -> Iterator[list[PieceBlock]]:
    """Doubtful blocks with their neighbors, a few at a time; each of the others alone."""
    is_doubtful = [_agreement(match, block) < _ENOUGH_AGREEMENT for block in blocks]
    stretch: list[PieceBlock] = []
    for index, block in enumerate(blocks):
        is_joined = is_doubtful[index] or (index > 0 and is_doubtful[index - 1])
        is_full = not is_joined or len(stretch) >= _MOST_BLOCKS
        if stretch and is_full and not _is_weak(match, stretch[-1], block):
            yield stretch
            stretch = []
        stretch.append(block)
    if stretch:
        yield stretch


def _agreement(match: TextMatch, block: PieceBlock) -> float:
    words = [match.words[word].letters for word in block.spoken]
    spoken = match.letters_spoken(block.pieces)
    num_letters = max(len(spoken), sum(map(len, words)))
    return num_equal_letters(spoken, words) / max(num_letters, 1)


def num_equal_letters(spoken: str, words: Sequence[str]) -> int:
    """Letters of words that the model wrote too, in the same order.

    Args:
        spoken: letters of the model.
        words: letters of each word.
    """
    text = "".join(words)
    starts = np.cumsum([0, *map(len, words)])[:-1].tolist()
    partners = align_letters(spoken, text, [0], starts)
    return sum(at >= 0 and spoken[at] == letter for at, letter in zip(partners, text, strict=True))


def _is_weak(match: TextMatch, left: PieceBlock, right: PieceBlock) -> bool:
    """Whether no word at the border of two blocks is long enough to be recognized for certain."""
    before = [word for word in left.spoken if match.words[word].letters][-2:][::-1]
    after = [word for word in right.spoken if match.words[word].letters][:2]
    return not (
        (left.is_sure[1] and _is_strong(match, before))
        or (right.is_sure[0] and _is_strong(match, after))
    )


def _is_strong(match: TextMatch, words: Sequence[int]) -> bool:
    """Whether the first word is long, or both are certain."""
    if not words:
        return False
    is_long = len(match.words[words[0]].letters) >= _LONG_WORD_LETTERS
    return is_long or (len(words) > 1 and all(match.is_sure[word] for word in words))


def _divided(match: TextMatch, stretch: Sequence[PieceBlock], rate: RateWords) -> list[PieceBlock]:
    """The blocks of a stretch, divided where a border is certain."""
    pieces = range(stretch[0].pieces[0], stretch[-1].pieces[-1] + 1)
    words = [word for block in stretch for word in block.spoken]
    borders = likely_borders(
        [match.pieces[piece] for piece in pieces],
        [len(match.words[word].letters) for word in words],
        lambda ranges: rate(pieces, words, ranges),
    )
    if borders is None:
        return list(stretch)
    return list(_blocks_between(match, stretch, pieces, words, borders))


def _blocks_between(
    match: TextMatch,
    stretch: Sequence[PieceBlock],
    pieces: Sequence[int],
    words: Sequence[int],
    borders: Sequence[Border],
) -> Iterator[PieceBlock]:
    """Pieces and words between certain borders; noise without words is in none."""
    first_piece = first_word = 0
    is_sure = stretch[0].is_sure[0]
    for index, border in enumerate([*borders, Border(len(words), 1.0)], start=1):
        if not border.is_certain:
            continue
        inside, spoken = pieces[first_piece:index], words[first_word : border.word]
        is_last = index == len(pieces)
        if spoken or len(match.letters_spoken(inside)) > MADE_UP_LETTERS:
            start = words[first_word] if first_word < len(words) else stretch[-1].end
            end = words[border.word] if border.word < len(words) else stretch[-1].end
            yield PieceBlock(
                tuple(inside),
                start if first_piece else stretch[0].first,
                end,
                tuple(spoken),
                (is_sure, stretch[-1].is_sure[1] if is_last else True),
            )
        first_piece, first_word, is_sure = index, border.word, True
