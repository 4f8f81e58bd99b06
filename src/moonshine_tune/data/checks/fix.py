"""What can be done about the findings of an audit, and `data fix`, which writes a new manifest.

Nothing is changed in place: recordings and the old manifest stay as they are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import holds_out
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import (
    ManifestScan,
    Utterance,
    scan_manifest,
    write_manifest,
)
from moonshine_tune.data.base_style import StyledTexts, restyle
from moonshine_tune.data.checks.base import Drop, Edit, Finding, all_checks
from moonshine_tune.data.checks.checked_manifest import CheckedManifest
from moonshine_tune.registry.open import open_model
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
        style: what the base model's style changed; None where it was not asked for.
    """

    manifest: Path
    out: Path | None
    lines: int
    kept: int
    dropped: dict[str, int]
    edited: dict[str, int]
    changes: tuple[tuple[str, str, str], ...]
    asked: dict[str, int]
    style: StyledTexts | None = None

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        record = asdict(self)
        record["mended"] = record.pop("edited")
        if record["style"] is None:
            del record["style"]
        else:
            # The texts are among the changes.
            del record["style"]["texts"]
        return record


@dataclass(frozen=True)
class StyleRequest:
    """Write the texts in the style of a base model.

    Attributes:
        model: the base model to train.
    """

    model: str = "tiny"
    device: str = "auto"


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


@holds_out(lambda source, *, out=None, **options: out)
def fix_data(
    source: Path,
    *,
    out: Path | None = None,
    also: Sequence[str] = (),
    skip: Sequence[str] = (),
    force: bool = False,
    style: StyleRequest | None = None,
    progress: Progress | None = None,
) -> FixResult:
    """Apply the fixes of an audit, or only plan them.

    Args:
        source: folder or file of `data audit`; with `style` also a manifest.
        out: the new manifest; None only plans.
        also: kinds of findings whose utterances are dropped or edited on request.
        skip: kinds of findings that are ignored.
        force: replace an existing `out`.
        style: write the texts that remain in the style of a base model.

    Raises:
        RequestError: no audit, the manifest has changed since, an unknown kind, an existing `out`,
            or no utterance would be left.
    """
    for kind in (*also, *skip):
        if kind not in all_checks():
            raise RequestError(
                f"no finding is called {kind!r}",
                hint=f"one of: {', '.join(all_checks())}",
            )
    scan, fixes = _scan(source, may_be_manifest=style is not None)
    if out is not None:
        _check_out(out, scan.path, force=force)
    fixed = _Fixes(scan, fixes, also, skip)
    kept = fixed.apply()
    if not kept:
        raise RequestError(
            "no utterance would be left", where=scan.path, hint="keep some with --skip KIND"
        )
    styled = None
    if style is not None:
        progress = progress or SilentProgress()
        opened = open_model(style.model, device=style.device, dtype="float32", progress=progress)
        styled = restyle(kept, opened, progress)
        kept = [
            item.with_text(styled.texts[item.id]) if item.id in styled.texts else item
            for item in kept
        ]
        fixed.edited.update({"base_style": len(styled.texts) - len(styled.sentence_form)})
        fixed.edited.update({"sentence_form": len(styled.sentence_form)})
    if out is not None:
        write_manifest(out, kept, replace=force)
    return FixResult(
        manifest=scan.path,
        out=out,
        lines=scan.num_lines,
        kept=len(kept),
        dropped=dict(fixed.dropped),
        edited={action: count for action, count in fixed.edited.items() if count},
        changes=_changes(scan, kept),
        asked=dict(fixed.asked),
        style=styled,
    )


class _Fixes:
    """The fixes of a manifest that are wanted.

    Attributes:
        dropped, edited, asked: counts, as `FixResult` has them.
    """

    def __init__(
        self,
        scan: ManifestScan,
        fixes: Iterable[FixRecord],
        also: Sequence[str],
        skip: Sequence[str],
    ) -> None:
        self._scan = scan
        self._wanted: dict[str, list[FixRecord]] = defaultdict(list)
        self._questions: dict[str, list[str]] = defaultdict(list)
        for fix in fixes:
            if fix.kind in skip:
                continue
            if fix.usual or fix.kind in also:
                self._wanted[fix.id].append(fix)
            else:
                self._questions[fix.id].append(fix.kind)
        self.dropped = Counter(problem.kind for problem in scan.problems)
        self.edited: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    def apply(self) -> list[Utterance]:
        """The utterances that are kept, with their edits."""
        kept = []
        for utterance in self._scan.utterances:
            own = self._wanted.get(utterance.id, [])
            reason = next((fix.kind for fix in own if fix.action == _DROP), None)
            fixed, actions = _edited(utterance, own)
            if reason is None and fixed.text is not None and not fixed.text.strip():
                reason = "empty_text"
            if reason is not None:
                self.dropped[reason] += 1
                continue
            self.edited.update(actions)
            self.asked.update(self._questions.get(utterance.id, ()))
            is_cleaned = utterance.id in self._scan.written_texts
            if is_cleaned and fixed.text != self._scan.written_texts[utterance.id]:
                self.edited[_CLEAN] += 1
            kept.append(fixed)
        return kept


def _changes(scan: ManifestScan, kept: Sequence[Utterance]) -> tuple[tuple[str, str, str], ...]:
    """Id, old and new text of the texts that are now others than in the file."""
    texts = {item.id: item.text for item in scan.utterances} | scan.written_texts
    return tuple(
        (item.id, texts[item.id] or "", item.text or "")
        for item in kept
        if item.text != texts[item.id]
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


def _scan(source: Path, *, may_be_manifest: bool) -> tuple[ManifestScan, Sequence[FixRecord]]:
    """The manifest and its fixes; a manifest that was not audited has none."""
    if may_be_manifest and source.is_file() and not _is_audit(source):
        return scan_manifest(source, require_text=False), ()
    record = _read_audit(source)
    manifest = Path(record.manifest or "")
    scan = scan_manifest(manifest, require_text=False)
    if scan.sha256 != record.manifest_sha256:
        raise RequestError(
            "the manifest has changed since the audit",
            where=manifest,
            hint=f"audit it again: moonshine-tune data audit {quoted(manifest)} --out DIR",
        )
    return scan, record.fixes


def _is_audit(file: Path) -> bool:
    with suppress(RequestError):
        return AuditRecord.read(file).kind == "audit"
    return False


def _read_audit(path: Path) -> AuditRecord:
    file = path / "audit.json" if path.is_dir() else path
    hint = "make one with: moonshine-tune data audit train.jsonl --out audit"
    if path.suffix == ".jsonl" and path.is_file():
        raise RequestError(
            "a manifest, not the folder of an audit",
            where=path,
            hint=f"make one with: moonshine-tune data audit {quoted(path)} --out audit",
        )
    record = AuditRecord.read(file, hint=hint)
    if record.kind != "audit" or record.manifest is None:
        raise RequestError("not the result of an audit", where=file, hint=hint)
    return record


def _check_out(out: Path, manifest: Path, *, force: bool) -> None:
    if not out.exists():
        return
    if out.resolve() == manifest.resolve():
        raise RequestError(
            "the new manifest would replace the old one",
            where=out,
            hint="choose another name with --out",
        )
    if not force:
        raise RequestError(
            "the manifest exists already",
            where=out,
            hint="choose another name with --out, or replace it with --force",
        )
