"""Runs side by side: settings that differ, curves, scores with intervals, what changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.metrics.wer import (
    PairedComparison,
    Score,
    ScoredUtterance,
    compare_paired,
    summarize,
)
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.summary import RunSummary, read_run, read_scored

_SETS = ("dev", "canary")
_DATA = ("train", "dev", "canary", "replay")


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs.

    Attributes:
        name: the shortest tail of its path that no other run has.
        scores: score by set (`dev`, `canary`), from what the chosen adapter heard.
        curve: (step, dev WER, canary WER or None) of each score during the run.
    """

    name: str
    summary: RunSummary
    scores: Mapping[str, Score]
    curve: tuple[tuple[int, float, float | None], ...]


@dataclass(frozen=True)
class Changed:
    """One utterance that one run hears with more or fewer errors than another."""

    id: str
    reference: str
    before: str
    after: str
    errors_before: int
    errors_after: int


@dataclass(frozen=True)
class RunPair:
    """Two runs on the utterances that both heard.

    Attributes:
        before, after: names of the runs.
        which: `dev` or `canary`.
        utterances: how many both heard; of `all_utterances` in either.
        better, worse: utterances that changed, largest change first.
    """

    before: str
    after: str
    which: str
    comparison: PairedComparison
    utterances: int
    all_utterances: int
    better: tuple[Changed, ...]
    worse: tuple[Changed, ...]


@dataclass(frozen=True)
class RunsComparison:
    """Everything that `compare` found.

    Attributes:
        differing: for each setting (or manifest) that differs, its value in each run.
        remarks: what could not be compared, and why.
    """

    runs: tuple[ComparedRun, ...]
    differing: Mapping[str, tuple[Any, ...]]
    pairs: tuple[RunPair, ...]
    remarks: tuple[str, ...]


def compare_runs(paths: Sequence[Path], progress: Progress) -> RunsComparison:
    """Compare two or more run folders; each pair on the utterances that both heard.

    Raises:
        RequestError: fewer than two, one twice, or one that is not a run.
    """
    if len(paths) < 2:
        raise RequestError(
            "a comparison needs two runs", hint="moonshine-tune compare runs/a runs/b"
        )
    places = [path.resolve() for path in paths]
    for place, path in zip(places, paths, strict=True):
        if places.count(place) > 1:
            raise RequestError("the same run twice", where=path)
    names = _names(places)
    remarks: list[str] = []
    runs, heard, records = [], [], []
    for path, name in zip(paths, names, strict=True):
        summary = read_run(path)
        record = RunFolder(path).read_record()
        sets = _heard_sets(path, name, remarks)
        runs.append(
            ComparedRun(
                name, summary, {which: summarize(items) for which, items in sets.items()},
                _curve(path),
            )
        )  # fmt: skip
        heard.append(sets)
        records.append(record)
        if not summary.ended:
            remarks.append(f"{name} is not finished ({summary.status})")
    pairs: list[RunPair] = []
    places_of_pairs = list(combinations(range(len(runs)), 2))
    with progress.stage("comparing", len(places_of_pairs)) as stage:
        for first, second in places_of_pairs:
            for which in _SETS:
                two = ((names[first], records[first], heard[first]),
                       (names[second], records[second], heard[second]))  # fmt: skip
                pair = _pair(which, two[0], two[1], remarks)
                if pair is not None:
                    pairs.append(pair)
            stage.advance()
    if len(places_of_pairs) > 1 and pairs:
        remarks.append(
            f"each interval stands for itself; of {len(pairs)} comparisons one in twenty shows a "
            "difference by chance"
        )
    return RunsComparison(tuple(runs), _differing(records), tuple(pairs), tuple(remarks))


def _names(places: Sequence[Path]) -> list[str]:
    """The shortest tails of the paths that tell all of them apart."""
    longest = max(len(place.parts) for place in places)
    for length in range(1, longest + 1):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def _heard_sets(
    path: Path, name: str, remarks: list[str]
) -> dict[str, tuple[ScoredUtterance, ...]]:
    found = {}
    for which in _SETS:
        file = RunFolder(path).eval_dir / f"{which}.jsonl"
        if not file.is_file() and which != "dev":
            continue
        try:
            found[which] = read_scored(file)
        except RequestError as error:
            remarks.append(f"{name}: eval/{which}.jsonl: {error.message}")
    return found


def _curve(path: Path) -> tuple[tuple[int, float, float | None], ...]:
    return tuple(
        (int(line["step"]), float(line["dev_wer"]), line.get("canary_wer"))
        for line in RunFolder(path).read_metrics()
        if line.get("dev_wer") is not None and isinstance(line.get("step"), int)
    )


_Side = tuple[str, Mapping[str, Any], Mapping[str, tuple[ScoredUtterance, ...]]]


def _pair(which: str, one: _Side, other: _Side, remarks: list[str]) -> RunPair | None:
    (before_name, before_record, before_sets), (after_name, after_record, after_sets) = one, other
    if which not in before_sets or which not in after_sets:
        return None
    title = f"{before_name} and {after_name}"
    rules = [str(record.get("normalizer")) for record in (before_record, after_record)]
    if rules[0] != rules[1]:
        remarks.append(f"{title} are scored by other normalizers: {rules[0]}, {rules[1]}")
        return None
    before = {(item.id, item.reference): item for item in before_sets[which]}
    after = {(item.id, item.reference): item for item in after_sets[which]}
    shared = [key for key in before if key in after]
    total = len(before.keys() | after.keys())
    if not shared:
        remarks.append(f"{title} have no {which} utterance in common: they cannot be paired")
        return None
    if len(shared) < total:
        remarks.append(f"{title} are paired on the {len(shared)} of {total} {which} utterances "
                       "that both heard")  # fmt: skip
    firsts, seconds = [before[key] for key in shared], [after[key] for key in shared]
    moved = [
        Changed(
            a.id, a.reference, a.hypothesis, b.hypothesis, a.words.errors, b.words.errors
        )
        for a, b in zip(firsts, seconds, strict=True)
        if a.words.errors != b.words.errors
    ]  # fmt: skip
    moved.sort(key=lambda item: (-abs(item.errors_after - item.errors_before), item.id))
    return RunPair(
        before_name,
        after_name,
        which,
        compare_paired(firsts, seconds),
        len(shared),
        total,
        better=tuple(item for item in moved if item.errors_after < item.errors_before),
        worse=tuple(item for item in moved if item.errors_after > item.errors_before),
    )


def _differing(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Settings that are not the same in all runs. Manifests are compared by their content."""
    flat = [_settings(record) for record in records]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    found = {key: tuple(settings.get(key) for settings in flat) for key in keys}
    return {key: values for key, values in found.items() if len(set(map(repr, values))) > 1}


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    settings = record.get("settings")
    for section, content in (settings if isinstance(settings, dict) else {}).items():
        if isinstance(content, dict):
            flat.update({f"{section}.{name}": value for name, value in content.items()})
        else:
            flat[section] = content
    data = record.get("data")
    for name in _DATA:
        flat.pop(f"data.{name}", None)
        digest = data.get(name) if isinstance(data, dict) else None
        flat[f"data.{name}"] = None if digest is None else f"sha256 {str(digest)[:12]}"
    return flat
