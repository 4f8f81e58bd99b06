"""The record of a split beside its manifests, and whose voices a score on one of them is for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Manifest, ManifestScan, read_manifest
from moonshine_tune.corpus.voices import BY_SPEAKER, voice_scope
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.locations import locate
from moonshine_tune.runs.parent import parts_of
from moonshine_tune.runs.records import RunRecord, SplitRecord, VoicesRecord

SPLIT_FILE = "split.json"


def split_of(manifest: Manifest | ManifestScan) -> SplitRecord | None:
    """The record of the split that made a manifest; None without one, or if it changed since."""
    try:
        record = SplitRecord.read(manifest.path.parent / SPLIT_FILE)
    except RequestError:
        # Missing, or a file of another program: the manifests say what they say without it.
        return None
    return record if manifest.sha256 in _digests(record) else None


def _digests(record: SplitRecord) -> set[str]:
    return {side.sha256 for side in record.sides.values()}


def voices_of(train: Manifest, scored: Manifest) -> VoicesRecord | None:
    """Whose voices a score on a manifest is for, with a model that was trained on another one."""
    record = split_of(scored)
    by = record.by if record and train.sha256 in _digests(record) else ""
    return VoicesRecord.of(voice_scope(train.utterances, scored.utterances, by=by))


def are_for_known_voices(manifests: Sequence[Manifest | ManifestScan]) -> bool:
    """Whether manifests are of one split that shares voices on purpose: there were no others."""
    record = split_of(manifests[0])
    return (
        record is not None
        and record.by not in BY_SPEAKER
        and {item.sha256 for item in manifests} <= _digests(record)
    )


def voices_of_run(run: Path | None, scored: Manifest) -> VoicesRecord | None:
    """Whose voices a score on a manifest is for, by the training manifest of a run.

    Where there is no run, or its training manifest is gone, the record of the split says it.

    Args:
        run: run folder, or its adapter folder; None for a model whose run is not known.
    """
    train = _train_manifest(run) if run is not None else None
    if train is not None:
        return voices_of(train, scored)
    record = split_of(scored)
    sides = record.sides.values() if record else ()
    return next((side.voices for side in sides if side.sha256 == scored.sha256), None)


def _train_manifest(path: Path) -> Manifest | None:
    """The training manifest of a run, if it is there and the same, with earlier recordings."""
    for folder in (path, path.absolute().parent):
        run = RunFolder(folder)
        if not run.record_path.is_file():
            continue
        try:
            record = run.read_record()
            if record.result.combined:
                return _manifest_of_parts(record)
            location = locate(folder, record, ["data.train"]).present.get("data.train")
            if location is None:
                return None
            manifest = read_manifest(location, require_text=False, check_files=False)
            if run.earlier_path.is_file():
                earlier = read_manifest(run.earlier_path, require_text=False, check_files=False)
                everything = (*manifest.utterances, *earlier.utterances)
                manifest = replace(manifest, utterances=everything)
        except RequestError:
            return None
        return manifest if manifest.sha256 == record.data.get("train") else None
    return None


def _manifest_of_parts(record: RunRecord) -> Manifest | None:
    """The training manifests of all adapters that an adapter is the sum of, as one."""
    manifests = []
    for _, part in parts_of(record):
        manifest = None if part is None else _train_manifest(part.path)
        if manifest is None:
            return None
        manifests.append(manifest)
    if not manifests:
        return None
    everything = tuple(item for manifest in manifests for item in manifest.utterances)
    return replace(manifests[0], utterances=everything)
