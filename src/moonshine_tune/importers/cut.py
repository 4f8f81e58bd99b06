"""Long recordings without transcripts become clips: spans between pauses, no copies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.audio.blocks import BlockReader
from moonshine_tune.audio.io import AUDIO_ENDINGS, audio_info
from moonshine_tune.audio.pauses import Span, cut_at_pauses
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.names import real_path
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.importers.base import files_below

# A shorter clip is a breath or a door, in a recording that has longer ones.
_SHORTEST_CLIP_S = 1.0


def recording_files(folder: Path, instead: str) -> list[Path]:
    """The recordings below a folder, in the order of their paths.

    Args:
        instead: the flag with a manifest, for the hint.

    Raises:
        RequestError: there are none.
    """
    paths = sorted(
        path
        for path in (Path(parent, name) for parent, name in files_below(folder))
        if path.suffix.lower() in AUDIO_ENDINGS
    )
    if not paths:
        raise RequestError(
            "no recording is in this folder",
            where=folder,
            hint=f"its files would end in {', '.join(sorted(AUDIO_ENDINGS))}; or name a manifest: "
            f"{instead}",
        )
    return paths


def recording_of(path: Path, folder: Path) -> Utterance:
    """A recording without a transcript, named by its path below a folder.

    Raises:
        AudioError: it cannot be read.
    """
    name = path.relative_to(folder).with_suffix("").as_posix()
    return Utterance(name, real_path(path), duration=round(audio_info(path).seconds, 3))


@dataclass(frozen=True)
class CutRecordings:
    """Recordings as clips.

    Attributes:
        clips: a recording that is short enough is one clip, without a span.
        origins: for each clip, the index of its recording.
        failed: index of each recording that gives no clip, the reason in a word, and in a sentence.
        num_cut: recordings that were cut.
        silence_s: seconds without speech in these, which are in no clip.
    """

    clips: tuple[Utterance, ...]
    origins: tuple[int, ...]
    failed: tuple[tuple[int, str, str], ...]
    num_cut: int
    silence_s: float

    @property
    def remark(self) -> str:
        """What was cut, in a sentence; empty if nothing was."""
        if not self.num_cut:
            return ""
        silence = f"; {self.silence_s / 60:.1f} min of silence left out" if self.silence_s else ""
        return f"{self.num_cut:,} long recordings are cut at their pauses{silence}"


def cut_recordings(
    recordings: Sequence[Utterance], max_s: float, progress: Progress
) -> CutRecordings:
    """Cut the recordings that are longer than `max_s` at their pauses.

    Args:
        recordings: each with its duration; spans of recordings stay as they are.
    """
    clips: list[Utterance] = []
    origins: list[int] = []
    failed: list[tuple[int, str, str]] = []
    num_cut, silence_s = 0, 0.0
    for index, recording in enumerate(recordings):
        if recording.start is not None or (recording.duration or 0.0) <= max_s:
            clips.append(recording)
            origins.append(index)
            continue
        try:
            min_s = min(_SHORTEST_CLIP_S, max_s / 2)
            spans = list(
                cut_at_pauses(
                    BlockReader.of_file(recording.audio),
                    max_s=max_s,
                    min_s=min_s,
                    progress=progress,
                )
            )
        except AudioError as error:
            failed.append((index, "unreadable", error.message))
            continue
        num_cut += 1
        spoken = [span for span in spans if span.has_speech]
        silence_s += sum(span.length_s for span in spans if not span.has_speech)
        if not spoken:
            failed.append((index, "silent", "silence from its start to its end"))
        clips += _clips_of(recording, spoken)
        origins += [index] * len(spoken)
    return CutRecordings(tuple(clips), tuple(origins), tuple(failed), num_cut, silence_s)


def _clips_of(recording: Utterance, spans: Sequence[Span]) -> Iterator[Utterance]:
    for number, span in enumerate(spans, start=1):
        start, end = round(span.start_s, 3), round(span.end_s, 3)
        yield replace(
            recording,
            id=f"{recording.id}-{number:05d}",
            start=start,
            end=end,
            duration=round(end - start, 3),
            session=recording.session or recording.id,
        )
