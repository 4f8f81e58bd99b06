"""Which transcript belongs to which recording, and its text without what is no speech."""

import re
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.audio.io import AUDIO_ENDINGS
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.transcript_form import clean_text, repaired
from moonshine_tune.importers.base import files_below, is_clutter, read_text
from moonshine_tune.importers.transcripts.cue import TranscriptFile
from moonshine_tune.importers.transcripts.pairing import pair
from moonshine_tune.importers.transcripts.read import CUE_ENDINGS, NO_TRANSCRIPTS, read_transcript

_TEXT_ENDINGS = (".txt", ".md", ".markdown", ".text")
# Marks of Markdown that are no words: headings, lists, quotations, rules, and its tables' borders.
_MARKDOWN = re.compile(r"^\s*(?:#{1,6}\s+|[-*+]\s+|>\s*|\d+[.)]\s+(?=\S))|^\s*(?:[-*_=]\s*){3,}$")
_EMPHASIS = re.compile(r"(?<!\w)[*_]{1,3}(?=\S)|(?<=\S)[*_]{1,3}(?!\w)|`+")


@dataclass(frozen=True)
class TextPair:
    """A recording and the file with its transcript."""

    audio: Path
    transcript: Path


def find_pairs(audio: Path, transcript: Path | None) -> tuple[list[TextPair], list[Path]]:
    """The recordings with their transcripts, and the recordings without any.

    Args:
        audio: one recording, or a folder of recordings.
        transcript: of the one recording; None takes the file of the same name beside it.

    Raises:
        RequestError: there is no such file or folder, or no pair.
    """
    if not audio.exists():
        raise RequestError(
            "no such recording", where=audio, hint="give a recording or a folder of recordings"
        )
    if transcript is not None:
        if audio.is_dir():
            raise RequestError(
                "a folder of recordings and one transcript",
                where=audio,
                hint="name the recording, or leave the transcript out: each recording has a text "
                "of its name beside it",
            )
        if not transcript.is_file():
            raise RequestError(
                "a folder, not a text" if transcript.is_dir() else "no such transcript",
                where=transcript,
                hint="give a plain text (.txt, .md)",
            )
        return [TextPair(audio, transcript)], []
    recordings, files = _listed(audio)
    pairing = pair(recordings, files, (*_TEXT_ENDINGS, *CUE_ENDINGS))
    pairs, missing = [], []
    for path in recordings:
        texts = pairing.files.get(path, [])
        if len(texts) > 1:
            names = " and ".join(item.name for item in texts[:2])
            raise RequestError(
                f"two texts may be its transcript: {names}",
                where=path,
                hint=f"name one: moonshine-tune data align {quoted(path)} {quoted(texts[0])} "
                "--out F",
            )
        if texts:
            pairs.append(TextPair(path, texts[0]))
        else:
            missing.append(path)
    if not pairs:
        raise RequestError(
            f"{len(recordings):,} recordings, and no text of the same name beside one"
            if recordings
            else "no recordings",
            where=audio,
            hint="name the transcript: moonshine-tune data align AUDIO TEXT --out F; without one, "
            "cut the recordings: moonshine-tune data import FOLDER --no-text --cut --out F",
        )
    return pairs, missing


def _listed(audio: Path) -> tuple[list[Path], list[Path]]:
    """Recordings, and files that may be their transcripts."""
    if audio.is_dir():
        paths = sorted(Path(parent, name) for parent, name in files_below(audio))
        recordings = [path for path in paths if path.suffix.lower() in AUDIO_ENDINGS]
        return recordings, [path for path in paths if path.suffix.lower() not in AUDIO_ENDINGS]
    beside = sorted(path for path in audio.parent.iterdir() if not is_clutter(path.name))
    return [audio], [path for path in beside if path.suffix.lower() not in AUDIO_ENDINGS]


def transcript_text(path: Path, encoding: str | None = None) -> str:
    """The text of a transcript; Markdown without its marks.

    Raises:
        RequestError: no text, another encoding, or a form that has times already.
    """
    ending = path.suffix.lower()
    if ending in NO_TRANSCRIPTS:
        raise RequestError(f"no plain text: {NO_TRANSCRIPTS[ending]}", where=path)
    content = read_text(path, encoding)
    transcript = read_transcript(path, content)
    if not isinstance(transcript, TranscriptFile) or transcript.cues:
        raise RequestError(
            "this transcript has times already",
            where=path,
            hint="import its cues: moonshine-tune data import "
            f"{quoted(path.parent)} --out train.jsonl",
        )
    if transcript.problem is not None:
        raise RequestError(transcript.problem, where=path)
    text = transcript.text or ""
    if ending in (".md", ".markdown"):
        text = "\n".join(_without_marks(line) for line in text.splitlines())
    if not clean_text(text):
        raise RequestError("the transcript is empty", where=path)
    return text


def _without_marks(line: str) -> str:
    return _EMPHASIS.sub("", repaired(_MARKDOWN.sub("", line), "markup"))
