"""`data check`: read every recording and every line, and say what is wrong, with ids and counts."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moonshine_tune.audio.io import AudioInfo, DecoderMissingError, audio_info, load_utterance
from moonshine_tune.audio.measure import measure_clip
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.progress import Progress, Stage
from moonshine_tune.corpus.manifest import ManifestScan, Utterance, scan_manifest
from moonshine_tune.corpus.splits import Leak, find_leaks
from moonshine_tune.data.checks.detectors import (
    CheckedClip,
    See,
    Seen,
    by_digest,
    recorder,
    see_clip,
    see_copies,
    see_lines,
    see_places,
    see_rates,
    see_texts,
    shortened,
)
from moonshine_tune.data.checks.rules import DURATION_SLACK_S, RULES, Finding, make_finding

_SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class ManifestSummary:
    """One manifest. Every line is either clean or named in a finding.

    Attributes:
        name: how findings and leaks name it.
        lines: lines that are not blank.
        clean: utterances that no error and no warning names; what lies between the sides of a
            split, and a manifest without any texts, does not count here.
        seconds: of the recordings that could be read.
    """

    name: str
    path: Path
    sha256: str
    lines: int
    utterances: int
    clean: int
    seconds: float
    speakers: int


@dataclass(frozen=True)
class CheckReport:
    """All findings, errors first.

    Attributes:
        passed: no finding is an error.
        errors, warnings, notes: number of findings of each severity.
        sides: side of the split → its utterances.
    """

    passed: bool
    errors: int
    warnings: int
    notes: int
    manifests: tuple[ManifestSummary, ...]
    sides: dict[str, int]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Checked:
    """One manifest with the clips that could be read and with what was seen."""

    name: str
    scan: ManifestScan
    clips: tuple[CheckedClip, ...]
    seen: Seen


# Shown each clip that could be decoded, with the manifest it is from and its samples.
Look = Callable[[Path, CheckedClip, Samples, See], None]


def check_data(
    paths: Sequence[Path], progress: Progress, *, look: Look | None = None
) -> CheckReport:
    """Check manifests; several are taken as the sides of one split.

    Args:
        look: may see more in a clip while its samples are at hand.

    A manifest whose `split` field has several values holds several sides itself.

    Raises:
        RequestError: a manifest is missing, is no text, has no lines, or is named twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise RequestError("a manifest is named twice", hint="name each manifest once")
    scans = [scan_manifest(path, require_text=False) for path in paths]
    for path, scan in zip(paths, scans, strict=True):
        if not scan.num_lines:
            raise RequestError(
                "the manifest has no utterances",
                where=path,
                hint="make one with: moonshine-tune data import FOLDER --out train.jsonl",
            )
    with progress.stage("checking", sum(len(scan.utterances) for scan in scans)) as stage:
        checked = [
            _check_manifest(name, scan, stage, look)
            for name, scan in zip(_short_names(paths), scans, strict=True)
        ]
    findings = [
        make_finding(kind, one.name, pairs) for one in checked for kind, pairs in one.seen.items()
    ]
    sides = _sides(checked)
    findings.extend(_between_sides(sides, checked))
    order = list(RULES)
    findings.sort(key=lambda item: (_SEVERITIES.index(item.severity), order.index(item.kind)))
    counts = Counter(finding.severity for finding in findings)
    return CheckReport(
        passed=not counts["error"],
        errors=counts["error"],
        warnings=counts["warning"],
        notes=counts["note"],
        manifests=tuple(_summary(one) for one in checked),
        sides={name: len(utterances) for name, utterances in sides.items()},
        findings=tuple(findings),
    )


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Names without folder and ending where that leaves them distinct."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _check_manifest(name: str, scan: ManifestScan, stage: Stage, look: Look | None) -> _Checked:
    seen: Seen = {}
    see = recorder(seen)
    see_lines(scan.problems, see)
    see_places(scan.utterances, scan.path.parent.resolve(), see)
    see_texts(scan.utterances, see)
    clips: list[CheckedClip] = []
    infos: dict[Path, AudioInfo] = {}
    for utterance in scan.utterances:
        found = _read_clip(utterance, infos, see)
        if found is not None:
            clip, samples = found
            clips.append(clip)
            see_clip(clip, see)
            if look is not None:
                look(scan.path, clip, samples, see)
        stage.advance()
    see_rates(clips, see)
    see_copies(clips, see)
    return _Checked(name, scan, tuple(clips), seen)


def _read_clip(
    utterance: Utterance, infos: dict[Path, AudioInfo], see: See
) -> tuple[CheckedClip, Samples] | None:
    """Decode one utterance to its end; where that cannot be done, say why and return None."""
    path = utterance.audio
    try:
        if path.stat().st_size == 0:
            see("empty_audio", utterance.id, "0 bytes")
            return None
        if path not in infos:
            infos[path] = audio_info(path)
        info = infos[path]
        if info.seconds == 0:
            see("empty_audio", utterance.id, "no samples")
            return None
        begin, end = utterance.start or 0.0, utterance.end or 0.0
        if begin >= info.seconds or end > info.seconds + DURATION_SLACK_S:
            last = f"{end:g} s" if end else "the end"
            detail = f"{begin:g} s to {last} of a recording of {info.seconds:.2f} s"
            see("span_outside", utterance.id, detail)
            return None
        samples = load_utterance(utterance)
    except DecoderMissingError as error:
        see("unreadable", utterance.id, f"{error.message}; {error.hint}")
        return None
    except AudioError as error:
        see("unreadable", utterance.id, error.message)
        return None
    except OSError as error:
        see("unreadable", utterance.id, error.strerror or str(error))
        return None
    measures = measure_clip(samples, SAMPLE_RATE_HZ)
    return CheckedClip(utterance, info.sample_rate_hz, measures, _digest(samples)), samples


def _digest(samples: Samples) -> str:
    rounded = np.clip(np.round(samples * 32768.0), -32768, 32767).astype("<i2")
    return hashlib.blake2b(rounded.tobytes(), digest_size=16).hexdigest()


def _summary(one: _Checked) -> ManifestSummary:
    faulty = {
        identifier
        for kind, pairs in one.seen.items()
        if RULES[kind].severity != "note" and kind != "no_texts"
        for identifier, _detail in pairs
    }
    utterances = one.scan.utterances
    return ManifestSummary(
        name=one.name,
        path=one.scan.path,
        sha256=one.scan.sha256,
        lines=one.scan.num_lines,
        utterances=len(utterances),
        clean=sum(utterance.id not in faulty for utterance in utterances),
        seconds=round(sum(clip.measures.seconds for clip in one.clips), 2),
        speakers=len({utterance.speaker for utterance in utterances if utterance.speaker}),
    )


def _sides(checked: Sequence[_Checked]) -> dict[str, tuple[Utterance, ...]]:
    """Sides of the split: the manifests, and within one that names several splits, those."""
    sides: dict[str, tuple[Utterance, ...]] = {}
    for one in checked:
        named = list(dict.fromkeys(item.split for item in one.scan.utterances if item.split))
        if len(named) < 2:
            sides[one.name] = one.scan.utterances
            continue
        for split in named:
            name = split if len(checked) == 1 else f"{one.name}/{split}"
            sides[name] = tuple(item for item in one.scan.utterances if item.split == split)
    return sides


def _between_sides(
    sides: Mapping[str, Sequence[Utterance]], checked: Sequence[_Checked]
) -> list[Finding]:
    """Speakers, recordings, audio and texts on more than one side; ids are `side:id`."""
    if len(sides) < 2:
        return []
    leaks = find_leaks(sides)
    recordings = _listed(leaks.recordings)
    # A copy under another name is the same leak; what is named already is not named again.
    for identifier, detail in _listed(_copies(sides, checked)).items():
        recordings.setdefault(identifier, detail)
    unknown = {
        f"{side}:{utterance.id}": "no speaker"
        for side, utterances in sides.items()
        for utterance in utterances
        if not utterance.speaker and not utterance.session
    }
    found = {
        "leaked_speakers": _listed(leaks.speakers),
        "leaked_recordings": recordings,
        "leaked_texts": _listed(leaks.texts),
        "unknown_speakers": unknown,
    }
    return [make_finding(kind, None, seen.items()) for kind, seen in found.items() if seen]


def _copies(
    sides: Mapping[str, Sequence[Utterance]], checked: Sequence[_Checked]
) -> tuple[Leak, ...]:
    """The same audio on several sides, whatever the files are called."""
    # By identity: two manifests may use one id.
    side_of = {id(utterance): side for side, members in sides.items() for utterance in members}
    leaks = []
    for group in by_digest([clip for one in checked for clip in one.clips]).values():
        ids: dict[str, list[str]] = defaultdict(list)
        for clip in group:
            if id(clip.utterance) in side_of:
                ids[side_of[id(clip.utterance)]].append(clip.utterance.id)
        if len(ids) > 1:
            where = {side: tuple(members) for side, members in ids.items()}
            leaks.append(Leak(f"the audio of {group[0].utterance.audio.name}", where))
    return tuple(leaks)


def _listed(leaks: Sequence[Leak]) -> dict[str, str]:
    """`side:id` → what is shared, and by which sides."""
    return {
        f"{side}:{identifier}": f"{shortened(leak.value)} in {', '.join(leak.ids)}"
        for leak in leaks
        for side, ids in leak.ids.items()
        for identifier in ids
    }
