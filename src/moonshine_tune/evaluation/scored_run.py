"""What the run of an adapter says about a manifest on which the adapter is scored."""

from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

from moonshine_tune.audio.fingerprint import known_fingerprints
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Manifest
from moonshine_tune.models.lora import find_adapter
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import altered_adapter
from moonshine_tune.runs.locations import locate
from moonshine_tune.runs.recordings import read_recordings
from moonshine_tune.runs.records import KnownClipsRecord


def known_clips(adapter: Path, manifest: Manifest) -> KnownClipsRecord | None:
    """The clips of a manifest that the run of an adapter used; None where there are none.

    They are recognized by their sound: copies under other names are the same clips.

    Args:
        adapter: run or adapter folder.
    """
    run = _run_of(find_adapter(adapter))
    if run is None:
        return None
    uses: dict[str, set[str]] = defaultdict(set)
    # A damaged file: the scores are right without it.
    with suppress(RequestError):
        for item in read_recordings(run):
            uses[item.fingerprint].add(item.use)
    own = known_fingerprints(manifest.utterances).values() if uses else ()
    used = Counter(use for fingerprint in own for use in uses.get(fingerprint, ()))
    return KnownClipsRecord(clips=len(manifest), used=dict(used)) if used else None


def remarks_on_run(adapter: Path, manifest: Manifest) -> list[str]:
    """What is not as it was when the run of an adapter ended: its adapter, or this manifest.

    Args:
        adapter: run or adapter folder.
    """
    folder = find_adapter(adapter)
    altered = altered_adapter(folder)
    remarks = [altered] if altered else []
    run = _run_of(folder)
    if run is None:
        return remarks
    try:
        changed = locate(run.path, run.read_record()).changed
    except RequestError:
        # A damaged record: the scores are right without it.
        return remarks
    return remarks + [
        f"{manifest.path.name} is {name} of this run and has changed since: the scores of the run "
        "are of other clips or texts"
        for name, path in changed.items()
        if path.resolve() == manifest.path.resolve()
    ]


def _run_of(folder: Path) -> RunFolder | None:
    """The run around an adapter folder; None for an adapter alone."""
    run = RunFolder(folder.absolute().parent)
    is_of_run = run.record_path.is_file() and run.adapter_dir == folder.absolute()
    return run if is_of_run else None
