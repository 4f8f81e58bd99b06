"""How a check is declared, what it reports, and the registry of all checks.

Every module in `data/checks/rules/` is loaded. A check is a function with one of the decorators
below. Its name is the kind of its findings in JSON, and its docstring is what people read: the
sentence after the count, an empty line, and what to do; both with `[singular|plural]`. In a check
of a manifest, `MANIFEST` in what to do becomes its path.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Literal

from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.transcript_form import repaired
from moonshine_tune.data.checks.checked_manifest import (
    CheckedClip,
    CheckedManifest,
    CheckedSplits,
    Occurrence,
)

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
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
        on_request: only with `--also KIND`, because what goes may be speech.
    """

    action: str
    apply: Callable[[Utterance, float | None], Utterance]
    order: int = 0
    value: Callable[[CheckedClip], float] | None = None
    on_request: bool = False


def edit_text(
    action: str, change: Callable[[str], str], *, order: int = 0, on_request: bool = False
) -> Edit:
    """An edit of the text alone."""

    def apply(utterance: Utterance, _value: float | None) -> Utterance:
        return utterance if utterance.text is None else utterance.with_text(change(utterance.text))

    return Edit(action, apply, order, on_request=on_request)


def edit_form(action: str, kind: str, *, order: int = 0, on_request: bool = False) -> Edit:
    """An edit that replaces exactly what a rule of `corpus/transcript_form.py` matches."""

    def apply(utterance: Utterance, _value: float | None) -> Utterance:
        if utterance.text is None:
            return utterance
        return utterance.with_text(repaired(utterance.text, kind, utterance.speaker))

    return Edit(action, apply, order, on_request=on_request)


@dataclass(frozen=True)
class Declaration:
    """What a decorator declares of its check.

    Attributes:
        severity: `error` where training or scoring would be wrong, `warning` where it would
            suffer, `note` where a person may want to know.
        rank: position among the findings of its severity. If several checks drop an utterance,
            `data fix` counts it under the first.
        fix: how `data fix` fixes it.
        limit: replaces `{limit}` in the docstring.
        audit_only: left out of `data check`.
        names_utterances: whether its utterances are not clean.
        fewest_splits: of a check of splits: it needs so many.
        kind: of its findings, if it is not the name of the function.
    """

    severity: Severity
    rank: int = 1000
    fix: Drop | Edit | None = None
    limit: str = ""
    audit_only: bool = False
    names_utterances: bool = True
    fewest_splits: int = 2
    kind: str = ""


@dataclass(frozen=True)
class Check:
    """One check: its kind, what people read, and one of two functions that find occurrences."""

    kind: str
    text: str
    hint: str
    declared: Declaration
    in_manifest: Callable[[CheckedManifest], Iterable[Occurrence]] | None
    in_splits: Callable[[CheckedSplits], Iterable[Occurrence]] | None

    def report(
        self, manifest: str | None, occurrences: Iterable[Occurrence], path: Path | None = None
    ) -> list[Finding]:
        """One finding for all occurrences, or none.

        Args:
            manifest: its name; None between splits.
            path: of the manifest, for commands in the docstring.
        """
        listed = tuple(occurrences)
        if not listed:
            return []
        ids, details = zip(*listed, strict=True)
        count, severity = len(listed), self.declared.severity
        text, hint = (
            _ALTERNATIVES.sub(lambda match: match[1 if count == 1 else 2], words)
            for words in (f"{count:,} {self.text}", self.hint)
        )
        if path is not None:
            hint = hint.replace("MANIFEST", quoted(path))
        return [Finding(self.kind, severity, manifest, count, ids, details, text, hint)]


def _make(
    declared: Declaration,
    function: Callable[..., object],
    in_manifest: Callable[[CheckedManifest], Iterable[Occurrence]] | None = None,
    in_splits: Callable[[CheckedSplits], Iterable[Occurrence]] | None = None,
) -> Check:
    text, _, hint = inspect.cleandoc(function.__doc__ or "").partition("\n\n")
    text, hint = (" ".join(part.split()).rstrip(".") for part in (text, hint))
    text, hint = text.replace("{limit}", declared.limit), hint[:1].lower() + hint[1:]
    kind = declared.kind or function.__name__
    return Check(kind, text, hint, declared, in_manifest, in_splits)


class manifest_check(Declaration):
    """Declare a check of a manifest: the function yields id and detail of every occurrence."""

    def __call__(self, function: Callable[[CheckedManifest], Iterable[Occurrence]]) -> Check:
        return _make(self, function, in_manifest=function)


class splits_check(Declaration):
    """Declare a check between splits: the function yields `split:id` and detail."""

    def __call__(self, function: Callable[[CheckedSplits], Iterable[Occurrence]]) -> Check:
        return _make(self, function, in_splits=function)


class clip_check(Declaration):
    """Declare a check of every decoded clip: the function returns the detail, or None."""

    def __call__(self, function: Callable[[CheckedClip], str | None]) -> Check:
        def find(manifest: CheckedManifest) -> Iterator[Occurrence]:
            for clip in manifest.clips:
                detail = function(clip)
                if detail is not None:
                    yield clip.utterance.id, detail

        return _make(self, function, in_manifest=find)


class utterance_check(Declaration):
    """Declare a check of every utterance's fields: the function returns the detail, or None."""

    def __call__(self, function: Callable[[Utterance], str | None]) -> Check:
        def find(manifest: CheckedManifest) -> Iterator[Occurrence]:
            for utterance in manifest.utterances:
                detail = function(utterance)
                if detail is not None:
                    yield utterance.id, detail

        return _make(self, function, in_manifest=find)


@cache
def all_checks() -> dict[str, Check]:
    """Every check of `data/checks/rules/`, by kind: errors first, then by rank."""
    names = [info.name for info in iter_modules(import_module(_RULES).__path__, f"{_RULES}.")]
    members = [member for name in names for member in vars(import_module(name)).values()]
    checks = [member for member in members if isinstance(member, Check)]

    def order(check: Check) -> tuple[int, int, str]:
        return SEVERITIES.index(check.declared.severity), check.declared.rank, check.kind

    return {check.kind: check for check in sorted(checks, key=order)}


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
        if check.declared.audit_only and not audit:
            continue
        if check.in_manifest is not None:
            for manifest in manifests:
                findings += check.report(
                    manifest.name, check.in_manifest(manifest), manifest.scan.path
                )
        elif check.in_splits is not None and len(splits.utterances) >= check.declared.fewest_splits:
            findings += check.report(None, check.in_splits(splits))
    return findings


def count_clean(manifest: CheckedManifest, findings: Iterable[Finding]) -> int:
    """Utterances of a manifest that no error and no warning names; leakage does not count."""
    named = {
        identifier
        for finding in findings
        if finding.manifest == manifest.name
        and finding.severity != "note"
        and all_checks()[finding.kind].declared.names_utterances
        for identifier in finding.ids
    }
    return sum(utterance.id not in named for utterance in manifest.utterances)
