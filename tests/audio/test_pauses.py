"""Cutting recordings of any length at pauses, from their levels."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from tests.audio.test_segment import RATE, recording

from moonshine_tune.audio import blocks
from moonshine_tune.audio.blocks import BlockReader
from moonshine_tune.audio.pauses import Span, cut_at_pauses
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import AudioError


def written(folder: Path, samples: Samples, rate: int = RATE) -> Path:
    path = folder / "long.wav"
    sf.write(path, samples, rate, subtype="FLOAT")
    return path


def cut(path: Path, *, max_s: float = 10.0, min_s: float = 1.0) -> list[Span]:
    spans = list(cut_at_pauses(BlockReader.of_file(path), max_s=max_s, min_s=min_s))
    assert spans[0].start_s == 0.0
    assert spans[-1].end_s == pytest.approx(sf.info(path).duration)
    assert all(left.end_s == right.start_s for left, right in pairwise(spans))
    assert all(span.length_s <= max_s + 1e-6 for span in spans if span.has_speech)
    assert all(span.length_s >= min_s - 1e-6 for span in spans) or len(spans) == 1
    return spans


def speech_and_pauses(
    seed: int, *, num_parts: int = 40
) -> tuple[list[tuple[str, float]], list[float]]:
    """Parts of a recording, and where each pause is."""
    rng = np.random.default_rng(seed)
    parts, edges, position = [], [], 0.0
    for _ in range(num_parts):
        parts.append(("speech", float(rng.uniform(1.5, 4.5))))
        parts.append(("pause", float(rng.uniform(0.3, 1.0))))
        position += parts[-2][1]
        edges.append((position, position + parts[-1][1]))
        position += parts[-1][1]
    return parts, edges


@pytest.mark.parametrize(
    ("noise", "rate"), [(0.0, 16_000), (0.001, 44_100), (0.02, 8_000), (0.03, 11_025)]
)
def test_every_cut_is_in_a_pause(tmp_path: Path, noise: float, rate: int) -> None:
    parts, edges = speech_and_pauses(seed=1)
    spans = cut(written(tmp_path, recording(*parts, noise=noise, rate=rate), rate))
    assert len(spans) > 10
    assert all(span.has_speech for span in spans)
    for span in spans[:-1]:
        assert any(start <= span.end_s <= end for start, end in edges), span


def test_thresholds_follow_a_recording_that_becomes_soft(tmp_path: Path) -> None:
    parts, edges = speech_and_pauses(seed=2, num_parts=60)
    samples = recording(*parts, noise=0.0005)
    # From 0 to -40 dB: the speech of the end is as loud as the noise of the start.
    samples *= np.logspace(0, -2, len(samples), dtype=np.float32)
    for span in cut(written(tmp_path, samples))[:-1]:
        assert any(start <= span.end_s <= end for start, end in edges), span


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, _ = speech_and_pauses(seed=3)
    path = written(tmp_path, recording(*parts))
    spans = cut(path)
    monkeypatch.setattr(blocks, "BLOCK_S", 7.0)
    assert cut(path) == spans


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_a_long_silence_is_a_span_of_its_own(tmp_path: Path, noise: float) -> None:
    samples = recording(
        ("pause", 5.0), ("speech", 3.0), ("pause", 200.0), ("speech", 0.4), ("pause", 30.0),
        noise=noise,
    )  # fmt: skip
    # A click in the silence is no speech.
    samples[100 * RATE : 100 * RATE + 300] = 0.5
    spans = cut(written(tmp_path, samples))
    assert [span.has_speech for span in spans] == [False, True, False, True, False]
    ends = [5.0 - 0.3, 8.0 + 0.3, 208.0 - 0.3, 208.4 + 0.3]
    assert [span.end_s for span in spans[:-1]] == pytest.approx(ends, abs=0.06)


def test_silence_has_no_speech_and_constant_noise_may_have(tmp_path: Path) -> None:
    assert not any(
        span.has_speech for span in cut(written(tmp_path, np.zeros(30 * RATE, np.float32)))
    )
    noise = recording(("pause", 25.0), noise=0.1)
    assert all(span.has_speech for span in cut(written(tmp_path, noise)))


def test_without_a_pause_the_cut_is_at_the_quietest_moment(tmp_path: Path) -> None:
    samples = recording(("speech", 14.0))
    samples[round(7.4 * RATE) : round(7.5 * RATE)] *= 0.2
    first, _ = cut(written(tmp_path, samples))
    assert first.end_s == pytest.approx(7.45, abs=0.05)


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """Reading takes the memory of a block, however long the recording is."""
    import tracemalloc

    path = tmp_path / "long.wav"
    with sf.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for seed in range(20):
            parts, _ = speech_and_pauses(seed, num_parts=20)
            file.write(recording(*parts))
    tracemalloc.start()
    spans = cut(path, max_s=30.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spans[-1].end_s > 1200
    # 20 minutes are 77 MB of samples.
    assert peak < 45e6


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, recording(("speech", 1.0)))
    assert cut(path) == [Span(0.0, 1.0, has_speech=True)]
    with pytest.raises(AudioError, match="cannot be cut"):
        cut(path, max_s=2.0, min_s=1.5)
    with pytest.raises(AudioError, match="no such recording"):
        cut(tmp_path / "none.wav")
