"""Is a package whole, and does its model say on this machine what it said on its maker's?"""

import json
import platform
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import load_audio
from moonshine_tune.core.errors import NegativeAnswerError, RequestError, TuneError
from moonshine_tune.core.files import disk_errors, sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import package_version
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import ErrorCounts, score_utterance
from moonshine_tune.release.archive import (
    SUMS_FILE,
    archive_kind,
    files_below,
    packed_sha256,
    read_sums,
    unpack,
)
from moonshine_tune.release.package import PACKAGE_FILE, SAMPLE_FILE
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

# 8-bit sums differ between processor families in the last digit, which can tip a word.
_BOUND_ELSEWHERE = 10.0


@dataclass(frozen=True)
class SampleResult:
    """The sample heard again: clips with the recorded text, and words that differ in percent."""

    clips: int
    identical: int
    word_difference: float
    bound: float
    first_difference: tuple[str, str, str] | None

    @property
    def passed(self) -> bool:
        """Whether it says the same, within the bound."""
        return self.word_difference <= self.bound and (self.bound > 0 or self._all_identical)

    @property
    def _all_identical(self) -> bool:
        return self.identical == self.clips


@dataclass(frozen=True)
class VerifyResult:
    """The answer. `problems` are in the order in which they were found; the first says where."""

    package: Path
    name: str
    files: int
    runtime_loads: bool | None
    sample: SampleResult | None
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the package is whole and its model works here."""
        return not self.problems

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `verify`."""
        sample = self.sample
        return {
            "passed": self.passed,
            "package": str(self.package),
            "name": self.name,
            "files": self.files,
            "runtime_loads": self.runtime_loads,
            "sample": None
            if sample is None
            else {
                "passed": sample.passed,
                "clips": sample.clips,
                "identical": sample.identical,
                "word_difference": round(sample.word_difference, 4),
                "bound": sample.bound,
            },
            "problems": list(self.problems),
            "remarks": list(self.remarks),
        }


def verify(package: Path, progress: Progress, *, sample_bound: float | None = None) -> VerifyResult:
    """Check sums, load the runtime files, and hear the sample again.

    Args:
        package: folder or archive of `moonshine-tune package`.
        sample_bound: words of the sample that may differ, in percent. None: texts must be
            identical on the processor family and runtime version of the recorded ones, and may
            differ by 10 % elsewhere.

    Raises:
        RequestError: there is no package, or the archive reaches outside of its folder.
        MachineError: the runtime does not load on this machine at all.
    """
    if not package.exists():
        raise RequestError("no such package", where=package)
    if package.is_dir():
        return _verify_folder(package, package, progress, sample_bound, ())
    if archive_kind(package) is None:
        raise RequestError(
            "neither a folder nor an archive",
            where=package,
            hint="name a folder, a .tar.gz or a .zip that `moonshine-tune package` wrote",
        )
    with tempfile.TemporaryDirectory(prefix="moonshine-tune-") as scratch:
        place = Path(scratch)
        progress.say(f"unpacking {package.name}")
        try:
            with disk_errors(place):
                folder = place / unpack(package, place)
                problems = _archive_problems(package, folder)
        except NegativeAnswerError as error:
            return _no(package, str(error))
        return _verify_folder(package, folder, progress, sample_bound, problems)


def _no(package: Path, *problems: str, files: int = 0) -> VerifyResult:
    return VerifyResult(package, package.name, files, None, None, problems, ())


def _archive_problems(archive: Path, folder: Path) -> tuple[str, ...]:
    """Bytes that belong to no file: the archive must be the one that packing gives again.

    Another zlib or Python compresses to other bytes, so elsewhere only the files are checked.
    """
    packed_with = _index(folder).get("packed_with", {})
    here = {"zlib": zlib.ZLIB_RUNTIME_VERSION, "python": platform.python_version()}
    if any(packed_with.get(key) != value for key, value in here.items()):
        return ()
    kind = archive_kind(archive) or ""
    if packed_sha256(folder, kind, folder.name) == sha256_of(archive):
        return ()
    return (f"{archive.name}: the archive is not as it was packed",)


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / PACKAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _verify_folder(
    package: Path,
    folder: Path,
    progress: Progress,
    sample_bound: float | None,
    found_before: tuple[str, ...],
) -> VerifyResult:
    if not (folder / SUMS_FILE).is_file():
        if (folder / PACKAGE_FILE).is_file():
            return _no(package, f"{SUMS_FILE}: missing")
        raise RequestError(
            f"not a package: it has no {SUMS_FILE}",
            where=package,
            hint="make one with: moonshine-tune package --run runs/a --runtime-dir D --out P",
        )
    try:
        sums = read_sums(folder)
    except NegativeAnswerError as error:
        return _no(package, str(error))
    # The files first: they say more than that the archive around them differs.
    problems = _file_problems(folder, sums, progress) + list(found_before)
    if problems:
        return _no(package, *problems, files=len(sums) + 1)
    remarks: list[str] = []
    loads, sample = _try_model(folder, progress, sample_bound, problems, remarks)
    return VerifyResult(
        package,
        str(_index(folder).get("name", package.name)),
        len(sums) + 1,
        loads,
        sample,
        tuple(problems),
        tuple(remarks),
    )


def _file_problems(folder: Path, sums: dict[str, str], progress: Progress) -> list[str]:
    present = set(files_below(folder)) - {SUMS_FILE}
    problems = []
    with progress.stage("checking sums", len(sums)) as stage:
        for name in sorted(set(sums) | present):
            path = folder / name
            if name not in present:
                problems.append(f"{name}: missing")
            elif name not in sums:
                problems.append(f"{name}: not listed in {SUMS_FILE}")
            elif path.is_symlink():
                problems.append(f"{name}: a link, not a file")
            elif sha256_of(path) != sums[name]:
                problems.append(f"{name}: not the recorded content")
            stage.advance()
    return problems


def _try_model(
    folder: Path,
    progress: Progress,
    sample_bound: float | None,
    problems: list[str],
    remarks: list[str],
) -> tuple[bool, SampleResult | None]:
    """Load the runtime files and hear the sample; adds to `problems` and `remarks`."""
    try:
        read_layout(folder / "runtime")
        with RuntimeTranscriber(folder / "runtime") as runtime:
            if not (folder / SAMPLE_FILE).is_file():
                remarks.append("no sample in it: the model was loaded, but heard nothing")
                return True, None
            sample = _hear_sample(folder, runtime, progress, sample_bound)
    except RequestError as error:
        problems.append(_told(folder, error))
        return False, None
    except (ValueError, KeyError, TypeError) as error:
        # The sums hold, so it was packed like this: by another program, or another version.
        problems.append(f"{SAMPLE_FILE}: cannot be read ({error!r})")
        return True, None
    if sample.first_difference is not None:
        clip, recorded, heard = sample.first_difference
        text = f"{clip}: recorded “{recorded}”, heard “{heard}”"
        if sample.passed:
            remarks.append(
                f"{text}; {sample.word_difference:.1f} % of the words differ, within the "
                f"{sample.bound:g} % allowed on another kind of machine"
            )
        else:
            problems.append(text)
    return True, sample


def _told(folder: Path, error: TuneError) -> str:
    """The error, with the place inside the package instead of a scratch folder's path."""
    where = (error.where or "").replace(f"{folder}/", "").replace(str(folder), "")
    return f"{where or 'runtime'}: {error.message}"


def _hear_sample(
    folder: Path, runtime: RuntimeTranscriber, progress: Progress, bound: float | None
) -> SampleResult:
    path = folder / SAMPLE_FILE
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    here = (platform.machine(), package_version("moonshine-voice"))
    alike = all((record["arch"], record["moonshine_voice"]) == here for record in records)
    counts = ErrorCounts()
    first: tuple[str, str, str] | None = None
    identical = 0
    normalizer = normalizer_for("basic-1")
    with progress.stage("hearing the sample", len(records)) as stage:
        for record in records:
            heard = runtime.transcribe([load_audio(path.parent / Path(record["audio"]).name)])[0]
            if heard == record["heard"]:
                identical += 1
            elif first is None:
                first = (f"sample/{record['audio']}", record["heard"], heard)
            counts += score_utterance(record["id"], record["heard"], heard, normalizer).words
            stage.advance()
    if bound is None:
        bound = 0.0 if alike else _BOUND_ELSEWHERE
    return SampleResult(len(records), identical, counts.rate, bound, first)
