"""How a check is declared, what it reports, and the registry of all checks.

Every module in `data/checks/rules/` is loaded. A check is a function with one of the decorators
below; the name of the function is the kind of its findings in JSON.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal, NotRequired, TypedDict, TypeVar, Unpack

from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.data.checks.checked_manifest import (
    CheckedClip,
    CheckedManifest,
    CheckedSplits,
    Sighting,
)

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_Item = TypeVar("_Item")
_RULES = "moonshine_tune.data.checks.rules"
_ALTERNATIVES = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one manifest, or between splits, with every utterance that has it.

    Attributes:
        manifest: its name; None between splits.
        count: number of utterances, or of lines.
        ids: one for each; `line N` for a line without an id, `split:id` between splits.
        details: what was found, one for each.
        explanation, action: what it means, and what to do.
    """

    kind: str
    severity: Severity
    manifest: str | None
    count: int
    ids: tuple[str, ...]
    details: tuple[str, ...]
    explanation: str
    action: str


@dataclass(frozen=True)
class Drop:
    """`data fix` leaves the utterances out.

    Attributes:
        on_request: only with `--also KIND`, because a person should listen first.
        keep_first: of utterances with the same audio, the first stays.
    """

    on_request: bool = False
    keep_first: bool = False


@dataclass(frozen=True)
class Edit:
    """`data fix` changes the utterances.

    Attributes:
        action: its name in `audit.json` and in results.
        apply: the changed utterance, from the utterance and the stored value.
        order: edits of one utterance are applied in this order.
        value: what `audit.json` stores for the clip.
    """

    action: str
    apply: Callable[[Utterance, float | None], Utterance]
    order: int = 0
    value: Callable[[CheckedClip], float] | None = None


def edit_text(action: str, change: Callable[[str], str], *, order: int = 0) -> Edit:
    """An edit of the text alone."""

    def apply(utterance: Utterance, _value: float | None) -> Utterance:
        return utterance if utterance.text is None else utterance.with_text(change(utterance.text))

    return Edit(action, apply, order)


class Declaration(TypedDict):
    """What every check declares.

    severity: `error` where training or scoring would be wrong, `warning` where it would suffer,
        `note` where a person may want to know.
    text: the sentence after the count, with `[singular|plural]`.
    hint: what to do, starting with a verb.
    rank: position among the findings of its severity. If several checks drop an utterance,
        `data fix` counts it under the first.
    fix: how `data fix` fixes it.
    audit_only: left out of `data check`.
    names_utterances: whether its utterances are not clean.
    """

    severity: Severity
    text: str
    hint: str
    rank: NotRequired[int]
    fix: NotRequired[Drop | Edit]
    audit_only: NotRequired[bool]
    names_utterances: NotRequired[bool]


@dataclass(frozen=True)
class Check:
    """One check, with what it declares. Exactly one of its functions is set."""

    kind: str
    severity: Severity
    text: str
    hint: str
    in_manifest: Callable[[CheckedManifest], Iterable[Sighting]] | None = None
    in_splits: Callable[[CheckedSplits], Iterable[Sighting]] | None = None
    rank: int = 1000
    fix: Drop | Edit | None = None
    audit_only: bool = False
    names_utterances: bool = True

    def report(self, manifest: str | None, sightings: Iterable[Sighting]) -> list[Finding]:
        """One finding for all sightings, or none."""
        listed = tuple(sightings)
        if not listed:
            return []
        ids, details = zip(*listed, strict=True)
        count = len(listed)
        wording = _ALTERNATIVES.sub(lambda match: match[1 if count == 1 else 2], self.text)
        explanation = f"{count:,} {wording}"
        return [
            Finding(self.kind, self.severity, manifest, count, ids, details, explanation, self.hint)
        ]


def manifest_check(
    **declared: Unpack[Declaration],
) -> Callable[[Callable[[CheckedManifest], Iterable[Sighting]]], Check]:
    """Declare a check of a manifest: the function yields id and detail of every sighting."""
    return lambda function: Check(function.__name__, in_manifest=function, **declared)


def splits_check(
    **declared: Unpack[Declaration],
) -> Callable[[Callable[[CheckedSplits], Iterable[Sighting]]], Check]:
    """Declare a check between splits: the function yields `split:id` and detail."""
    return lambda function: Check(function.__name__, in_splits=function, **declared)


def clip_check(
    **declared: Unpack[Declaration],
) -> Callable[[Callable[[CheckedClip], str | None]], Check]:
    """Declare a check of every decoded clip: the function returns the detail, or None."""
    return _each(lambda manifest: ((clip.utterance.id, clip) for clip in manifest.clips), declared)


def utterance_check(
    **declared: Unpack[Declaration],
) -> Callable[[Callable[[Utterance], str | None]], Check]:
    """Declare a check of every utterance's fields: the function returns the detail, or None."""
    return _each(lambda manifest: ((item.id, item) for item in manifest.utterances), declared)


def _each(
    items: Callable[[CheckedManifest], Iterable[tuple[str, _Item]]], declared: Declaration
) -> Callable[[Callable[[_Item], str | None]], Check]:
    def make(function: Callable[[_Item], str | None]) -> Check:
        def find(manifest: CheckedManifest) -> Iterator[Sighting]:
            for identifier, item in items(manifest):
                detail = function(item)
                if detail is not None:
                    yield identifier, detail

        return Check(function.__name__, in_manifest=find, **declared)

    return make


@cache
def all_checks() -> dict[str, Check]:
    """Every check of `data/checks/rules/`, by kind: errors first, then by rank."""
    names = [info.name for info in iter_modules(import_module(_RULES).__path__, f"{_RULES}.")]
    members = [member for name in names for member in vars(import_module(name)).values()]
    checks = [member for member in members if isinstance(member, Check)]
    checks.sort(key=lambda check: (SEVERITIES.index(check.severity), check.rank, check.kind))
    return {check.kind: check for check in checks}


def find_problems(
    manifests: Iterable[CheckedManifest], splits: CheckedSplits, *, audit: bool = False
) -> list[Finding]:
    """Run all checks on some manifests and between their splits; errors first.

    Args:
        audit: also run the checks that are left out of `data check`.
    """
    manifests = list(manifests)
    findings: list[Finding] = []
    for check in all_checks().values():
        if check.audit_only and not audit:
            continue
        if check.in_manifest is not None:
            for manifest in manifests:
                findings += check.report(manifest.name, check.in_manifest(manifest))
        elif check.in_splits is not None and len(splits.utterances) > 1:
            findings += check.report(None, check.in_splits(splits))
    return findings


def count_clean(manifest: CheckedManifest, findings: Iterable[Finding]) -> int:
    """Utterances of a manifest that no error and no warning names; leakage does not count."""
    named = {
        identifier
        for finding in findings
        if finding.manifest == manifest.name
        and finding.severity != "note"
        and all_checks()[finding.kind].names_utterances
        for identifier in finding.ids
    }
    return sum(utterance.id not in named for utterance in manifest.utterances)
