"""`data check`: read every recording and every line, and say what is wrong, with ids and counts."""

import hashlib
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moonshine_tune.audio.audit import ClipMeasures, measure_clip
from moonshine_tune.audio.decode import (
    SAMPLE_RATE_HZ,
    AudioInfo,
    Samples,
    audio_info,
    load_utterance,
)
from moonshine_tune.errors import AudioError, RequestError
from moonshine_tune.jobs.data_findings import (
    CLIPPED_FRACTION,
    DURATION_SLACK,
    DURATION_SLACK_S,
    LONG_S,
    LONG_SILENCE_S,
    RULES,
    SHORT_S,
    SHORTEST_S,
    Finding,
    make_finding,
)
from moonshine_tune.manifest import ManifestScan, Utterance, scan_manifest
from moonshine_tune.progress import Progress
from moonshine_tune.splits import Leak, find_leaks
from moonshine_tune.text import normalizer_for

# Below this many clips a median says little about what is usual.
_FEWEST_FOR_RATES = 20
# Speech rates are outliers beyond this many robust standard deviations of their logarithm, and by
# a factor of two at least: in a corpus of one-word clips pauses alone make rates vary that much.
_RATE_DEVIATIONS, _RATE_FACTOR = 5.0, 2.0


@dataclass(frozen=True)
class ManifestSummary:
    """One manifest. Every line is either clean or named in a finding.

    Attributes:
        name: how findings and leaks name it.
        lines: lines that are not blank.
        clean: utterances without an error or a warning; notes do not count.
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
    """All findings, errors first. `passed` says that none of them is an error."""

    passed: bool
    errors: int
    warnings: int
    notes: int
    manifests: tuple[ManifestSummary, ...]
    sides: dict[str, int]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Clip:
    """What was read of one utterance; `digest` is of its samples as 16-bit numbers."""

    utterance: Utterance
    info: AudioInfo
    measures: ClipMeasures
    digest: str


@dataclass(frozen=True)
class _Audited:
    """One manifest with its clips and with what was seen: kind → id → detail."""

    name: str
    scan: ManifestScan
    clips: tuple[_Clip, ...]
    seen: dict[str, dict[str, str]]


def check_data(paths: Sequence[Path], progress: Progress) -> CheckReport:
    """Check manifests; several are taken as the sides of one split.

    A single manifest whose `split` field has several values holds the sides itself.

    Raises:
        RequestError: a manifest is missing, is no text, has no lines, or is named twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise RequestError("a manifest is named twice", hint="name each manifest once")
    scans = [scan_manifest(path, require_text=False) for path in paths]
    for path, scan in zip(paths, scans, strict=True):
        if not scan.num_lines:
            raise RequestError("the manifest has no utterances", where=path)
    names = _short_names(paths)
    audited = []
    with progress.stage("checking", sum(len(scan.utterances) for scan in scans)) as stage:
        infos: dict[Path, AudioInfo] = {}
        for name, scan in zip(names, scans, strict=True):
            seen: dict[str, dict[str, str]] = defaultdict(dict)
            clips = []
            for utterance in scan.utterances:
                clip = _read_clip(utterance, infos, seen)
                if clip is not None:
                    clips.append(clip)
                stage.advance()
            audited.append(_Audited(name, scan, tuple(clips), seen))
    for one in audited:
        _see_lines(one)
        _see_clips(one)
        _see_texts(one)
        _see_rates(one)
        _see_duplicates(one)
    findings = [
        make_finding(kind, one.name, seen)
        for one in audited
        for kind, seen in one.seen.items()
        if seen
    ]
    sides = _sides(audited)
    findings.extend(_between_sides(sides, audited))
    return _report(audited, sides, findings)


def _report(
    audited: Sequence[_Audited],
    sides: Mapping[str, Sequence[Utterance]],
    findings: Sequence[Finding],
) -> CheckReport:
    order = list(RULES)
    ranked = sorted(findings, key=lambda item: order.index(item.kind))
    ranked.sort(key=lambda item: ("error", "warning", "note").index(item.severity))
    counts = Counter(finding.severity for finding in ranked)
    return CheckReport(
        passed=not counts["error"],
        errors=counts["error"],
        warnings=counts["warning"],
        notes=counts["note"],
        manifests=tuple(_summary(one) for one in audited),
        sides={name: len(utterances) for name, utterances in sides.items()},
        findings=tuple(ranked),
    )


def _summary(one: _Audited) -> ManifestSummary:
    faulty = {
        identifier
        for kind, seen in one.seen.items()
        if RULES[kind].severity != "note" and kind not in ("bad_line", "duplicate_id")
        for identifier in seen
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


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Names without folder and ending where that leaves them distinct."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _read_clip(
    utterance: Utterance, infos: dict[Path, AudioInfo], seen: dict[str, dict[str, str]]
) -> _Clip | None:
    """Decode one utterance to its end; None where that cannot be done, which is then seen."""
    path = utterance.audio
    try:
        if path.stat().st_size == 0:
            seen["empty_audio"][utterance.id] = "0 bytes"
            return None
        if path not in infos:
            infos[path] = audio_info(path)
        info = infos[path]
        if info.seconds == 0:
            seen["empty_audio"][utterance.id] = "no samples"
            return None
        begin = utterance.start or 0.0
        end = utterance.end if utterance.end is not None else begin
        if begin >= info.seconds or end > info.seconds + DURATION_SLACK_S:
            seen["span_outside"][utterance.id] = (
                f"{begin:g} to {end:g} s of a recording of {info.seconds:.2f} s"
            )
            return None
        samples = load_utterance(utterance)
    except AudioError as error:
        hint = f" ({error.hint})" if "ffmpeg" in error.message and error.hint else ""
        seen["unreadable"][utterance.id] = f"{error.message}{hint}"
        return None
    except OSError as error:
        seen["unreadable"][utterance.id] = error.strerror or str(error)
        return None
    if utterance.end is None and len(samples) / SAMPLE_RATE_HZ < info.seconds - begin - 0.5:
        seen["unreadable"][utterance.id] = (
            f"cut off: {len(samples) / SAMPLE_RATE_HZ:.2f} of {info.seconds - begin:.2f} s"
        )
        return None
    return _Clip(utterance, info, measure_clip(samples, SAMPLE_RATE_HZ), _digest(samples))


def _digest(samples: Samples) -> str:
    rounded = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")
    return hashlib.blake2b(rounded.tobytes(), digest_size=16).hexdigest()


def _see_lines(one: _Audited) -> None:
    for problem in one.scan.problems:
        # A repeated id names two lines; the line tells which one is meant.
        clear = problem.id is not None and problem.kind == "missing_recording"
        key = str(problem.id) if clear else f"line {problem.line}"
        one.seen[problem.kind][key] = (
            f"line {problem.line}: {problem.message}" if clear else problem.message
        )
    folder = one.scan.path.parent.resolve()
    for utterance in one.scan.utterances:
        if not utterance.audio.is_relative_to(folder):
            one.seen["outside_folder"][utterance.id] = str(utterance.audio)


def _see_clips(one: _Audited) -> None:
    for clip in one.clips:
        identifier, measures = clip.utterance.id, clip.measures
        length = f"{measures.seconds:.2f} s"
        if measures.seconds < SHORTEST_S:
            one.seen["far_too_short"][identifier] = length
        elif measures.is_silent:
            one.seen["silent"][identifier] = f"loudest 10 ms at {measures.loudest_dbfs:.0f} dBFS"
        elif measures.seconds < SHORT_S:
            one.seen["too_short"][identifier] = length
        if measures.seconds > LONG_S:
            one.seen["too_long"][identifier] = length
        if measures.clipped_fraction > CLIPPED_FRACTION:
            one.seen["clipped"][identifier] = f"{measures.clipped_fraction:.1%} of the samples"
        silence = max(measures.leading_silence_s, measures.trailing_silence_s)
        if silence > LONG_SILENCE_S and not measures.is_silent:
            one.seen["long_silence"][identifier] = f"{silence:.1f} s"
        if clip.info.sample_rate_hz != SAMPLE_RATE_HZ:
            one.seen["sample_rate"][identifier] = f"{clip.info.sample_rate_hz} Hz"
        told = clip.utterance.known_seconds
        if told is not None:
            slack = max(DURATION_SLACK_S, DURATION_SLACK * measures.seconds)
            if abs(told - measures.seconds) > slack:
                one.seen["wrong_duration"][identifier] = f"{told:g} s told, {length} measured"


def _see_texts(one: _Audited) -> None:
    utterances = one.scan.utterances
    if utterances and all(utterance.text is None for utterance in utterances):
        one.seen["no_texts"] = {utterance.id: "no text" for utterance in utterances}
        return
    same: dict[str, list[str]] = defaultdict(list)
    for utterance in utterances:
        if utterance.text is None:
            one.seen["missing_text"][utterance.id] = "no text"
        elif not (plain := normalizer_for("basic-1")(utterance.text)):
            one.seen["empty_text"][utterance.id] = repr(utterance.text)
        else:
            same[plain].append(utterance.id)
            if in_capitals(utterance.text):
                one.seen["capitals"][utterance.id] = _shortened(utterance.text)
    for plain, ids in same.items():
        if len(ids) > 1:
            one.seen["same_text"].update(
                dict.fromkeys(ids, f"{len(ids)} times: {_shortened(plain)}")
            )


def in_capitals(text: str) -> bool:
    """Whether a text is all capitals: no small letter, and a word that is not spelled letters.

    Words of one or two letters do not count: `A`, `B C`, `OK` are written so in any corpus.
    """
    if any(character.islower() for character in text):
        return False
    return any(sum(letter.isupper() for letter in word) > 2 for word in text.split())


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _see_rates(one: _Audited) -> None:
    """Characters a second between the silences at both ends, against the corpus's median."""
    rates: dict[str, float] = {}
    for clip in one.clips:
        letters = len(normalizer_for("basic-1")(clip.utterance.text or "").replace(" ", ""))
        if letters and clip.measures.active_s >= SHORTEST_S and not clip.measures.is_silent:
            rates[clip.utterance.id] = letters / clip.measures.active_s
    if len(rates) < _FEWEST_FOR_RATES:
        return
    middle = statistics.median(math.log(rate) for rate in rates.values())
    off = {identifier: math.log(rate) - middle for identifier, rate in rates.items()}
    spread = 1.4826 * statistics.median(abs(value) for value in off.values())
    bound = max(_RATE_DEVIATIONS * spread, math.log(_RATE_FACTOR))
    outliers = sorted((key for key in off if abs(off[key]) > bound), key=lambda key: -abs(off[key]))
    for identifier in outliers:
        one.seen["speech_rate"][identifier] = (
            f"{rates[identifier]:.1f} characters a second, usual {math.exp(middle):.1f}"
        )


def _see_duplicates(one: _Audited) -> None:
    for clips in _by_digest(one.clips).values():
        if len(clips) < 2:
            continue
        texts = {normalizer_for("basic-1")(clip.utterance.text or "") for clip in clips}
        kind = "conflicting_texts" if len(texts) > 1 else "duplicate_audio"
        ids = [clip.utterance.id for clip in clips]
        for clip in clips:
            others = ", ".join(other for other in ids if other != clip.utterance.id)
            one.seen[kind][clip.utterance.id] = f"the same as {_shortened(others)}"


def _by_digest(clips: Sequence[_Clip]) -> dict[str, list[_Clip]]:
    """Clips by content; silent ones are all alike and left out."""
    same: dict[str, list[_Clip]] = defaultdict(list)
    for clip in clips:
        if not clip.measures.is_silent:
            same[clip.digest].append(clip)
    return same


def _sides(audited: Sequence[_Audited]) -> dict[str, tuple[Utterance, ...]]:
    """Sides of the split: the manifests, and within one that names several splits, those."""
    sides: dict[str, tuple[Utterance, ...]] = {}
    for one in audited:
        named = list(dict.fromkeys(u.split for u in one.scan.utterances if u.split))
        if len(named) < 2:
            sides[one.name] = one.scan.utterances
            continue
        for split in named:
            name = split if len(audited) == 1 else f"{one.name}/{split}"
            sides[name] = tuple(u for u in one.scan.utterances if u.split == split)
    return sides


def _between_sides(
    sides: Mapping[str, Sequence[Utterance]], audited: Sequence[_Audited]
) -> list[Finding]:
    if len(sides) < 2:
        return []
    leaks = find_leaks(sides)
    seen: dict[str, dict[str, str]] = {
        "leaked_speakers": _listed(leaks.speakers),
        "leaked_recordings": _listed(leaks.recordings),
        "leaked_texts": _listed(leaks.texts),
    }
    digests = {
        id(clip.utterance): digest
        for digest, clips in _by_digest([c for one in audited for c in one.clips]).items()
        for clip in clips
    }
    copies: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for side, utterances in sides.items():
        for utterance in utterances:
            if id(utterance) in digests:
                copies[digests[id(utterance)]][side].append(utterance.id)
            if not utterance.speaker and not utterance.session:
                seen.setdefault("unknown_speakers", {})[f"{side}:{utterance.id}"] = "no speaker"
    for by_side in copies.values():
        if len(by_side) > 1:
            for key, detail in _listed([Leak("the same audio", _tuples(by_side))]).items():
                seen["leaked_recordings"].setdefault(key, detail)
    return [make_finding(kind, None, found) for kind, found in seen.items() if found]


def _tuples(by_side: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {side: tuple(ids) for side, ids in by_side.items()}


def _listed(leaks: Sequence[Leak]) -> dict[str, str]:
    """`side:id` → what is shared and with which sides."""
    return {
        f"{side}:{identifier}": f"{_shortened(leak.value)} in {', '.join(leak.ids)}"
        for leak in leaks
        for side, ids in leak.ids.items()
        for identifier in ids
    }
