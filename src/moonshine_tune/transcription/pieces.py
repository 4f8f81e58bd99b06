"""The pieces of a recording that are transcribed one by one."""

from collections.abc import Iterator
from dataclasses import dataclass

from moonshine_tune.audio.blocks import BlockReader
from moonshine_tune.audio.pauses import Breaks, cut_at_pauses
from moonshine_tune.audio.samples import Samples
from moonshine_tune.transcription.recordings import Recording

MAX_PIECE_S = 24.0
"""Longest piece, in seconds."""

# Longer pieces join speakers. Shorter pauses are also where people hesitate in a sentence.
_BREAKS = Breaks(pause_s=0.8, apart_s=2.0)


@dataclass(frozen=True)
class Piece:
    """A span of a recording, in seconds, with its samples."""

    start_s: float
    end_s: float
    samples: Samples


def speech_pieces(reader: BlockReader, *, start_s: float = 0.0) -> Iterator[Piece]:
    """The pieces of a recording that hold sound, in order; a silent recording has none.

    One of up to `MAX_PIECE_S` is a single piece. The pieces are the same wherever one starts.

    Args:
        start_s: where to start: 0, or the end of an earlier piece.

    Raises:
        AudioError: the recording cannot be read to its end.
    """
    spans = cut_at_pauses(reader, max_s=MAX_PIECE_S, breaks=_BREAKS)
    if reader.seconds <= MAX_PIECE_S:
        if start_s == 0.0 and any(span.has_speech for span in spans):
            yield Piece(0.0, reader.seconds, reader.read(0.0, reader.seconds))
        return
    for span in spans:
        if span.has_speech and span.end_s > start_s:
            yield Piece(span.start_s, span.end_s, reader.read(span.start_s, span.end_s))


def recording_pieces(
    recording: Recording, *, start_s: float = 0.0, channel: int | None = None
) -> Iterator[Piece]:
    """The pieces of what is to be transcribed of a file, in seconds from the start of that.

    Args:
        start_s: as of `speech_pieces`.
        channel: from 1; None averages them.

    Raises:
        AudioError: it cannot be read, or has no samples.
    """
    reader = BlockReader.of_file(
        recording.path,
        start_s=recording.start_s,
        end_s=recording.utterance.end,
        channel=channel,
    )
    return speech_pieces(reader, start_s=start_s)
