"""The recordings that a run was made of, by content: `recordings.jsonl` in its folder.

A manifest says where a recording is, not what is in it: the same manifest may name other sound
tomorrow. Encoder states, the baseline and the teacher of a run are of the sound of its first day.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from moonshine_tune.audio.fingerprint import FileMark, recording_fingerprint
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import read_lines, write_jsonl_atomic
from moonshine_tune.core.json_text import JsonError, parse_json_object
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import RecordingRecord

_HELD_OUT = ("dev", "canary", "replay")

ByManifest = Mapping[str, Sequence[Utterance]]
"""Utterances by the name of their manifest in the run, such as `train`."""

UsedSpans = Mapping[str, Collection[tuple[Path, float | None, float | None]]]
"""Spans of recordings by what they are used for: `train`, `dev`, `canary`, `replay`."""


def read_recordings(run: RunFolder) -> list[RecordingRecord]:
    """The recordings of a run; none where it is of an earlier version. Damaged lines are left out.

    Raises:
        RequestError: the file cannot be read.
    """
    return list(_read(run)) if run.recordings_path.is_file() else []


def _read(run: RunFolder) -> Iterator[RecordingRecord]:
    for line in read_lines(run.recordings_path, lenient=True):
        try:
            record, _ = RecordingRecord.salvage(parse_json_object(line))
        except JsonError:
            continue
        if record.fingerprint:
            yield record


def keep_recordings(
    run: RunFolder, by_manifest: ByManifest, used: UsedSpans, progress: Progress
) -> None:
    """Write down the recordings that a run uses; those that it has used before stay as they are.

    Args:
        used: of a manifest with more than that, the others are not read here.
    """
    known = read_recordings(run)
    names = {(item.manifest, item.id) for item in known}
    new = [
        (name, use, utterance)
        for name, utterances in by_manifest.items()
        for utterance in utterances
        if (use := _use_of(utterance, name, used)) and (name, utterance.id) not in names
    ]
    with progress.stage("fingerprints of recordings", len(new)) as stage:
        for name, use, utterance in new:
            known.append(_record_of(name, use, utterance))
            stage.advance()
    write_jsonl_atomic(run.recordings_path, (item.to_json() for item in known))


def _use_of(utterance: Utterance, manifest: str, used: UsedSpans) -> str:
    """What a run uses an utterance of a manifest for; empty for nothing."""
    # Of the training clips, some may be held out as dev.
    uses = (manifest,) if manifest in _HELD_OUT else ("train", "dev")
    return next((use for use in uses if utterance.span in used.get(use, ())), "")


def _record_of(manifest: str, use: str, utterance: Utterance) -> RecordingRecord:
    mark = FileMark.of(utterance.audio)
    record: dict[str, object] = {
        "manifest": manifest,
        "use": use,
        "id": utterance.id,
        "fingerprint": recording_fingerprint(utterance),
    }
    if utterance.speaker:
        # For whoever is to be forgotten.
        record["speaker"] = utterance.speaker
    return RecordingRecord.model_validate(record | (asdict(mark) if mark.is_settled else {}))


def check_recordings(run: RunFolder, by_manifest: ByManifest, progress: Progress) -> None:
    """Refuse to go on with a run whose recordings are not what they were.

    A file that looks as it did is not read; the others are, and copies of the same content pass.

    Raises:
        ProblemsError: recordings have other content, all of them named.
    """
    known = {(item.manifest, item.id): item for item in read_recordings(run)}
    pairs = [
        (name, utterance, known[name, utterance.id])
        for name, utterances in by_manifest.items()
        for utterance in utterances
        if (name, utterance.id) in known
    ]
    with progress.stage("checking recordings", len(pairs)) as stage:
        changed = []
        for name, utterance, record in pairs:
            if not _is_same(utterance, record):
                changed.append(f"{name}: {utterance.id} ({utterance.audio})")
            stage.advance()
    if changed:
        raise ProblemsError(
            f"{run.path}: {len(changed)} of {len(pairs)} recordings are not the ones that this run "
            "was started with, under the same ids",
            changed,
            hint="restore them, or start a new run with another --out",
        )


def _is_same(utterance: Utterance, record: RecordingRecord) -> bool:
    try:
        mark = FileMark.of(utterance.audio)
        if (record.size, record.modified_ns, record.changed_ns) == tuple(asdict(mark).values()):
            return True
        if record.size not in (None, mark.size):
            return False
        return recording_fingerprint(utterance) == record.fingerprint
    except (OSError, RequestError):
        return False
