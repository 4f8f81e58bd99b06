"""Speech that is transcribed by both models while it is spoken."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from moonshine_tune.audio.microphone import SoundSource
from moonshine_tune.audio.pauses import Span, cut_levels
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.audio.segment import find_pauses, levels_db
from moonshine_tune.transcription.model_pair import ModelPair, PairedTranscript

SOURCE = "microphone"
# Silence after which what was spoken is complete; a thinking speaker pauses for less.
_END_PAUSE_S = 0.8
_LEAST_S = 0.3
# Longest piece: the transcript so far takes longer with each second.
_LONGEST_S = 15.0
# Silence that stays beside what was spoken.
_MARGIN_S = 0.2
# Of silence, kept in front of the next word.
_KEPT_S = 0.5
# New sound after which the transcript so far is shown; more where the models take longer.
_PARTIAL_S = 0.6


def _spans(samples: Samples) -> list[Span]:
    seconds = len(samples) / SAMPLE_RATE_HZ
    levels = levels_db(samples).astype(np.float32)
    return list(cut_levels(levels, seconds, (_LEAST_S, _LONGEST_S)))


def has_speech(samples: Samples) -> bool:
    """Whether there is sound above the pauses in it; mono 16 kHz."""
    return any(span.has_speech for span in _spans(samples))


def _without_ends(samples: Samples) -> tuple[float, Samples]:
    """The samples without the silence at both ends but a margin, and the seconds cut in front."""
    seconds = len(samples) / SAMPLE_RATE_HZ
    pauses = find_pauses(samples)
    start_s, end_s = 0.0, seconds
    if pauses and pauses[0].start_s <= 0:
        start_s = max(pauses[0].end_s - _MARGIN_S, 0.0)
    if pauses and pauses[-1].end_s >= seconds - 0.02:
        end_s = min(pauses[-1].start_s + _MARGIN_S, seconds)
    if end_s <= start_s:
        return 0.0, samples
    return start_s, samples[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]


class LiveCutter:
    """Cuts speech into pieces at its pauses, while it comes in.

    Attributes:
        waiting: sound that is in no piece yet, mono 16 kHz.
        start_s: where it starts, in seconds since the first sample.
    """

    def __init__(self) -> None:
        self.waiting: Samples = np.zeros(0, np.float32)
        self.start_s = 0.0

    def feed(self, samples: Samples) -> Iterator[tuple[float, Samples]]:
        """Take more sound; the start and the samples of each piece that is complete now."""
        self.waiting = np.concatenate([self.waiting, samples])
        while len(self.waiting) > _LONGEST_S * SAMPLE_RATE_HZ:
            yield from self._cut(is_end=False)
        if self._is_at_pause():
            yield from self._cut(is_end=True)
        elif self._seconds > 2 * _KEPT_S and not has_speech(self.waiting):
            self._drop(self._seconds - _KEPT_S)

    def flush(self) -> Iterator[tuple[float, Samples]]:
        """The rest, as pieces: nobody speaks on."""
        while self._seconds >= _LEAST_S:
            yield from self._cut(is_end=True)
        self._drop(self._seconds)

    @property
    def _seconds(self) -> float:
        return len(self.waiting) / SAMPLE_RATE_HZ

    def _is_at_pause(self) -> bool:
        pauses = find_pauses(self.waiting, min_pause_s=_END_PAUSE_S) if len(self.waiting) else ()
        is_last = bool(pauses) and pauses[-1].end_s >= self._seconds - 0.02
        return is_last and pauses[-1].start_s >= _LEAST_S

    def _cut(self, *, is_end: bool) -> Iterator[tuple[float, Samples]]:
        spans = _spans(self.waiting)
        # The last one may go on.
        complete = spans if is_end or len(spans) == 1 else spans[:-1]
        for span in complete:
            if span.has_speech:
                start, end = (round(t * SAMPLE_RATE_HZ) for t in (span.start_s, span.end_s))
                lead_s, samples = _without_ends(self.waiting[start:end])
                yield self.start_s + span.start_s + lead_s, samples
        self._drop(complete[-1].end_s)

    def _drop(self, seconds: float) -> None:
        count = min(round(seconds * SAMPLE_RATE_HZ), len(self.waiting))
        self.start_s += count / SAMPLE_RATE_HZ
        self.waiting = self.waiting[count:]


class PairView(Protocol):
    """Where transcripts are shown while one speaks."""

    def show_partial(self, transcript: PairedTranscript) -> None:
        """What both models write so far."""
        ...

    def show_final(self, transcript: PairedTranscript) -> None:
        """What both models write on a complete piece."""
        ...

    def show_state(self, *, is_listening: bool) -> None:
        """Whether the microphone records now."""
        ...


def transcribe_live(
    pair: ModelPair,
    source: SoundSource,
    view: PairView,
    read_key: Callable[[], str],
    wait: Callable[[], None],
) -> None:
    """Transcribe what is spoken until `q` is pressed; Enter stops and starts the microphone.

    Args:
        read_key: the next key, or an empty text where none was pressed.
        wait: called between looks at the microphone.
    """
    cutter, next_s = LiveCutter(), _PARTIAL_S

    def finish(pieces: Iterator[tuple[float, Samples]]) -> bool:
        is_any = False
        for start_s, samples in pieces:
            view.show_final(pair.transcribe(samples, SOURCE, start_s))
            is_any = True
        return is_any

    is_listening = True
    source.start()
    view.show_state(is_listening=True)
    while True:
        key = read_key()
        if key in ("\n", "\r") or key.lower() == "q":
            if is_listening:
                source.stop()
            finish(cutter.feed(source.read()))
            finish(cutter.flush())
            next_s = _PARTIAL_S
            if key.lower() == "q":
                return
            is_listening = not is_listening
            if is_listening:
                source.start()
            view.show_state(is_listening=is_listening)
        elif is_listening:
            if finish(cutter.feed(source.read())):
                next_s = _PARTIAL_S
            seconds = len(cutter.waiting) / SAMPLE_RATE_HZ
            if seconds >= next_s and has_speech(cutter.waiting):
                partial = pair.transcribe(cutter.waiting, SOURCE, cutter.start_s)
                view.show_partial(partial)
                spent_s = (partial.base.latency_ms + partial.adapted.latency_ms) / 1000
                next_s = seconds + max(_PARTIAL_S, 2 * spent_s)
        wait()
