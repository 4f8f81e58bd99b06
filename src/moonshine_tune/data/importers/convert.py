"""Headers read and recordings converted in parallel; what was done before a stop is not done again.

Threads, not processes: libsndfile, soxr and hashing work outside of Python's lock. At most as many
clips as there are threads are in memory.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from moonshine_tune.audio.io import AudioInfo, audio_info, load_audio, write_audio
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance

# Named in each copy, so that copies of an older way of converting are not taken for these.
_RECIPE = "mono-16k-flac-1"


def probe(paths: Iterable[Path | None], progress: Progress) -> dict[Path, AudioInfo | AudioError]:
    """What the header of each recording says, or why it cannot be read; each file once."""
    wanted = list(dict.fromkeys(path for path in paths if path is not None))

    def look(path: Path) -> AudioInfo | AudioError:
        try:
            return audio_info(path)
        except AudioError as error:
            return error

    found: dict[Path, AudioInfo | AudioError] = {}
    with (
        progress.stage("reading headers", len(wanted)) as stage,
        ThreadPoolExecutor(_num_threads()) as pool,
    ):
        for path, info in zip(wanted, pool.map(look, wanted, chunksize=64), strict=True):
            found[path] = info
            stage.advance()
    return found


def convert(
    utterances: Sequence[Utterance], folder: Path, channel: int | None, progress: Progress
) -> tuple[list[Utterance], list[tuple[Path, str]]]:
    """Each utterance as a file of its own, mono, 16 kHz, FLAC; spans are cut out.

    A copy is named by the content it was made from, the span and the channel, and is complete or
    not there: after a stop, those that are there are taken as they are. The manifest keeps the
    sha256 of the recording that it came from as `source_sha256`.

    Returns:
        The utterances with their copies, and path and reason of what could not be converted.
    """
    made: list[Utterance] = []
    failed: list[tuple[Path, str]] = []

    def work(utterance: Utterance) -> Utterance | str:
        try:
            return _converted(utterance, folder, utterance.extra.get("channel", channel))
        except AudioError as error:
            return error.message

    with (
        progress.stage("converting", len(utterances)) as stage,
        ThreadPoolExecutor(_num_threads()) as pool,
    ):
        for utterance, result in zip(utterances, pool.map(work, utterances), strict=True):
            if isinstance(result, Utterance):
                made.append(result)
            else:
                failed.append((utterance.audio, f"{utterance.id}: {result}"))
            stage.advance()
    return made, failed


def _converted(utterance: Utterance, folder: Path, channel: int | None) -> Utterance:
    stat = utterance.audio.stat()
    content = _content_hash(utterance.audio, stat.st_size, stat.st_mtime_ns)
    what = f"{_RECIPE} {content} {utterance.start} {utterance.end} {channel}"
    target = folder.absolute() / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.flac"
    if not target.is_file():
        samples = load_audio(
            utterance.audio, start=utterance.start, end=utterance.end, channel=channel
        )
        write_audio(target, samples)
    extra = {key: value for key, value in utterance.extra.items() if key != "channel"}
    return replace(
        utterance,
        audio=target.resolve(),
        start=None,
        end=None,
        duration=round(audio_info(target).seconds, 4),
        extra=extra | {"source_sha256": content},
    )


@lru_cache(maxsize=4096)
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    """Many utterances may be spans of one recording: it is read once."""
    return sha256_of(path)


def _num_threads() -> int:
    return min((os.cpu_count() or 1) + 2, 16)
