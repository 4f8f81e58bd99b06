"""What can be done about an audit's findings, and `data fix`, which does it in a new manifest.

Nothing is changed in place: recordings stay as they are, the old manifest stays where it is.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Utterance, scan_manifest, write_manifest
from moonshine_tune.data.checks.detectors import CheckedClip
from moonshine_tune.data.checks.rules import RULES, Finding

# What cannot be used at all, or would spoil a score.
_DROPPED = ("unreadable", "empty_audio", "silent", "span_outside", "far_too_short", "missing_text",
            "empty_text", "conflicting_texts", "too_long", "leaked_speakers",
            "leaked_recordings")  # fmt: skip
# Only where they are asked for: a person should have listened first.
_DROPPED_IF_ASKED = ("swapped_text", "doubtful_text", "words_missing", "words_not_said",
                     "speech_rate", "noisy", "too_quiet", "dc_offset", "clipped", "too_short",
                     "repeated_words", "mixed_numbers", "leaked_texts")  # fmt: skip
_MENDED = {
    "markup": "strip_markup",
    "capitals": "sentence_case",
    "odd_characters": "plain_characters",
    "wrong_duration": "set_duration",
}
_TEXT_MENDS = ("strip_markup", "plain_characters", "sentence_case")
_MARKS = re.compile(r"\[[^\]]*\]|<[^>]*>|\{[^}]*\}|\([^)]*\)|https?://\S+|&[a-z]+;|�")
_PLAIN = str.maketrans({
    "’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‑": "-", "…": "...",
    "\u00a0": " ", "\u200b": "", "\u00ad": "", "\ufeff": "",
})  # fmt: skip


@dataclass(frozen=True)
class Fix:
    """One thing to do about one utterance.

    Attributes:
        kind: the finding that asks for it.
        action: `drop`, `strip_markup`, `plain_characters`, `sentence_case` or `set_duration`.
        usual: done unless it is skipped; the others only where their kind is asked for.
        value: of `set_duration`, seconds.
    """

    id: str
    kind: str
    action: str
    usual: bool
    value: float | None = None


@dataclass(frozen=True)
class FixRequest:
    """Which fixes to apply.

    Attributes:
        audit: folder or file of `data audit`.
        out: the new manifest; None only plans.
        also: kinds that are applied only where they are asked for.
        skip: kinds that are left alone.
    """

    audit: Path
    out: Path | None = None
    also: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True)
class FixResult:
    """What was done, or would be; lines = kept + the sum of `dropped`.

    Attributes:
        dropped: finding → utterances or lines that are left out; one with several findings is
            counted under the first.
        mended: action → utterances that it changed.
        changes: id, before and after of each text that was mended.
    """

    manifest: Path
    out: Path | None
    lines: int
    kept: int
    dropped: dict[str, int]
    mended: dict[str, int]
    changes: tuple[tuple[str, str, str], ...]


def fixes_for(
    findings: Sequence[Finding], utterances: Sequence[Utterance], clips: Mapping[str, CheckedClip]
) -> tuple[Fix, ...]:
    """A fix for each utterance that a finding names, where there is one."""
    known = {item.id for item in utterances}
    fixes = []
    for found in findings:
        if found.kind == "duplicate_audio":
            fixes += _all_but_the_first(found, clips)
            continue
        for name in found.ids:
            # Between sides an id is `side:id`; only this side's can be taken out here.
            own = name.partition(":")[2] if found.manifest is None else name
            if own not in known or (found.manifest is None and not _is_own(name, findings)):
                continue
            fixes += _fix(found.kind, own, clips)
    return tuple(fixes)


def _is_own(name: str, findings: Sequence[Finding]) -> bool:
    side = name.partition(":")[0]
    named = {found.manifest for found in findings if found.manifest is not None}
    return not named or side in named


def _fix(kind: str, name: str, clips: Mapping[str, CheckedClip]) -> list[Fix]:
    if kind in _DROPPED or kind in _DROPPED_IF_ASKED:
        return [Fix(name, kind, "drop", kind in _DROPPED)]
    if kind not in _MENDED:
        return []
    seconds = round(clips[name].measures.seconds, 4) if kind == "wrong_duration" else None
    return [Fix(name, kind, _MENDED[kind], True, seconds)]


def _all_but_the_first(found: Finding, clips: Mapping[str, CheckedClip]) -> list[Fix]:
    seen: set[str] = set()
    fixes = []
    for name in found.ids:
        digest = clips[name].digest if name in clips else name
        if digest in seen:
            fixes.append(Fix(name, found.kind, "drop", True))
        seen.add(digest)
    return fixes


def fix_data(request: FixRequest) -> FixResult:
    """Apply the fixes of an audit; with `out` the new manifest is written.

    Raises:
        RequestError: no audit there, the manifest has changed since, an unknown kind, an `out` that
            exists already, or nothing would be left.
    """
    record = _read_audit(request.audit)
    for kind in (*request.also, *request.skip):
        if kind not in RULES:
            raise RequestError(f"no finding is called {kind!r}", hint=f"one of: {', '.join(RULES)}")
    manifest = Path(record["manifest"])
    scan = scan_manifest(manifest, require_text=False)
    if scan.sha256 != record["manifest_sha256"]:
        raise RequestError(
            "the manifest has changed since it was audited",
            where=manifest,
            hint=f"audit it again: moonshine-tune data audit {manifest} --out DIR",
        )
    wanted: dict[str, list[Fix]] = {}
    for item in record["fixes"]:
        fix = Fix(**item)
        if fix.kind not in request.skip and (fix.usual or fix.kind in request.also):
            wanted.setdefault(fix.id, []).append(fix)
    dropped = Counter(problem.kind for problem in scan.problems)
    mended: Counter[str] = Counter()
    kept, changes = [], []
    for utterance in scan.utterances:
        fixes = wanted.get(utterance.id, [])
        reason = next((fix.kind for fix in fixes if fix.action == "drop"), None)
        if reason is not None:
            dropped[reason] += 1
            continue
        made, done = _mended(utterance, fixes)
        if made is None:
            dropped["empty_text"] += 1
            continue
        mended.update(done)
        if made.text != utterance.text:
            changes.append((utterance.id, utterance.text or "", made.text or ""))
        kept.append(made)
    if not kept:
        raise RequestError("nothing would be left", where=manifest, hint="leave some with --skip")
    if request.out is not None:
        _check_out(request, manifest)
        write_manifest(request.out, kept)
    return FixResult(
        manifest, request.out, scan.num_lines, len(kept), dict(dropped), dict(mended),
        tuple(changes),
    )  # fmt: skip


def _mended(utterance: Utterance, fixes: Sequence[Fix]) -> tuple[Utterance | None, list[str]]:
    """The utterance after its mends, None where its text was nothing but markup."""
    actions = {fix.action: fix for fix in fixes}
    done, text = [], utterance.text
    for action in _TEXT_MENDS:
        if action in actions and text is not None:
            changed = _TEXT[action](text)
            if changed != text:
                text = changed
                done.append(action)
    if utterance.text is not None and text is not None and not text.strip():
        return None, []
    made = replace(utterance, text=text)
    if "set_duration" in actions:
        made = replace(made, duration=actions["set_duration"].value)
        done.append("set_duration")
    return made, done


def _strip_markup(text: str) -> str:
    return " ".join(_MARKS.sub(" ", text).split())


def _plain_characters(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text.translate(_PLAIN)).split())


def _sentence_case(text: str) -> str:
    """Small letters with a capital at the beginning; single letters stay as they are."""
    words = [word if len(word) == 1 else word.lower() for word in text.split()]
    joined = " ".join(words)
    return joined[:1].upper() + joined[1:]


_TEXT = {
    "strip_markup": _strip_markup,
    "plain_characters": _plain_characters,
    "sentence_case": _sentence_case,
}


def _read_audit(path: Path) -> dict[str, Any]:
    file = path / "audit.json" if path.is_dir() else path
    hint = "make one with: moonshine-tune data audit train.jsonl --out audit"
    if not file.is_file():
        raise RequestError("no audit here", where=file, hint=hint)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["kind"] != "audit":
            raise KeyError("kind")
        [Fix(**item) for item in record["fixes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError("not the result of an audit", where=file, hint=hint) from error
    return dict(record)


def _check_out(request: FixRequest, manifest: Path) -> None:
    out = request.out
    if out is not None and out.exists():
        if out.resolve() == manifest.resolve():
            raise RequestError(
                "the new manifest would replace the audited one",
                where=out,
                hint="choose another name with --out",
            )
        if not request.force:
            raise RequestError(
                "the manifest exists already",
                where=out,
                hint="choose another name with --out, or replace it with --force",
            )
