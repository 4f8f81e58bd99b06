"""Runs side by side: settings that differ, curves, scores with intervals, what changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.nested import flatten
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.normalizers import NORMALIZERS
from moonshine_tune.metrics.alike import score_alike
from moonshine_tune.metrics.wer import (
    PairedComparison,
    Score,
    ScoredUtterance,
    compare_paired,
    summarize,
)
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import altered_adapter
from moonshine_tune.runs.records import RunRecord
from moonshine_tune.runs.summary import RunSummary, ScoreCurve, read_run, read_scored, score_curve

_SETS = ("dev", "canary")
_DATA = ("train", "dev", "canary", "replay")


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs.

    Attributes:
        name: the shortest tail of its path that no other run has.
        scores: score of the chosen adapter by set (`dev`, `canary`).
    """

    name: str
    summary: RunSummary
    scores: Mapping[str, Score]
    curve: ScoreCurve


@dataclass(frozen=True)
class ChangedUtterance:
    """One utterance with more or fewer errors in one run than in another."""

    id: str
    reference: str
    before: str
    after: str
    errors_before: int
    errors_after: int


@dataclass(frozen=True)
class RunPair:
    """Two runs on the utterances that both scored, with one normalizer and one reference each.

    Attributes:
        before, after: names of the runs.
        which: `dev` or `canary`.
        utterances: how many both scored; of `all_utterances` in either.
        better, worse: utterances that changed, largest change first.
    """

    before: str
    after: str
    which: str
    comparison: PairedComparison
    utterances: int
    all_utterances: int
    better: tuple[ChangedUtterance, ...]
    worse: tuple[ChangedUtterance, ...]


@dataclass(frozen=True)
class RunsComparison:
    """The result of `compare`.

    Attributes:
        differing: for each setting (or manifest) that differs, its value in each run.
        remarks: what could not be compared, and why.
    """

    runs: tuple[ComparedRun, ...]
    differing: Mapping[str, tuple[Any, ...]]
    pairs: tuple[RunPair, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Run:
    compared: ComparedRun
    record: RunRecord
    sets: Mapping[str, tuple[ScoredUtterance, ...]]


def compare_runs(paths: Sequence[Path], progress: Progress) -> RunsComparison:
    """Compare two or more run folders; each pair on the utterances that both scored.

    Raises:
        RequestError: fewer than two, one twice, or one that is not a run.
    """
    if len(paths) < 2:
        raise RequestError(
            "a comparison needs two runs", hint="moonshine-tune compare runs/a runs/b"
        )
    resolved = [path.resolve() for path in paths]
    for path in paths:
        if resolved.count(path.resolve()) > 1:
            raise RequestError("the same run twice", where=path)
    remarks: list[str] = []
    runs = [_read(path, name, remarks) for path, name in zip(paths, _names(resolved), strict=True)]
    pairs: list[RunPair] = []
    combined = list(combinations(runs, 2))
    with progress.stage("comparing", len(combined)) as stage:
        for before, after in combined:
            pairs += [
                pair for name in _SETS if (pair := _pair(name, before, after, remarks)) is not None
            ]
            stage.advance()
    if len(combined) > 1 and pairs:
        remarks.append(
            f"the intervals are not corrected for multiple comparisons: of {len(pairs)}, about one "
            "in twenty shows a difference by chance"
        )
    return RunsComparison(
        tuple(run.compared for run in runs),
        _differing([_settings(run.record) for run in runs]),
        tuple(pairs),
        tuple(remarks),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest tails of the paths that tell all of them apart."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read(path: Path, name: str, remarks: list[str]) -> _Run:
    summary, run = read_run(path), RunFolder(path)
    record, sets = run.read_record(), {}
    for which in _SETS:
        file = run.eval_dir / f"{which}.jsonl"
        if not file.is_file() and which != "dev":
            continue
        try:
            sets[which] = read_scored(file)
        except RequestError as error:
            remarks.append(f"{name}: eval/{which}.jsonl: {error.message}")
    if altered := altered_adapter(run.adapter_dir):
        remarks.append(f"{name}: {altered}")
    if not summary.ended:
        remarks.append(f"{name} is not finished ({summary.status})")
    scores = {which: summarize(scored) for which, scored in sets.items()}
    return _Run(ComparedRun(name, summary, scores, score_curve(run)), record, sets)


def _pair(which: str, before: _Run, after: _Run, remarks: list[str]) -> RunPair | None:
    if which not in before.sets or which not in after.sets:
        return None
    names = before.compared.name, after.compared.name
    try:
        alike = score_alike(
            before.sets[which],
            after.sets[which],
            NORMALIZERS.get(str(after.record.normalizer)),
            normalizer_before=before.record.normalizer,
            name=names[0],
        )
    except RequestError:
        remarks.append(
            f"{' and '.join(names)} have no {which} utterance in common: they cannot be paired"
        )
        return None
    remarks += [f"{' and '.join(names)}, {which}: {remark}" for remark in alike.remarks]
    pairs = list(zip(alike.before, alike.after, strict=True))
    changed = [
        ChangedUtterance(
            a.id, a.reference, a.hypothesis, b.hypothesis, a.words.errors, b.words.errors
        )
        for a, b in pairs
        if a.words.errors != b.words.errors
    ]
    changed.sort(key=lambda item: (-abs(item.errors_after - item.errors_before), item.id))
    return RunPair(
        *names,
        which,
        compare_paired(alike.before, alike.after),
        len(pairs),
        len({item.id for run in (before, after) for item in run.sets[which]}),
        better=tuple(item for item in changed if item.errors_after < item.errors_before),
        worse=tuple(item for item in changed if item.errors_after > item.errors_before),
    )


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Settings that are not the same in all runs."""
    keys = dict.fromkeys(key for flat in settings for key in flat)
    rows = {key: tuple(flat.get(key) for flat in settings) for key in keys}
    return {key: values for key, values in rows.items() if len(set(map(repr, values))) > 1}


def _settings(record: RunRecord) -> dict[str, Any]:
    """Settings by dotted name; manifests by their content, not by their path."""
    flat = dict(flatten(record.settings))
    for name in _DATA:
        flat.pop(f"data.{name}", None)
        digest = record.data.get(name)
        flat[f"data.{name}"] = None if digest is None else f"sha256 {digest[:12]}"
    return flat
