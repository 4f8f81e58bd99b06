"""One folder or archive to ship: files, model card, proofs, and how to make them again.

Layout: README.md (the card) · runtime/ (with export.json) · adapter/ · run.json · manifests.json ·
evaluation/NAME.json · benchmark.json · sample/ · reproduce/ · package.json · SHA256SUMS.
The same inputs give the same bytes.
"""

import platform
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune import __version__
from moonshine_tune.audio.io import load_audio, load_utterance, write_audio
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import (
    complete_folder,
    disk_errors,
    sha256_of,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import package_version, versions
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.release.archive import (
    SUMS_FILE,
    archive_kind,
    archive_stem,
    files_below,
    pack,
    write_sums,
)
from moonshine_tune.release.inputs import (
    PackageInputs,
    PackageRequest,
    gather_inputs,
)
from moonshine_tune.release.model_card import CardFacts, model_card
from moonshine_tune.release.records import (
    public_base,
    public_name,
    read_json,
    refuse_secrets,
)
from moonshine_tune.release.reproduce import FOLDER as REPRODUCE_FOLDER
from moonshine_tune.release.reproduce import ReproduceFacts, reproduce_files
from moonshine_tune.runtime import transcriber as runtime_transcriber

SCHEMA_VERSION = 1
PACKAGE_FILE = "package.json"
SAMPLE_FILE = "sample/sample.jsonl"
_BASE_FILE = "base_model.json"


@dataclass(frozen=True)
class PackageResult:
    """What was written."""

    path: Path
    name: str
    files: int
    bytes: int
    sha256: str
    sample_clips: int
    missing: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `package`. `sha256` is of the archive, or of SHA256SUMS."""
        return {
            "package": str(self.path),
            "name": self.name,
            "files": self.files,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "sample_clips": self.sample_clips,
            "missing": list(self.missing),
        }


def package(request: PackageRequest, out: Path, progress: Progress) -> PackageResult:
    """Write the package to `out`: an archive where it ends in .tar.gz, .tgz or .zip, else a folder.

    Raises:
        RequestError: inputs are missing, do not belong together, or hold something private.
        NegativeAnswerError: the runtime files failed the parity gate or were changed since.
    """
    if out.exists():
        raise RequestError(
            "there is something already", where=out, hint="choose another --out, or remove it first"
        )
    kind = archive_kind(out)
    name = archive_stem(out.absolute()) if kind else out.absolute().name
    gathered = gather_inputs(request)
    if kind is None:
        with complete_folder(out) as scratch:
            result = _write(gathered, scratch, name, progress)
            digest = sha256_of(scratch / SUMS_FILE)
        return _result(out, name, digest, result, gathered)
    with (
        disk_errors(out),
        tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-", dir=_made(out.parent)) as place,
    ):
        folder = Path(place) / "package"
        folder.mkdir()
        result = _write(gathered, folder, name, progress)
        progress.say(f"packing {out.name}")
        with (Path(place) / "archive").open("wb") as target:
            pack(folder, kind, name, target)
        digest = sha256_of(Path(place) / "archive")
        (Path(place) / "archive").replace(out)
    return _result(out, name, digest, result, gathered)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _result(
    out: Path, name: str, digest: str, written: tuple[int, int], gathered: PackageInputs
) -> PackageResult:
    given = {
        "evaluation": gathered.evaluations,
        "benchmark": gathered.benchmark,
        "export.json": gathered.export,
        "sample": gathered.sample,
    }
    return PackageResult(
        path=out,
        name=name,
        files=written[0],
        bytes=written[1],
        sha256=digest,
        sample_clips=len(gathered.sample),
        missing=tuple(what for what, found in given.items() if not found),
    )


def _write(gathered: PackageInputs, folder: Path, name: str, progress: Progress) -> tuple[int, int]:
    """Write all files and seal them; returns their number and size in bytes."""
    runtime_sha256 = _copy_runtime(gathered, folder)
    _copy_adapter(gathered.adapter_dir, folder / "adapter")
    if gathered.sample:
        _write_sample(gathered.sample, folder, progress)
    write_json_atomic(folder / "run.json", gathered.run)
    write_json_atomic(folder / "manifests.json", list(gathered.manifests))
    for title, record in gathered.evaluations.items():
        write_json_atomic(folder / "evaluation" / f"{title}.json", record)
    if gathered.benchmark:
        write_json_atomic(folder / "benchmark.json", gathered.benchmark)
    facts = ReproduceFacts(
        run=gathered.run,
        adapter_sha256=sha256_of(folder / "adapter" / ADAPTER_WEIGHTS_FILE),
        runtime_sha256=runtime_sha256,
        evaluations=gathered.evaluations,
        benchmark=gathered.benchmark,
        export=gathered.export,
    )
    for title, text in reproduce_files(facts).items():
        path = folder / REPRODUCE_FOLDER / title
        write_text_atomic(path, text)
        if path.suffix == ".sh":
            path.chmod(0o755)
    write_text_atomic(folder / "README.md", _card(gathered, name))
    write_json_atomic(folder / PACKAGE_FILE, _index(gathered, name))
    refuse_secrets(folder)
    write_sums(folder)
    names = files_below(folder)
    return len(names), sum((folder / item).stat().st_size for item in names)


def _card(gathered: PackageInputs, name: str) -> str:
    return model_card(
        CardFacts(
            name=name,
            arch=runtime_transcriber.arch_name(gathered.layout),
            run=gathered.run,
            export=gathered.export,
            benchmark=gathered.benchmark,
            evaluations=gathered.evaluations,
            manifests=gathered.manifests,
            sample_clips=len(gathered.sample),
            version=__version__,
        )
    )


def _index(gathered: PackageInputs, name: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "base": gathered.run["base"],
        "family": gathered.layout.family,
        "sample_clips": len(gathered.sample),
        "evaluations": sorted(gathered.evaluations),
        "packed_with": versions() | {"zlib": zlib.ZLIB_RUNTIME_VERSION},
    }


def _copy_runtime(gathered: PackageInputs, folder: Path) -> dict[str, str]:
    """Copy what the runtime reads; returns the hashes of the files."""
    layout = gathered.layout
    extra = [path.name for path in sorted(layout.folder.glob("*.ort"))]
    names = list(dict.fromkeys([*layout.files, *extra]))
    (folder / "runtime").mkdir()
    for name in names:
        _copy(layout.folder / name, folder / "runtime" / name)
    if gathered.export is not None:
        write_json_atomic(folder / "runtime" / "export.json", gathered.export)
    return {name: sha256_of(folder / "runtime" / name) for name in names}


def _copy_adapter(source: Path, target: Path) -> None:
    target.mkdir()
    _copy(source / ADAPTER_WEIGHTS_FILE, target / ADAPTER_WEIGHTS_FILE)
    config = read_json(source / ADAPTER_CONFIG_FILE, hint="train again")
    if config.get("base_model_name_or_path"):
        config["base_model_name_or_path"] = public_name(config["base_model_name_or_path"])
    write_json_atomic(target / ADAPTER_CONFIG_FILE, config)
    if (source / _BASE_FILE).is_file():
        base = read_json(source / _BASE_FILE, hint="train again")
        write_json_atomic(target / _BASE_FILE, public_base(base))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _write_sample(clips: Sequence[Utterance], folder: Path, progress: Progress) -> None:
    """Write the clips under names of their own, and what the packed runtime hears in them."""
    records: list[dict[str, Any]] = []
    with (
        runtime_transcriber.RuntimeTranscriber(folder / "runtime") as runtime,
        progress.stage("sample", len(clips)) as stage,
    ):
        for number, utterance in enumerate(clips, start=1):
            title = f"clip-{number}"
            path = folder / "sample" / f"{title}.wav"
            write_audio(path, load_utterance(utterance))
            # Read back: the text must belong to the packed 16-bit file, not to its source.
            heard = runtime.transcribe([load_audio(path)])[0]
            records.append({
                "id": title, "audio": path.name, "heard": heard, "arch": platform.machine(),
                "moonshine_voice": package_version("moonshine-voice"),
            })  # fmt: skip
            stage.advance()
    write_jsonl_atomic(folder / SAMPLE_FILE, records)
