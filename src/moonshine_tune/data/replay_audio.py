"""General speech to replay for someone who has no manifest of it: made once, kept in the cache.

`auto` takes what is on this machine: the recordings of the package moonshine-voice, and general
sentences that espeak-ng speaks. A folder of recordings becomes a manifest. `hub` fetches a part of
the corpus that Moonshine's own trainer replays. The manifests are read like any other.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from moonshine_tune.audio.io import change_tempo, load_audio, write_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.audio.segment import split_at_pauses
from moonshine_tune.audio.voice_pool import VoicePool
from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.errors import AudioError, MachineError, RequestError, TuneError
from moonshine_tune.core.files import complete_folder, disk_errors, sha256_of
from moonshine_tune.core.hardware import cache_root, make_cache_folder
from moonshine_tune.core.names import real_path
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import (
    HELD_OUT_KEY,
    SET_KEY,
    Utterance,
    read_manifest,
    seconds_of,
    write_manifest,
)
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.data.hub_replay import fetch_hub_replay
from moonshine_tune.data.synthesis.corpus import Delivery, SynthesisOptions, synthesize_corpus
from moonshine_tune.data.synthesis.general_sentences import replay_sentences
from moonshine_tune.importers.cut import cut_recordings, recording_files, recording_of
from moonshine_tune.registry.catalog import lookup_model
from moonshine_tune.registry.wheel import wheel_recordings
from moonshine_tune.runs.records import ReplayRecord

AUTO, HUB = "auto", "hub"
_CACHE = "replay-audio"
# Of what `auto` makes: another number makes it again. Runs name it by the content of its manifest.
_VERSION = 1
_AUTO_NAME = re.compile(rf"{AUTO}-{_VERSION}-(?P<recorded>recorded-)?(?P<seconds>\d+(?:\.\d+)?)")
# Long clips waste little when they are cut into windows. Shorter ones where a run takes no longer.
_MAX_CLIP_S = 20.0
_SENTENCES_PER_CLIP = 4
_DELIVERY = Delivery(rate_wpm=(130, 210), pitch=(30, 70), pitch_range=(20, 80))
# Clear reading by one person: it is held out, and the others are replayed.
_WATCHED = "two_cities"
# Those that need no network; what is not on this machine is left out.
_ENGINES = ("espeak", "say", "flite")
# There is little human speech on this machine: each piece is replayed at several tempos.
_TEMPOS = (0.95, 1.0, 1.05)
# Of a folder. A run replays some 200 clips: more would only cost time to look through.
_MAX_CLIPS = 600
_MAX_FOLDER_S = 2 * 3600.0
_GIVE_SOME = "give recordings of your own, without transcripts: --replay FOLDER"


@dataclass(frozen=True)
class ReplayAudio:
    """What a run replays.

    Attributes:
        manifest: None where there is nothing to replay.
        remark: what it is, or why there is none, in a sentence for the log.
    """

    manifest: Path | None
    record: ReplayRecord
    remark: str


def with_replay_audio(
    resolved: ResolvedSettings, progress: Progress, train: Sequence[Utterance] | None = None
) -> tuple[ResolvedSettings, ReplayAudio]:
    """The settings with a manifest where `data.replay` has a word or a folder.

    Args:
        resolved: the settings; the source of `data.replay` stays.
        train: the training clips; None to read their manifest where it matters.

    Raises:
        RequestError: a folder without recordings, or `hub` for a model of another language.
        MachineError: `hub` cannot be reached, or the disk is full.
    """
    settings = resolved.settings
    wanted = settings.data.replay
    if settings.retain.weight == 0:
        given = wanted if isinstance(wanted, Path) and not wanted.is_dir() else None
        audio = replace(_nothing("retain.weight is 0: no replay audio is used"), manifest=given)
    else:
        speaks = wanted != AUTO or not _is_synthetic(settings.data.train, train)
        audio = find_replay_audio(
            wanted,
            settings.model,
            max_clip_s=settings.data.max_clip_s,
            progress=progress,
            speaks=speaks,
        )
    if audio.manifest == settings.data.replay:
        return resolved, audio
    data = settings.data.model_copy(update={"replay": audio.manifest})
    changed = settings.model_copy(update={"data": data})
    return ResolvedSettings(changed, resolved.sources), audio


def _is_synthetic(manifest: Path | None, known: Sequence[Utterance] | None) -> bool:
    """Whether all clips to train on are synthesized. What is wrong with them is found later."""
    with suppress(TuneError):
        if known is None:
            known = read_manifest(manifest).utterances if manifest else ()
        return bool(known) and all(item.is_synthetic for item in known)
    return False


def find_replay_audio(
    wanted: str | Path | None,
    model: str,
    *,
    max_clip_s: float,
    progress: Progress,
    speaks: bool = True,
) -> ReplayAudio:
    """The manifest of `auto`, `hub`, a folder or a file; made if it is not in the cache.

    Args:
        model: catalog name, hub id or folder: what is made here is English.
        max_clip_s: longest clip that the run takes.
        speaks: whether `auto` speaks sentences where it has recordings. Next to training clips of
            the same synthesizers they pull against what is learned.

    Raises:
        RequestError, MachineError: as of `with_replay_audio`.
    """
    if wanted is None:
        return _nothing("no replay audio: general speech may get worse")
    max_s = min(_MAX_CLIP_S, max_clip_s)
    record = lookup_model(model)
    is_english = record is None or record.language == "en"
    if wanted == AUTO:
        if not is_english:
            return _nothing(f"replay auto: it speaks English, which {model} does not; {_GIVE_SOME}")
        return _auto(max_s, speaks, progress)
    if wanted == HUB:
        if not is_english:
            raise RequestError(
                f"--replay hub is English speech, which {model} does not transcribe",
                hint=_GIVE_SOME,
            )
        return _hub(max_s, progress)
    path = Path(wanted)
    if path.is_dir():
        return _folder(path, max_s, progress)
    return _given(remade(path, progress))


def remade(path: Path, progress: Progress) -> Path:
    """A manifest; one of `auto` that is not in the cache any more is made again.

    A run names the manifest that it replayed, and the cache may be emptied or be at another path.
    """
    named = _made_name(path)
    if path.exists() or named is None:
        return path
    audio = _auto(float(named["seconds"]), named["recorded"] is None, progress)
    return audio.manifest or path


def made_before(path: Path) -> bool:
    """Whether a manifest is one of `auto` as this version makes it, wherever the cache was."""
    return _made_name(path) is not None


def _made_name(path: Path) -> re.Match[str] | None:
    """What the folder of a manifest of `auto` says of it."""
    is_cached = path.parent.parent.name == _CACHE
    return _AUTO_NAME.fullmatch(path.parent.name) if is_cached else None


def _nothing(remark: str) -> ReplayAudio:
    return ReplayAudio(None, ReplayRecord(kind="none", source="nothing"), remark)


def _given(manifest: Path) -> ReplayAudio:
    """A manifest of the user, or one of the cache that an earlier job has named."""
    made = manifest.parent / ReplayRecord.file_name
    if manifest.parent.parent.name == _CACHE and made.is_file():
        return _made(manifest.parent)
    utterances = read_manifest(manifest, require_text=False).utterances
    return _described(manifest, utterances, "manifest", "recordings of a manifest")


def _described(
    manifest: Path, utterances: Sequence[Utterance], kind: str, source: str
) -> ReplayAudio:
    seconds = round(seconds_of(utterances), 1)
    record = ReplayRecord(kind=kind, source=source, clips=len(utterances), seconds=seconds)
    return ReplayAudio(manifest, record, f"replay: {record.sentence}")


# --- in the cache


def _kept(name: str, make: Callable[[Path], ReplayRecord], progress: Progress) -> ReplayAudio:
    """A folder of the cache with a manifest, its recordings and their hashes; made if missing.

    Several processes may ask at once: one makes it and the others wait.

    Args:
        make: writes `manifest.jsonl` and recordings into a folder.
    """
    known = cache_root() / _CACHE / name
    if _damage(known) is None:
        # Complete files need no lock, which a cache that may only be read cannot have.
        return _made(known)
    cache = make_cache_folder(known.parent, progress.say)
    folder = cache / name
    with disk_errors(cache), FileLock(cache / f".making-{name}.lock"):
        damage = _damage(folder)
        if damage is not None:
            if folder.exists():
                progress.say(f"the replay audio in the cache is damaged ({damage}): made again")
            with complete_folder(folder, replace=True) as scratch:
                record = make(scratch)
                files = sorted(path for path in scratch.rglob("*") if path.is_file())
                sums = {path.relative_to(scratch).as_posix(): sha256_of(path) for path in files}
                utterances = read_manifest(scratch / "manifest.jsonl", require_text=False)
                counts = {
                    "clips": len(utterances),
                    "seconds": round(seconds_of(utterances.utterances), 1),
                }
                complete = record.model_copy(update={**counts, "files": sums})
                complete.write(scratch / ReplayRecord.file_name)
    return _made(folder)


def _damage(folder: Path) -> str | None:
    """A message about what is missing or altered in a folder of the cache, or None."""
    try:
        record = ReplayRecord.read(folder / ReplayRecord.file_name)
    except TuneError:
        return f"{ReplayRecord.file_name} is missing"
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != expected:
            return f"{name} is missing or altered"
    return None


def _made(folder: Path) -> ReplayAudio:
    content = ReplayRecord.read(folder / ReplayRecord.file_name).to_json()
    # A run does not record the hashes: it has that of the manifest.
    del content["files"]
    record = ReplayRecord.model_validate(content)
    remark = f"replay: {record.sentence}" + (f"; {record.missing}" if record.missing else "")
    return ReplayAudio(folder / "manifest.jsonl", record, remark)


# --- what is on this machine


def _auto(max_s: float, speaks: bool, progress: Progress) -> ReplayAudio:
    """Spoken sentences and the recordings of moonshine-voice, as far as they can be had."""

    def make(folder: Path) -> ReplayRecord:
        return _make_auto(folder, max_s, speaks, progress)

    try:
        kind = "" if speaks else "recorded-"
        return _kept(f"{AUTO}-{_VERSION}-{kind}{max_s:g}", make, progress)
    except _NothingError as error:
        return _nothing(f"replay auto: {error.message}; general speech may get worse: {error.hint}")


class _NothingError(MachineError):
    """Nothing that could be replayed is on this machine."""


def _make_auto(folder: Path, max_s: float, speaks: bool, progress: Progress) -> ReplayRecord:
    recordings = wheel_recordings(cache_root())
    sources: list[str] = []
    utterances: list[Utterance] = []
    missing = "no sentences are spoken: the training clips are synthesized, too"
    if speaks or not recordings:
        missing = ""
        try:
            source, spoken = _speak(folder / "speech", progress)
            sources.append(source)
            utterances += spoken
        except MachineError as error:
            missing = f"{error.message} ({error.hint})"
    if recordings:
        # A slower piece is longer than it was cut.
        cut_s = max_s * min(_TEMPOS)
        pieces = recording_pieces(recordings, folder / "recordings", (cut_s,), _TEMPOS)
        utterances += map(_held_out, pieces)
        sources.append("the recordings of moonshine-voice")
    if not utterances:
        raise _NothingError(f"nothing to replay is on this machine: {missing}", hint=_GIVE_SOME)
    write_manifest(folder / "manifest.jsonl", _cut_evenly(utterances, max_s))
    return ReplayRecord(kind=AUTO, source=" and ".join(sources), missing=missing)


def _speak(folder: Path, progress: Progress) -> tuple[str, list[Utterance]]:
    """Who speaks general sentences, and the clips.

    Raises:
        MachineError: no synthesizer is on this machine.
    """
    progress.say("replay auto: speaking general sentences, once; kept in the cache")
    with VoicePool.open(_ENGINES, SilentProgress()) as pool:
        clips = list(_spoken(folder, pool, progress))
        engines = " and ".join(name.replace("espeak", "espeak-ng") for name in pool.versions)
        return f"sentences by {len(pool.voices('train'))} voices of {engines}", clips


def _spoken(folder: Path, pool: VoicePool, progress: Progress) -> Iterator[Utterance]:
    """General sentences, several in a clip, in varied voices and rates. Their texts are left out:
    the base model's own are the targets."""
    sentences = replay_sentences()
    count = _SENTENCES_PER_CLIP
    passages = [" ".join(sentences[n : n + count]) for n in range(0, len(sentences), count)]
    spoken = synthesize_corpus(
        passages,
        folder,
        voices=pool.voices("train"),
        pool=pool,
        options=SynthesisOptions(delivery=_DELIVERY, audio_format="flac"),
        progress=progress,
    )
    for item in read_manifest(spoken.manifest).utterances:
        yield replace(item, text=None, extra={})
    spoken.manifest.unlink()


def _held_out(piece: Utterance) -> Utterance:
    """The piece, marked if it is of the recording that shows what general speech loses.

    The base model is unsure of spoken sentences: on them, the words of any adapter differ.
    """
    if not piece.id.startswith(_WATCHED):
        return piece
    return replace(piece, extra={HELD_OUT_KEY: True, SET_KEY: _WATCHED})


def recording_pieces(
    recordings: Sequence[Path], folder: Path, cuts_s: Sequence[float], tempos: Sequence[float]
) -> list[Utterance]:
    """Recordings in pieces between their pauses, each at several tempos, as files of a folder.

    Args:
        cuts_s: longest pieces; for each of them the recordings are cut once more.
        tempos: as factors; pitch changes along.
    """
    utterances = []
    for recording in recordings:
        samples = load_audio(recording)
        for max_s in cuts_s:
            for number, (start, end) in enumerate(split_at_pauses(samples, max_s=max_s)):
                piece = samples[round(start * SAMPLE_RATE_HZ) : round(end * SAMPLE_RATE_HZ)]
                for tempo in tempos:
                    name = f"{recording.stem}-{max_s:g}s-{number:02d}~tempo{tempo:g}"
                    path = folder / f"{name}.flac"
                    changed = change_tempo(piece, tempo)
                    write_audio(path, changed)
                    seconds = len(changed) / SAMPLE_RATE_HZ
                    utterances.append(Utterance(name, real_path(path), duration=seconds))
    return utterances


def _cut_evenly(utterances: Sequence[Utterance], max_s: float) -> Iterator[Utterance]:
    """Utterances without texts as spans of at most `max_s`, those of one in equal parts."""
    for item in utterances:
        seconds = item.known_seconds or 0.0
        parts = -int(-seconds // max_s)
        if parts <= 1:
            yield item
            continue
        for number in range(parts):
            start, end = (round(n * seconds / parts, 3) for n in (number, number + 1))
            yield replace(item, id=f"{item.id}#{number}", start=start, end=end, duration=None)


# --- a folder of the user


def _folder(folder: Path, max_s: float, progress: Progress) -> ReplayAudio:
    """The recordings of a folder, long ones cut at their pauses; without copies."""
    paths = recording_files(folder, "--replay general.jsonl")
    listed = [[str(real_path(path)), *_size_and_time(path)] for path in paths]
    digest = hashlib.sha256(json.dumps([_VERSION, max_s, listed]).encode()).hexdigest()[:16]

    def make(scratch: Path) -> ReplayRecord:
        recordings = list(_readable(folder, evenly_chosen(paths, _MAX_CLIPS)))
        cut = cut_recordings(recordings, max_s, progress)
        if not cut.clips:
            raise RequestError(
                f"none of the {len(paths)} recordings of this folder can be used",
                where=folder,
                hint=f"see why with: moonshine-tune data import {quoted(folder)} --no-text "
                "--out replay.jsonl",
            )
        write_manifest(scratch / "manifest.jsonl", evenly_chosen(cut.clips, _MAX_CLIPS))
        of_all = f"{len(recordings)} of {len(paths)} recordings of a folder"
        return ReplayRecord(kind="folder", source=of_all)

    return _kept(f"folder-{digest}", make, progress)


def _size_and_time(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _readable(folder: Path, paths: Sequence[Path]) -> Iterator[Utterance]:
    """Recordings with their lengths, until there are enough; unreadable ones are left out."""
    total_s = 0.0
    for path in paths:
        if total_s >= _MAX_FOLDER_S:
            return
        with suppress(AudioError):
            recording = recording_of(path, folder)
            total_s += recording.duration or 0.0
            yield recording


# --- the hub


def _hub(max_s: float, progress: Progress) -> ReplayAudio:
    """A part of the corpus that Moonshine's own trainer replays."""

    def make(scratch: Path) -> ReplayRecord:
        record, utterances = fetch_hub_replay(scratch, progress)
        write_manifest(scratch / "manifest.jsonl", _cut_evenly(utterances, max_s))
        return record

    return _kept(f"{HUB}-{_VERSION}-{max_s:g}", make, progress)
