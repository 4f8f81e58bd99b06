"""Read headers and convert recordings in parallel. An interrupted conversion resumes.

Threads are enough: libsndfile, soxr and hashing release Python's lock. At most one clip per thread
is in memory.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from moonshine_tune.audio.fingerprint import content_hash
from moonshine_tune.audio.io import AudioInfo, audio_info, load_audio, write_audio
from moonshine_tune.audio.remarks import READING_REMARKS
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.parallel import thread_pool
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance

# Enough to notice a fault of a corpus, in about a second.
_MAX_EXAMINED = 200
# Part of the name of each copy, so that copies from another conversion are not reused.
_CONVERSION = "mono-16k-flac-2"


def probe(paths: Iterable[Path | None], progress: Progress) -> dict[Path, AudioInfo | AudioError]:
    """The header of each recording, or why it cannot be read; each file is read once.

    Some of those with several channels or with floats are examined, so that `report_readings` says
    faults of all of them before they are used.
    """
    wanted = list(dict.fromkeys(path for path in paths if path is not None))

    def read(path: Path, *, examine: bool = False) -> AudioInfo | AudioError:
        try:
            return audio_info(path, examine=examine)
        except AudioError as error:
            return error

    infos: dict[Path, AudioInfo | AudioError] = {}
    with (
        progress.stage("reading headers", len(wanted)) as stage,
        thread_pool(_num_threads()) as pool,
    ):
        for path, info in zip(wanted, pool.map(read, wanted, chunksize=64), strict=True):
            infos[path] = info
            stage.advance()
        unsure = [p for p, i in infos.items() if isinstance(i, AudioInfo) and not i.is_examined]
        chosen = unsure[:: -(-len(unsure) // _MAX_EXAMINED) or 1]
        infos.update(zip(chosen, pool.map(partial(read, examine=True), chosen), strict=True))
    return infos


def report_readings(
    infos: Mapping[Path, AudioInfo | AudioError], with_channel: Collection[Path], progress: Progress
) -> None:
    """Say what is decided about the recordings as they are read.

    Args:
        with_channel: recordings whose channel is given, so that nothing is decided about channels.
    """
    for path, info in infos.items():
        if isinstance(info, AudioInfo):
            is_given = path in with_channel
            decided = [r for r in info.remarks if not is_given or r.kind != "channels"]
            READING_REMARKS.add(path, decided)
    for remark in READING_REMARKS.take():
        progress.say(remark)


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
        thread_pool(_num_threads()) as pool,
    ):
        for utterance, result in zip(utterances, pool.map(work, utterances, channels), strict=True):
            if isinstance(result, Utterance):
                converted.append(result)
            else:
                failed.append((utterance.audio, f"{utterance.id}: {result}"))
            stage.advance()
    for remark in READING_REMARKS.take():
        progress.say(remark)
    return converted, failed


def _converted(utterance: Utterance, folder: Path, channel: int | None) -> Utterance:
    content = content_hash(utterance.audio)
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


def _num_threads() -> int:
    return min((os.cpu_count() or 1) + 2, 16)
