"""`data forget`: take a person's recordings out of manifests, scores, reports, caches, packages.

What a model has learned cannot be taken out of it: runs, exported files and packages that go back
to these recordings are listed, to be made again.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.audio.io import load_audio, load_utterance
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import RequestError, TuneError
from moonshine_tune.core.files import (
    disk_errors,
    read_json,
    sha256_of,
    write_bytes_atomic,
    write_json_atomic,
)
from moonshine_tune.core.locks import one_writer, writer_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import did_you_mean
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.speaker_labels import local_labels
from moonshine_tune.corpus.speaker_names import clean_name, similar_names
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
from moonshine_tune.release.archive import is_archive_name, unpack
from moonshine_tune.release.traces import (
    LinesFile,
    Person,
    cached_files,
    files_below,
    lines_of,
    pages_of,
    recordings_in,
    without_person,
)
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import ExportRecord, ForgetRecord, ForgottenRecord, RunRecord

RECORD_FILE = "forgotten.json"
_SPLIT_FILE, _PACKAGE_FILE, _EXPORT_FILE = "split.json", "package.json", "export.json"
# Records with scores by speaker, or findings by utterance.
_RECORDS = ("result.json", _SPLIT_FILE)
_AUDIT = ("audit.json", "audit.html")
# Decoded again from 16 bits.
_SAME_SAMPLE = 1e-3


@dataclass(frozen=True)
class ForgetRequest:
    """Whom to forget, and where to look.

    Attributes:
        speakers: names as in the manifests.
        manifests: manifests to change.
        folders: folders in which everything of this program is looked for.
        deletes_audio: delete the recordings themselves, too.
    """

    speakers: tuple[str, ...]
    manifests: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    deletes_audio: bool = False


@dataclass(frozen=True)
class ForgetPlan:
    """What is there of a person, and what is done about it.

    Attributes:
        manifests, scored: files that lose lines.
        records: JSON files without the person's scores, by path.
        deleted: reports and packages that show or hold the person, which are deleted.
        caches: files of the cache that are deleted; they are made again when needed.
        recordings: files that hold this person alone; deleted if that was asked for.
        shared: recordings in which other people speak, too; they stay.
        learned: runs, exported files and packages that go back to these recordings, each with what
            to do.
        remarks: what was not looked at, and names that are similar.
    """

    names: tuple[str, ...]
    manifests: tuple[LinesFile, ...]
    scored: tuple[LinesFile, ...]
    records: Mapping[Path, dict[str, Any]]
    deleted: tuple[Path, ...]
    caches: tuple[Path, ...]
    recordings: tuple[Path, ...]
    shared: tuple[Path, ...]
    learned: Mapping[str, str]
    remarks: tuple[str, ...]
    is_done: bool = False

    @property
    def num_utterances(self) -> int:
        """Lines that leave the manifests."""
        return sum(item.removed for item in self.manifests)


def plan_forgetting(request: ForgetRequest, progress: Progress) -> ForgetPlan:
    """Look for a person; nothing is changed.

    Raises:
        RequestError: nowhere to look, nobody of that name, or a label that is another person in
            each recording.
    """
    names = _names_in(request)
    given = [path.resolve() for path in request.manifests]
    paths = list(dict.fromkeys([*given, *files_below(request.folders, "*.jsonl")]))
    speakers: set[str] = set()
    manifests = _files(paths, Person(names), speakers, progress)
    manifests = [item for item in manifests if item.is_manifest]
    _check_names(names, manifests, speakers, len(paths))
    person = Person.of(names, manifests)
    own = {item.path for item in manifests}
    scored = _files([path for path in paths if path not in own], person, set(), progress)
    # Copies of their lines that name no speaker, by id and text.
    manifests += [item for item in scored if item.is_manifest]
    scored = [item for item in scored if not item.is_manifest]
    utterances = [item for file in manifests for item in file.utterances]
    recordings, shared = _recordings(manifests, paths)
    learned = _learned(request.folders, manifests)
    shown_in = _report_folders([item.path for item in scored]) | set(map(Path, learned))
    pages = list(pages_of(files_below(request.folders, "*.html"), person, shown_in))
    audits = _audits(request.folders, manifests)
    packages = _packages(request.folders, utterances, progress)
    return ForgetPlan(
        tuple(sorted(names)),
        tuple(manifests),
        tuple(scored),
        _records(request, person, manifests),
        tuple(dict.fromkeys([*pages, *audits, *packages])),
        tuple(cached_files(sorted({item.audio for item in utterances}))),
        recordings,
        shared,
        learned,
        tuple(_remarks(names, speakers, manifests)),
    )


def forget(request: ForgetRequest, progress: Progress) -> ForgetPlan:
    """Do what `plan_forgetting` plans; the manifests come last, so that a stop can be repeated.

    Raises:
        RequestError: as there; or a process works in one of the folders.
    """
    plan = plan_forgetting(request, progress)
    for name in plan.learned:
        if (writer := writer_of(Path(name))) is not None:
            raise RequestError(
                f"a process works in this folder ({writer.pid})",
                where=name,
                hint="stop it first: it goes on with the recordings of this person",
            )
    files = [*plan.caches, *plan.deleted]
    if request.deletes_audio:
        files += plan.recordings
    with progress.stage("forgetting", len(files)) as stage:
        for path in files:
            _delete(path)
            stage.advance()
    digests = {}
    with ExitStack() as stack:
        for item in (*plan.scored, *plan.manifests):
            stack.enter_context(one_writer(item.path))
        for item in (*plan.scored, *plan.manifests):
            write_bytes_atomic(item.path, item.kept)
            digests[item.sha256] = sha256_of(item.path)
    for path, content in plan.records.items():
        write_json_atomic(path, _with_digests(content, path, digests))
    _write_record(request, plan, digests)
    return replace(plan, is_done=True)


def _report_folders(scored: Iterable[Path]) -> set[Path]:
    """The folders whose reports show scored utterances: of an evaluation, or of its run."""
    folders = {path.parent for path in scored}
    of_runs = {folder.parent for folder in folders if folder.name == "eval"}
    return folders | of_runs | {f.parent.parent for f in folders if f.parent.name == "eval"}


def _files(
    paths: Sequence[Path], person: Person, speakers: set[str], progress: Progress
) -> list[LinesFile]:
    files = []
    with progress.stage("looking into manifests and scores", len(paths)) as stage:
        for path in paths:
            with suppress(RequestError, OSError):
                if (item := lines_of(path, person, speakers)) is not None:
                    files.append(item)
            stage.advance()
    return files


def _names_in(request: ForgetRequest) -> frozenset[str]:
    """The names as manifests are read; refuses a request that cannot be meant."""
    if not request.manifests and not request.folders:
        raise RequestError(
            "nowhere to look", hint="name a folder with --in FOLDER, or --manifest FILE"
        )
    for path in (*request.manifests, *request.folders):
        if not path.exists():
            raise RequestError("no such file or folder", where=path)
    names = frozenset(filter(None, map(clean_name, request.speakers)))
    if not names:
        raise RequestError(
            f"{', '.join(map(repr, request.speakers))} is not the name of a person: "
            "manifests are read as if such lines had no speaker",
            hint="the speakers of a manifest: moonshine-tune data check FILE",
        )
    return names


def _check_names(
    names: frozenset[str], manifests: Sequence[LinesFile], speakers: set[str], count: int
) -> None:
    for name in sorted(names - {u.speaker for item in manifests for u in item.utterances}):
        raise RequestError(
            f"no recording of {name!r} in {count} manifests{did_you_mean(name, speakers - {''})}",
            hint="the speakers of a manifest: moonshine-tune data check FILE",
        )
    labels = [item for file in manifests for item in local_labels(file.everyone)]
    for item in labels:
        if item.is_certain and item.recordings > 1 and names & set(item.labels):
            raise RequestError(
                f"{item.listed()} is a label that starts anew in each of {item.recordings} "
                "recordings: it may be as many people",
                hint="give the person a name in the manifests first",
            )


def _recordings(
    manifests: Sequence[LinesFile], paths: Iterable[Path]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Recordings of this person alone, and those in which others speak, too."""
    own = {item.audio for file in manifests for item in file.utterances}
    others = {path for file in manifests for path in file.others}
    changed = {file.path for file in manifests}
    for path in paths:
        if path not in changed:
            others |= {item.audio for item in recordings_in(path)} & own
    return tuple(sorted(own - others)), tuple(sorted(own & others))


def _learned(folders: Iterable[Path], manifests: Sequence[LinesFile]) -> dict[str, str]:
    """What goes back to these recordings, by its path, and what to do about it."""
    digests = {item.sha256 for item in manifests}
    changed = {item.path for item in manifests}
    runs: dict[Path, RunRecord] = {}
    for path in files_below(folders, "run.json"):
        with suppress(RequestError):
            runs[path.parent] = RunRecord.read(path)
    adapters: set[str] = set()
    learned: dict[str, str] = {}
    # Until nothing is added: a run may come before the one that it goes on from.
    while True:
        before = len(learned)
        for folder, record in runs.items():
            if str(folder) in learned or not _is_learned(
                folder, record, changed, digests, adapters
            ):
                continue
            adapters |= _adapter_of(folder)
            is_package = (folder / _PACKAGE_FILE).is_file()
            again = "combine it again" if record.result.combined else "train it again"
            learned[str(folder)] = "pack it again" if is_package else again
        if len(learned) == before:
            break
    for path in files_below(folders, _EXPORT_FILE):
        with suppress(RequestError):
            if ExportRecord.read(path).adapter_sha256 in adapters:
                learned.setdefault(str(path.parent), "export it again")
    for path, folder in _archives(folders):
        with suppress(RequestError):
            record = RunRecord.read(folder / "run.json")
            if _is_learned(folder, record, changed, digests, adapters):
                learned[str(path)] = "pack it again"
    return dict(sorted(learned.items()))


def _is_learned(
    folder: Path, record: RunRecord, changed: set[Path], digests: set[str], adapters: set[str]
) -> bool:
    """Whether a run was trained on these recordings, or goes back to one that was."""
    own = [record.data, *(item.data for item in record.lineage)]
    if any(data.get(name) in digests for data in own for name in ("train", "earlier")):
        return True
    if adapters & ({item.adapter_sha256 for item in record.lineage} | _adapter_of(folder)):
        return True
    run = RunFolder(folder)
    train = record.settings.get("data", {}).get("train")
    paths = [run.earlier_path, *([Path(train)] if isinstance(train, str) else [])]
    if (relative := record.relative_paths.get("data.train")) is not None:
        paths.append(folder / relative)
    return any(path.resolve() in changed for path in paths)


def _adapter_of(folder: Path) -> set[str]:
    """The checksum of the adapter of a run or package; none where there is no adapter."""
    weights = folder / "adapter" / ADAPTER_WEIGHTS_FILE
    return {sha256_of(weights)} if weights.is_file() else set()


def _archives(folders: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """The packed packages, each with a folder in which it is unpacked for the moment."""
    for path in files_below(folders, "*gz"):
        if not is_archive_name(path):
            continue
        with tempfile.TemporaryDirectory() as scratch, suppress(TuneError, OSError):
            folder = unpack(path, Path(scratch))
            if (folder / _PACKAGE_FILE).is_file():
                yield path, folder


def _packages(
    folders: Sequence[Path], utterances: Sequence[Utterance], progress: Progress
) -> list[Path]:
    """Packages whose sample has a recording of this person; a package is sealed as a whole."""
    packages = [(path.parent, path.parent) for path in files_below(folders, _PACKAGE_FILE)]
    samples = [
        (path, clip)
        # One after the other: an archive is unpacked for as long as its clips are read.
        for path, folder in chain(packages, _archives(folders))
        for clip in _clips(folder)
    ]
    if not samples:
        return []
    holding: dict[Path, None] = {}
    with progress.stage("looking into packages", len(utterances)) as stage:
        for item in utterances:
            with suppress(TuneError):
                own = load_utterance(item).clip(-1.0, 1.0)
                holding |= {path: None for path, clip in samples if _is_same(own, clip)}
            stage.advance()
    return list(holding)


def _clips(package: Path) -> Iterator[Samples]:
    for path in sorted((package / "sample").glob("*.wav")):
        with suppress(TuneError):
            yield load_audio(path)


def _is_same(own: Samples, clip: Samples) -> bool:
    return len(own) == len(clip) and bool(np.abs(own - clip).max(initial=0.0) < _SAME_SAMPLE)


def _audits(folders: Iterable[Path], manifests: Sequence[LinesFile]) -> list[Path]:
    """The audits of manifests that are changed: their pages hold voices and texts."""
    digests = {item.sha256 for item in manifests}
    files = []
    for path in files_below(folders, _AUDIT[0]):
        with suppress(RequestError):
            if read_json(path).get("manifest_sha256") in digests:
                files += [path.parent / name for name in _AUDIT if (path.parent / name).is_file()]
    return files


def _records(
    request: ForgetRequest, person: Person, manifests: Sequence[LinesFile]
) -> dict[Path, dict[str, Any]]:
    """Records that name the person, without them; those of splits whose manifests change."""
    digests = {item.sha256 for item in manifests}
    paths = [path for name in _RECORDS for path in files_below(request.folders, name)]
    paths += [path.parent / _SPLIT_FILE for path in map(Path.resolve, request.manifests)]
    records = {}
    for path in dict.fromkeys(paths):
        with suppress(RequestError):
            if (path.parent / _PACKAGE_FILE).is_file():
                continue
            content = read_json(path)
            changed = without_person(content, person)
            is_split = path.name == _SPLIT_FILE and digests & _digests_in(content)
            if changed != content or is_split:
                records[path] = changed
    return records


def _digests_in(split: Mapping[str, Any]) -> set[str]:
    sides = split.get("sides")
    sides = sides if isinstance(sides, dict) else {}
    return {str(side.get("sha256")) for side in sides.values() if isinstance(side, dict)}


def _with_digests(content: dict[str, Any], path: Path, digests: Mapping[str, str]) -> Any:
    """The record of a split with the checksums of its manifests as they are now."""
    if path.name != _SPLIT_FILE:
        return content
    sides = {
        name: side | {"sha256": digests.get(side.get("sha256", ""), side.get("sha256", ""))}
        for name, side in content.get("sides", {}).items()
    }
    return content | {"sides": sides}


def _remarks(
    names: frozenset[str], speakers: set[str], manifests: Sequence[LinesFile]
) -> Iterable[str]:
    for group in similar_names(speakers | names):
        if others := [name for name in group if name not in names and names & set(group)]:
            yield (
                f"{', '.join(others)}: differs in case or accents only, and stays; name it, too, "
                "if it is the same person"
            )
    for item in manifests:
        if not item.kept.strip():
            yield f"{item.path} has no other speaker: it will be empty"
    yield (
        "not looked into: the tables and logs that recordings were imported from, transcripts made "
        "by `transcribe`, backups, and what was sent elsewhere"
    )


def _delete(path: Path) -> None:
    with disk_errors(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _write_record(request: ForgetRequest, plan: ForgetPlan, digests: Mapping[str, str]) -> None:
    """Add to the record of each folder; it has names and counts, and no text."""
    folders = [*request.folders, *(path.parent for path in request.manifests)]
    entry = ForgottenRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        speakers=list(plan.names),
        utterances=plan.num_utterances,
        manifests={str(i.path): [i.sha256, digests[i.sha256]] for i in plan.manifests},
        recordings_deleted=len(plan.recordings) if request.deletes_audio else 0,
        learned=dict(plan.learned),
    )
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        path = folder / RECORD_FILE
        before = ForgetRecord.read(path).forgotten if path.is_file() else []
        ForgetRecord(forgotten=[*before, entry]).write(path)
