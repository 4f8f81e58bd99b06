"""Whether a package is complete, and whether its model gives the recorded transcripts here."""

import platform
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.audio.io import load_audio
from moonshine_tune.core.bounded_files import read_bounded
from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import disk_errors, sha256_of
from moonshine_tune.core.json_text import parse_json_object
from moonshine_tune.core.machine_errors import little_memory_error, machine_error
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import package_version
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import ErrorCounts, score_utterance
from moonshine_tune.release.archive import (
    PACKAGE_FILE,
    SAMPLE_FILE,
    SUMS_FILE,
    files_below,
    is_archive_name,
    pack,
    read_sums,
    unpack,
)
from moonshine_tune.runs.records import NOT_DECIDED, ExportRecord, PackageRecord
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

# 8-bit sums differ between processor families in the last digit, which can change a word.
_BOUND_ELSEWHERE = 10.0
_MAX_SAMPLE_BYTES = 1_000_000
# What the runtime's library takes before it has loaded any file.
_LOADED_BYTES = 300_000_000


@dataclass(frozen=True)
class SampleResult:
    """The sample transcribed again.

    Attributes:
        passed: the transcripts are the same, within the bound.
        identical: clips with the recorded transcript.
        word_difference: words that differ, in percent.
        bound: the most that may differ, in percent.
    """

    passed: bool
    clips: int
    identical: int
    word_difference: float
    bound: float


@dataclass(frozen=True)
class VerifyResult:
    """The answer; the JSON document of `verify`.

    Attributes:
        passed: the package is complete, and its model works here.
        problems: in the order of the checks; the first names the cause.
    """

    passed: bool
    package: Path
    name: str
    files: int = 0
    runtime_loads: bool | None = None
    sample: SampleResult | None = None
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def verify(package: Path, progress: Progress, *, sample_bound: float | None = None) -> VerifyResult:
    """Check sums, load the runtime files, and transcribe the sample again.

    Args:
        package: folder or archive of `moonshine-tune package`.
        sample_bound: words of the sample that may differ, in percent. None: transcripts must be
            identical on the processor family and runtime version of the recorded ones, and may
            differ by 10 % elsewhere.

    Raises:
        RequestError: there is no package, or the archive reaches outside of its folder.
        MachineError: the runtime does not load on this machine at all, or memory is too short.
    """
    if not package.exists():
        raise RequestError("no such package", where=package)
    if not package.is_dir() and not is_archive_name(package):
        raise RequestError(
            "neither a folder nor a .tar.gz archive",
            where=package,
            hint="name a folder or a .tar.gz that `moonshine-tune package` wrote",
        )
    try:
        if package.is_dir():
            return _verify_folder(package, package, progress, sample_bound)
        with tempfile.TemporaryDirectory(prefix="moonshine-tune-") as scratch:
            progress.say(f"unpacking {package.name}")
            unpacked, repacked = Path(scratch) / "unpacked", Path(scratch) / "repacked"
            with disk_errors(unpacked):
                unpacked.mkdir()
                folder = unpack(package, unpacked)
                problems = _archive_problems(package, folder, repacked)
            return _verify_folder(package, folder, progress, sample_bound, problems)
    except NegativeAnswerError as error:
        return VerifyResult(False, package, package.name, problems=(str(error),))


def _archive_problems(archive: Path, folder: Path, repacked: Path) -> list[str]:
    """Bytes that belong to no file: packing the files again must give the same archive.

    Another zlib or Python compresses to other bytes, so elsewhere only the files are checked.
    """
    packed_with = _package_record(folder).packed_with
    here = {"zlib": zlib.ZLIB_RUNTIME_VERSION, "python": platform.python_version()}
    if any(packed_with.get(key) != value for key, value in here.items()):
        return []
    pack(folder, folder.name, repacked)
    if sha256_of(repacked) == sha256_of(archive):
        return []
    return [f"{archive.name}: the archive is not as it was packed"]


def _package_record(folder: Path) -> PackageRecord:
    try:
        return PackageRecord.read(folder / PACKAGE_FILE)
    except RequestError:
        return PackageRecord()


def _verify_folder(
    package: Path,
    folder: Path,
    progress: Progress,
    sample_bound: float | None,
    archive_problems: Sequence[str] = (),
) -> VerifyResult:
    if not (folder / SUMS_FILE).is_file() and not (folder / PACKAGE_FILE).is_file():
        raise RequestError(
            f"not a package: it has no {SUMS_FILE}",
            where=package,
            hint="make one with: moonshine-tune package --run runs/a --runtime-dir D --out P",
        )
    sums = read_sums(folder)
    # The files first: they say more than that the archive around them differs.
    problems = [*_file_problems(folder, sums, progress), *archive_problems]
    remarks: list[str] = []
    loads, sample = None, None
    if not problems:
        loads, sample = _try_model(folder, progress, sample_bound, problems, remarks)
        remarks += _parity_remarks(folder)
    return VerifyResult(
        passed=not problems,
        package=package,
        name=_package_record(folder).name or package.name,
        files=len(sums) + 1,
        runtime_loads=loads,
        sample=sample,
        problems=tuple(problems),
        remarks=tuple(remarks),
    )


def _parity_remarks(folder: Path) -> list[str]:
    """What the export's record says, where that is not that the files are the trained model."""
    try:
        parity = ExportRecord.read(folder / "runtime" / "export.json").parity
    except RequestError:
        # Files that were not exported by this program have none.
        return []
    if parity.passed is False:
        return ["its export failed the parity gate: it is worse than the trained model"]
    if parity.verdict == NOT_DECIDED:
        return ["its export's parity was not decided: there were too few clips"]
    return []


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
            elif not path.is_file():
                problems.append(f"{name}: not a file")
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
    """Load the runtime files and transcribe the sample; adds to `problems` and `remarks`."""
    try:
        read_layout(folder / "runtime")
        with RuntimeTranscriber(folder / "runtime") as runtime:
            if not (folder / SAMPLE_FILE).is_file():
                remarks.append("no sample in it: the model was loaded, but transcribed nothing")
                return True, None
            sample, difference = _transcribe_sample(folder, runtime, progress, sample_bound)
    except RequestError as error:
        # The sums hold, so a model that does not load may be a matter of this machine alone.
        needed = _LOADED_BYTES + 4 * sum(
            path.stat().st_size for path in (folder / "runtime").iterdir()
        )
        if short := machine_error(error) or little_memory_error(error, needed):
            raise short from error
        # The path inside the package instead of a scratch folder's.
        where = (error.where or "").replace(f"{folder}/", "").replace(str(folder), "")
        problems.append(f"{where or 'runtime'}: {error.message}")
        return False, None
    except (ValueError, KeyError, TypeError) as error:
        # The sums hold, so it was packed like this: by another program, or another version.
        problems.append(f"{SAMPLE_FILE}: cannot be read ({error!r})")
        return True, None
    if difference and sample.passed:
        remarks.append(
            f"{difference}; {sample.word_difference:.1f} % of the words differ, within the "
            f"{sample.bound:g} % allowed on another kind of machine"
        )
    elif difference:
        problems.append(difference)
    return True, sample


def _transcribe_sample(
    folder: Path, runtime: RuntimeTranscriber, progress: Progress, bound: float | None
) -> tuple[SampleResult, str]:
    """The result, and the first transcript that differs, or nothing."""
    path = folder / SAMPLE_FILE
    text = read_bounded(path, _MAX_SAMPLE_BYTES).decode("utf-8")
    records = [parse_json_object(line) for line in text.splitlines()]
    if bound is None:
        here = (platform.machine(), package_version("moonshine-voice"))
        recorded_on = {(record["arch"], record["moonshine_voice"]) for record in records}
        bound = 0.0 if recorded_on <= {here} else _BOUND_ELSEWHERE
    counts = ErrorCounts()
    differences: list[str] = []
    normalizer = normalizer_for("basic-1")
    with progress.stage("transcribing the sample", len(records)) as stage:
        for record in records:
            audio, recorded = Path(record["audio"]).name, record["heard"]
            hypothesis = runtime.transcribe([load_audio(path.parent / audio)])[0]
            if hypothesis != recorded:
                differences.append(
                    f"sample/{audio}: recorded “{recorded}”, transcribed as “{hypothesis}”"
                )
            counts += score_utterance(record["id"], recorded, hypothesis, normalizer).words
            stage.advance()
    result = SampleResult(
        # A bound of 0 also forbids differences that the normalizer hides.
        passed=counts.rate <= bound and (bound > 0 or not differences),
        clips=len(records),
        identical=len(records) - len(differences),
        word_difference=round(counts.rate, 4),
        bound=bound,
    )
    return result, differences[0] if differences else ""
