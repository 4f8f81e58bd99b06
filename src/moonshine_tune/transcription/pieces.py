"""The pieces of a recording, as it is transcribed."""

from collections.abc import Iterator

from moonshine_tune.audio.io import AudioInfo, load_audio
from moonshine_tune.audio.pieces import BlockReader, Piece, speech_pieces
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import AudioError
from moonshine_tune.transcription.recordings import Recording


def recording_seconds(recording: Recording, info: AudioInfo | AudioError) -> float:
    """Length of a recording, or 0 where its header cannot be read."""
    if isinstance(info, AudioError):
        return 0.0
    end_s = recording.utterance.end
    return max((info.seconds if end_s is None else end_s) - recording.start_s, 0.0)


def recording_pieces(
    recording: Recording, seconds: float, *, start_s: float = 0.0, channel: int | None = None
) -> Iterator[Piece]:
    """The pieces with sound, in seconds from the start of the recording, read in blocks.

    Args:
        seconds: length of the recording.
        start_s: where to start: 0, or `next_s` of an earlier piece.
        channel: from 1; None averages them.

    Raises:
        AudioError: it cannot be read, or has no samples.
    """
    origin_s = recording.start_s

    def load(start: float, end: float) -> Samples:
        is_end = end >= seconds and recording.utterance.end is None
        return load_audio(
            recording.path,
            start=origin_s + start,
            # Without an end where it is that of the file, whose header may round it.
            end=None if is_end else origin_s + end,
            channel=channel,
        )

    if seconds <= 0:
        raise AudioError("no samples", where=recording.path)
    yield from speech_pieces(BlockReader(load, seconds), start_s=start_s)
