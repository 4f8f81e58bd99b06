"""Read headers and convert recordings in parallel. An interrupted conversion resumes.

Threads are enough: libsndfile, soxr and hashing release Python's lock. At most one clip per thread
is in memory.
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

# Part of the name of each copy, so that copies from another conversion are not reused.
_CONVERSION = "mono-16k-flac-1"


def probe(paths: Iterable[Path | None], progress: Progress) -> dict[Path, AudioInfo | AudioError]:
    """The header of each recording, or why it cannot be read; each file is read once."""
    wanted = list(dict.fromkeys(path for path in paths if path is not None))

    def read(path: Path) -> AudioInfo | AudioError:
        try:
            return audio_info(path)
        except AudioError as error:
            return error

    infos: dict[Path, AudioInfo | AudioError] = {}
    with (
        progress.stage("reading headers", len(wanted)) as stage,
        ThreadPoolExecutor(_num_threads()) as pool,
    ):
        for path, info in zip(wanted, pool.map(read, wanted, chunksize=64), strict=True):
            infos[path] = info
            stage.advance()
    return infos


def convert(
    utterances: Sequence[Utterance],
    folder: Path,
    channels: Sequence[int | None],
    progress: Progress,
) -> tuple[list[Utterance], list[tuple[Path, str]]]:
    """Write each utterance to its own file, mono, 16 kHz, FLAC; spans are cut out.

    A copy is named by the content of its recording, the span and the channel. It is complete or
    absent, so copies of an interrupted run are reused. The manifest keeps the sha256 of the
    original recording as `source_sha256`.

    Args:
        channels: of each utterance, from 1; None averages all channels.

    Returns:
        The utterances with their copies; and path and reason of every failure.
    """
    converted: list[Utterance] = []
    failed: list[tuple[Path, str]] = []

    def work(utterance: Utterance, channel: int | None) -> Utterance | str:
        try:
            return _converted(utterance, folder, channel)
        except AudioError as error:
            return error.message

    with (
        progress.stage("converting", len(utterances)) as stage,
        ThreadPoolExecutor(_num_threads()) as pool,
    ):
        for utterance, result in zip(utterances, pool.map(work, utterances, channels), strict=True):
            if isinstance(result, Utterance):
                converted.append(result)
            else:
                failed.append((utterance.audio, f"{utterance.id}: {result}"))
            stage.advance()
    return converted, failed


def _converted(utterance: Utterance, folder: Path, channel: int | None) -> Utterance:
    stat = utterance.audio.stat()
    content = _content_hash(utterance.audio, stat.st_size, stat.st_mtime_ns)
    key = f"{_CONVERSION} {content} {utterance.start} {utterance.end} {channel}"
    target = folder.absolute() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.flac"
    if not target.is_file():
        samples = load_audio(
            utterance.audio, start=utterance.start, end=utterance.end, channel=channel
        )
        write_audio(target, samples)
    return replace(
        utterance,
        audio=target.resolve(),
        start=None,
        end=None,
        duration=round(audio_info(target).seconds, 4),
        extra=utterance.extra | {"source_sha256": content},
    )


@lru_cache(maxsize=4096)
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of a file; cached, because many utterances may be spans of one recording."""
    return sha256_of(path)


def _num_threads() -> int:
    return min((os.cpu_count() or 1) + 2, 16)
