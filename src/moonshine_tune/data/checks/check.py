"""`data check`: read every line and every recording, and report what spoils training or scores."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.progress import Progress
from moonshine_tune.data.checks.base import Finding, count_clean, find_problems
from moonshine_tune.data.checks.checked_manifest import CheckedSplits, read_manifests


@dataclass(frozen=True)
class ManifestSummary:
    """One manifest. Every line is either clean or named in a finding.

    Attributes:
        name: how findings name it.
        lines: lines that are not blank.
        clean: utterances that no error and no warning names; leakage, and a manifest without any
            texts, do not count here.
        seconds: of the recordings that could be decoded.
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
        sides: split → number of its utterances.
    """

    passed: bool
    errors: int
    warnings: int
    notes: int
    manifests: tuple[ManifestSummary, ...]
    sides: dict[str, int]
    findings: tuple[Finding, ...]


def check_data(paths: Sequence[Path], progress: Progress) -> CheckReport:
    """Check manifests. Several manifests, or several values of `split` in one, are splits.

    Raises:
        RequestError: a manifest is missing, is not text, has no lines, or is named twice.
    """
    manifests = read_manifests(paths, progress)
    splits = CheckedSplits.of(manifests)
    findings = find_problems(manifests, splits)
    counts = Counter(finding.severity for finding in findings)
    summaries = [
        ManifestSummary(
            name=manifest.name,
            path=manifest.scan.path,
            sha256=manifest.scan.sha256,
            lines=manifest.scan.num_lines,
            utterances=len(manifest.utterances),
            clean=count_clean(manifest, findings),
            seconds=manifest.seconds,
            speakers=manifest.num_speakers,
        )
        for manifest in manifests
    ]
    return CheckReport(
        passed=not counts["error"],
        errors=counts["error"],
        warnings=counts["warning"],
        notes=counts["note"],
        manifests=tuple(summaries),
        sides={name: len(members) for name, members in splits.utterances.items()},
        findings=tuple(findings),
    )
