"""Pieces of long recordings: where they are cut, and how much is read at once."""

from itertools import pairwise

import numpy as np
import pytest

from moonshine_tune.audio.blocks import BLOCK_S, MAX_READ_S, BlockReader
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.transcription.pieces import MAX_PIECE_S, Piece, speech_pieces


def bursts(*parts: tuple[str, float], noise: float = 0.0005) -> Samples:
    """Syllables of noise ("speech") and pauses, lengths in seconds."""
    rng = np.random.default_rng(0)
    pieces = []
    for kind, seconds in parts:
        time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        level = 0.2 * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time)) if kind == "speech" else 0.0
        pieces.append((level + noise) * rng.standard_normal(len(time)))
    return np.concatenate(pieces).astype(np.float32)


class SpiedReader(BlockReader):
    """A reader of samples in memory that notes what it is asked for."""

    def __init__(self, samples: Samples) -> None:
        self.asked: list[tuple[float, float]] = []

        def load(start: float, end: float) -> Samples:
            self.asked.append((start, end))
            return samples[round(start * SAMPLE_RATE_HZ) : round(end * SAMPLE_RATE_HZ)]

        super().__init__(load, len(samples) / SAMPLE_RATE_HZ)


def spans(pieces: list[Piece]) -> list[tuple[float, float]]:
    return [(round(piece.start_s, 3), round(piece.end_s, 3)) for piece in pieces]


def test_pieces_end_in_pauses_and_hold_all_speech() -> None:
    parts = [part for _ in range(20) for part in (("speech", 3.0), ("pause", 0.5))]
    samples = bursts(*parts)
    reader = SpiedReader(samples)
    pieces = list(speech_pieces(reader))
    assert all(1.0 <= piece.end_s - piece.start_s <= MAX_PIECE_S for piece in pieces)
    # A pause is from 3.0 to 3.5 s of each 3.5 s.
    assert all(2.98 <= piece.end_s % 3.5 <= 3.52 for piece in pieces[:-1])
    assert all(left.end_s <= right.start_s + 1e-6 for left, right in pairwise(pieces))
    covered = np.zeros(len(samples), dtype=bool)
    for piece in pieces:
        first, stop = round(piece.start_s * 16_000), round(piece.end_s * 16_000)
        assert np.array_equal(piece.samples, samples[first:stop])
        covered[first:stop] = True
    loud = np.abs(samples) > 0.05
    assert covered[loud].all()


def test_no_more_than_a_block_is_read_at_once_and_few_are_kept() -> None:
    samples = bursts(*[part for _ in range(60) for part in (("speech", 4.0), ("pause", 0.4))])
    reader = SpiedReader(samples)
    list(speech_pieces(reader))
    assert max(end - start for start, end in reader.asked) <= MAX_READ_S
    # Each block once for its levels, and once for its pieces.
    assert len(reader.asked) == 2 * int(np.ceil(reader.seconds / BLOCK_S))
    assert len(reader._blocks) <= 3


def test_pieces_from_the_end_of_any_piece_are_the_same() -> None:
    samples = bursts(
        *[part for n in range(30) for part in (("speech", 1.5 + n % 5), ("pause", 0.3))]
    )
    pieces = list(speech_pieces(SpiedReader(samples)))
    assert len(pieces) > 3
    for number, piece in enumerate(pieces[:-1]):
        rest = list(speech_pieces(SpiedReader(samples), start_s=piece.end_s))
        assert spans(rest) == spans(pieces[number + 1 :])


def test_a_long_silence_is_left_out() -> None:
    samples = bursts(("pause", 60.0), ("speech", 2.0), ("pause", 45.0), ("speech", 1.5))
    pieces = list(speech_pieces(SpiedReader(samples)))
    assert spans(pieces) == [
        (pytest.approx(59.7, abs=0.05), pytest.approx(62.3, abs=0.05)),
        (pytest.approx(106.7, abs=0.05), pytest.approx(108.5, abs=0.05)),
    ]


@pytest.mark.parametrize("samples", [np.zeros(20 * 16_000, np.float32), bursts(("pause", 50.0))])
def test_silence_has_no_piece(samples: Samples) -> None:
    assert list(speech_pieces(SpiedReader(samples))) == []


def test_a_short_word_alone_keeps_a_second_of_sound_around_it() -> None:
    samples = bursts(("pause", 20.0), ("speech", 0.3), ("pause", 30.0), ("speech", 2.0))
    first, _ = speech_pieces(SpiedReader(samples))
    assert first.start_s == pytest.approx(19.7, abs=0.05)
    assert first.end_s - first.start_s == pytest.approx(1.0, abs=0.02)


def test_speech_without_a_pause_is_cut_and_kept() -> None:
    samples = bursts(("speech", 50.0))
    pieces = list(speech_pieces(SpiedReader(samples)))
    assert sum(len(piece.samples) for piece in pieces) == len(samples)


def test_a_recording_that_fits_is_one_piece() -> None:
    samples = bursts(("speech", 2.0), ("pause", 4.0), ("speech", 3.0))
    (piece,) = speech_pieces(SpiedReader(samples))
    assert len(piece.samples) == len(samples)
