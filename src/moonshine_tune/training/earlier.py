"""The training recordings of an earlier run, replayed in a run that goes on from its adapter."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Utterance, read_manifest, scan_manifest
from moonshine_tune.corpus.splits import split_utterances
from moonshine_tune.inference.dataset import TrainingData, with_lengths
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.locations import locate
from moonshine_tune.runs.parent import Parent, parts_of
from moonshine_tune.runs.records import RunRecord


def earlier_recordings(parent: Parent) -> tuple[tuple[Utterance, ...], list[str]]:
    """What a parent and the adapters that it goes back to were trained on, as far as it is there.

    Returns the utterances, each span of a recording once, and what is missing or has changed.
    """
    if parent.run is None:
        return (), [f"earlier: {parent.name} has no run.json: its recordings are not known"]
    if parent.record.result.combined:
        return _recordings_of_parts(parent.record)
    remarks: list[str] = []
    utterances: list[Utterance] = []
    path = locate(parent.run.path, parent.record, ["data.train"]).present.get("data.train")
    if not parent.record.settings.get("data", {}).get("train"):
        remarks.append(f"earlier: {parent.name} was trained without transcripts: none is replayed")
    elif path is None:
        remarks.append(f"earlier: the training manifest of {parent.name} is not there any more")
    else:
        own, own_remarks, digest = _usable(path)
        if digest != parent.record.data.get("train"):
            remarks.append(f"earlier: {path} has changed since then, and is taken as it is now")
        utterances += _without_dev(own, parent.record)
        remarks += own_remarks
    if parent.run.earlier_path.is_file():
        before, before_remarks, _ = _usable(parent.run.earlier_path)
        utterances += before
        remarks += before_remarks
    return _distinct(utterances), remarks


def _recordings_of_parts(record: RunRecord) -> tuple[tuple[Utterance, ...], list[str]]:
    """What the adapters were trained on that an adapter is the sum of."""
    utterances: list[Utterance] = []
    remarks: list[str] = []
    for path, part in parts_of(record):
        if part is None:
            remarks.append(f"earlier: {path} is not there any more: its recordings are not known")
        else:
            own, own_remarks = earlier_recordings(part)
            utterances += own
            remarks += own_remarks
    return _distinct(utterances), remarks


def kept_recordings(run: RunFolder) -> tuple[Utterance, ...]:
    """The earlier recordings of a run that is resumed, as it was started with them.

    Raises:
        ProblemsError: recordings that are not there any more.
    """
    if not run.earlier_path.is_file():
        return ()
    return read_manifest(run.earlier_path).utterances


def with_earlier(data: TrainingData, recordings: Sequence[Utterance]) -> TrainingData:
    """The data with earlier recordings; those that the training manifest has again are its own."""
    spans = {item.span for item in recordings}
    again = {item.span for item in data.train.utterances if item.span in spans}
    taken = {item.id for item in data.train.utterances}
    earlier = tuple(with_free_id(item, taken) for item in recordings if item.span not in again)
    known = frozenset(item.id for item in data.train.utterances if item.span in again)
    return replace(data, earlier=with_lengths(earlier), known=known)


def earlier_remark(name: str, data: TrainingData, share: float) -> str:
    """In one line: how many recordings are replayed, and how often they are drawn."""
    old, new = len(data.earlier), len(data.train)
    again = (
        f"; {len(data.known)} of the {new} training recordings are known to it"
        if data.known
        else ""
    )
    if not old:
        return f"earlier: no recording of {name} is replayed{again}"
    drawn = drawn_share(data, share)
    return f"earlier: {old} recordings of {name} are replayed, {drawn:.0%} of what is drawn{again}"


def drawn_share(data: TrainingData, share: float) -> float:
    """The share of the draws that earlier recordings get: none is drawn more than a new one."""
    old = len(data.earlier)
    return min(share, old / (old + len(data.train)))


def _usable(path: Path) -> tuple[tuple[Utterance, ...], list[str], str]:
    """The utterances of a manifest that can be trained on, how many cannot, and its checksum."""
    try:
        scan = scan_manifest(path)
    except RequestError as error:
        return (), [f"earlier: {path}: {error.message}"], ""
    missing = sum(problem.kind == "missing_recording" for problem in scan.problems)
    unusable = len(scan.problems) - missing
    remarks = []
    if missing:
        remarks.append(
            f"earlier: {missing} of {scan.num_lines} recordings of {path} are not there any more: "
            "continuing without them"
        )
    if unusable:
        remarks.append(f"earlier: {unusable} of {scan.num_lines} lines of {path} cannot be used")
    return scan.utterances, remarks, scan.sha256


def _without_dev(utterances: Sequence[Utterance], record: RunRecord) -> Sequence[Utterance]:
    """Those that were not held out as dev, in a run without a manifest for it."""
    data = record.settings.get("data", {})
    # The mean of folds has learned from all of them.
    if data.get("dev") is not None or record.result.folds:
        return utterances
    with suppress(RequestError, KeyError):
        seed = record.settings["train"]["seed"]
        return split_utterances(utterances, dev=data["dev_share"], test=0.0, seed=seed).train
    return utterances


def _distinct(utterances: Sequence[Utterance]) -> tuple[Utterance, ...]:
    """Each span once, as it comes first, under an id of its own."""
    taken: set[str] = set()
    by_span: dict[object, Utterance] = {}
    for item in utterances:
        if item.span not in by_span:
            by_span[item.span] = with_free_id(item, taken)
    return tuple(by_span.values())


def with_free_id(item: Utterance, taken: set[str]) -> Utterance:
    """The utterance under its id, or an extended one if that is taken; it is taken then."""
    free, number = item.id, 2
    while free in taken:
        free, number = f"{item.id}~{number}", number + 1
    taken.add(free)
    return item if free == item.id else replace(item, id=free)
