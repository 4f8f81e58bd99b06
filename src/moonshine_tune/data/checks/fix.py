"""What can be done about the findings of an audit, and `data fix`, which writes a new manifest.

Nothing is changed in place: recordings and the old manifest stay as they are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import holds_out
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance, scan_manifest, write_manifest
from moonshine_tune.data.checks.base import Drop, Edit, Finding, all_checks
from moonshine_tune.data.checks.checked_manifest import CheckedManifest
from moonshine_tune.runs.records import AuditRecord, FixRecord

_DROP = "drop"
# Every text is written as it is read: with single spaces, in NFC.
_CLEAN = "clean_text"


@dataclass(frozen=True)
class FixResult:
    """What was done, or would be done; lines = kept + the sum of `dropped`.

    Attributes:
        dropped: kind of finding → utterances or lines that are left out; one with several findings
            counts under the first.
        edited: action → utterances that it changed.
        changes: id, old and new text of every changed text.
        asked: kind of finding → utterances that are left as they are unless it is named with
            `--also`, because what would go may be speech.
    """

    manifest: Path
    out: Path | None
    lines: int
    kept: int
    dropped: dict[str, int]
    edited: dict[str, int]
    changes: tuple[tuple[str, str, str], ...]
    asked: dict[str, int]

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        record = asdict(self)
        record["mended"] = record.pop("edited")
        return record


def fixes_for(findings: Iterable[Finding], checked: CheckedManifest) -> tuple[FixRecord, ...]:
    """A fix for every utterance of a finding that can be fixed."""
    known = {item.id for item in checked.utterances}
    clips = {clip.utterance.id: clip for clip in checked.clips}
    fixes = []
    for finding in findings:
        fix = all_checks()[finding.kind].declared.fix
        # Between splits an id is `split:id`, and only the lines of this manifest can be fixed.
        prefix = "" if finding.manifest is not None else f"{checked.name}:"
        names = [name.removeprefix(prefix) for name in finding.ids if name.startswith(prefix)]
        kept: set[str] = set()
        for name in names if fix else ():
            if name not in known:
                continue
            action, is_usual, value = _DROP, True, None
            clip = clips.get(name)
            if isinstance(fix, Edit):
                action, is_usual = fix.action, not fix.on_request
                value = fix.value(clip) if fix.value and clip else None
            elif isinstance(fix, Drop):
                is_usual, audio = not fix.on_request, clip.digest if clip else name
                if fix.keep_first and audio not in kept:
                    kept.add(audio)
                    continue
            fixes.append(
                FixRecord(id=name, kind=finding.kind, action=action, usual=is_usual, value=value)
            )
    return tuple(fixes)


@holds_out(lambda audit, *, out=None, **options: out)
def fix_data(
    audit: Path,
    *,
    out: Path | None = None,
    also: Sequence[str] = (),
    skip: Sequence[str] = (),
    force: bool = False,
) -> FixResult:
    """Apply the fixes of an audit, or only plan them.

    Args:
        audit: folder or file of `data audit`.
        out: the new manifest; None only plans.
        also: kinds of findings whose utterances are dropped or edited on request.
        skip: kinds of findings that are ignored.
        force: replace an existing `out`.

    Raises:
        RequestError: no audit, the manifest has changed since, an unknown kind, an existing `out`,
            or no utterance would be left.
    """
    record = _read_audit(audit)
    for kind in (*also, *skip):
        if kind not in all_checks():
            raise RequestError(
                f"no finding is called {kind!r}",
                hint=f"one of: {', '.join(all_checks())}",
            )
    manifest = Path(record.manifest or "")
    scan = scan_manifest(manifest, require_text=False)
    if scan.sha256 != record.manifest_sha256:
        raise RequestError(
            "the manifest has changed since the audit",
            where=manifest,
            hint=f"audit it again: moonshine-tune data audit {quoted(manifest)} --out DIR",
        )
    wanted: dict[str, list[FixRecord]] = defaultdict(list)
    questions: dict[str, list[str]] = defaultdict(list)
    for fix in record.fixes:
        if fix.kind in skip:
            continue
        if fix.usual or fix.kind in also:
            wanted[fix.id].append(fix)
        else:
            questions[fix.id].append(fix.kind)
    dropped = Counter(problem.kind for problem in scan.problems)
    edited: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    kept, changes = [], []
    for utterance in scan.utterances:
        own = wanted.get(utterance.id, [])
        reason = next((fix.kind for fix in own if fix.action == _DROP), None)
        fixed, actions = _edited(utterance, own)
        if reason is None and fixed.text is not None and not fixed.text.strip():
            reason = "empty_text"
        if reason is not None:
            dropped[reason] += 1
            continue
        edited.update(actions)
        asked.update(questions.get(utterance.id, ()))
        before = scan.written_texts.get(utterance.id, utterance.text)
        if fixed.text != before:
            changes.append((utterance.id, before or "", fixed.text or ""))
            edited.update([_CLEAN] if utterance.id in scan.written_texts else [])
        kept.append(fixed)
    if not kept:
        raise RequestError(
            "no utterance would be left", where=manifest, hint="keep some with --skip KIND"
        )
    if out is not None:
        _check_out(out, manifest, force=force)
        write_manifest(out, kept, replace=force)
    return FixResult(
        manifest,
        out,
        scan.num_lines,
        len(kept),
        dict(dropped),
        dict(edited),
        tuple(changes),
        dict(asked),
    )


def _edited(utterance: Utterance, fixes: Sequence[FixRecord]) -> tuple[Utterance, list[str]]:
    """The utterance after its edits, and the actions that changed it."""
    values = {fix.action: fix.value for fix in fixes}
    fixers = [check.declared.fix for check in all_checks().values()]
    edits = [fix for fix in fixers if isinstance(fix, Edit)]
    actions = []
    for edit in sorted(edits, key=lambda edit: edit.order):
        if edit.action in values:
            changed = edit.apply(utterance, values[edit.action])
            if changed != utterance:
                utterance = changed
                actions.append(edit.action)
    return utterance, actions


def _read_audit(path: Path) -> AuditRecord:
    file = path / "audit.json" if path.is_dir() else path
    hint = "make one with: moonshine-tune data audit train.jsonl --out audit"
    record = AuditRecord.read(file, hint=hint)
    if record.kind != "audit" or record.manifest is None:
        raise RequestError("not the result of an audit", where=file, hint=hint)
    return record


def _check_out(out: Path, manifest: Path, *, force: bool) -> None:
    if not out.exists():
        return
    if out.resolve() == manifest.resolve():
        raise RequestError(
            "the new manifest would replace the audited one",
            where=out,
            hint="choose another name with --out",
        )
    if not force:
        raise RequestError(
            "the manifest exists already",
            where=out,
            hint="choose another name with --out, or replace it with --force",
        )
