"""One folder or archive to ship: files, model card, proofs, and how to make them again.

Layout: README.md (the card) · runtime/ (with export.json) · adapter/ · run.json · manifests.json ·
evaluation/NAME.json · benchmark.json · sample/ · aliases/ · reproduce/ · package.json · SHA256SUMS.
The same inputs give the same bytes.
"""

import os
import platform
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import load_audio, load_utterance, write_audio
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import (
    complete_file,
    complete_folder,
    holds_out,
    read_json,
    sha256_of,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.provenance import package_version, versions
from moonshine_tune.core.scratch import new_scratch
from moonshine_tune.core.secrets import secret_variables
from moonshine_tune.corpus.aliases import ALIAS_CODE
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.release.archive import (
    PACKAGE_FILE,
    SAMPLE_FILE,
    SUMS_FILE,
    archive_stem,
    files_below,
    is_archive_name,
    pack,
    write_sums,
)
from moonshine_tune.release.documents import model_card, reproduce_files
from moonshine_tune.release.inputs import (
    PackageInputs,
    PackageRequest,
    gather_inputs,
    public_base,
    public_name,
)
from moonshine_tune.runs.records import AliasesRecord, BaseModelRecord, PackageRecord
from moonshine_tune.runtime import transcriber as runtime_transcriber

SCHEMA_VERSION = 1
_BASE_FILE = "base_model.json"


@dataclass(frozen=True)
class PackageResult:
    """What was written; the JSON document of `package`.

    Attributes:
        sha256: of the archive, or of SHA256SUMS in a folder.
        missing: parts that were not given; the card says so.
        remarks: what a reader of the package must know; the card says it too.
    """

    package: Path
    name: str
    files: int
    bytes: int
    sha256: str
    sample_clips: int
    missing: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@holds_out(lambda request, out, progress: out)
def package(request: PackageRequest, out: Path, progress: Progress) -> PackageResult:
    """Write the package to `out`: an archive if it ends in .tar.gz or .tgz, else a folder.

    Raises:
        RequestError: inputs are missing, do not belong together, or hold something private.
        NegativeAnswerError: the runtime files failed the parity gate or were changed since.
    """
    if os.path.lexists(out):
        raise RequestError(
            "the output path exists", where=out, hint="choose another --out, or remove it first"
        )
    is_archive = is_archive_name(out)
    name = archive_stem(out.absolute())
    inputs = gather_inputs(request)
    with ExitStack() as stack:
        if is_archive:
            written = stack.enter_context(complete_file(out))
            folder = stack.enter_context(new_scratch(out, is_folder=True))
        else:
            written = folder = stack.enter_context(complete_folder(out))
        _write_files(inputs, folder, name, progress)
        names = files_below(folder)
        num_bytes = sum((folder / item).stat().st_size for item in names)
        if is_archive:
            progress.say(f"packing {out.name}")
            pack(folder, name, written)
        digest = sha256_of(written if is_archive else folder / SUMS_FILE)
    parts = {
        "evaluation": inputs.evaluations or inputs.base_evaluations,
        "benchmark": inputs.benchmark,
        "export.json": inputs.export,
        "sample": inputs.sample,
    }
    return PackageResult(
        package=out,
        name=name,
        files=len(names),
        bytes=num_bytes,
        sha256=digest,
        sample_clips=len(inputs.sample),
        missing=tuple(part for part, content in parts.items() if not content),
        remarks=(inputs.altered,) if inputs.altered else (),
    )


def _write_files(inputs: PackageInputs, folder: Path, name: str, progress: Progress) -> None:
    """Write all files, refuse what is private, and seal the folder with SHA256SUMS."""
    for file in inputs.runtime_sha256:
        _copy(inputs.layout.folder / file, folder / "runtime" / file)
    if inputs.export is not None:
        inputs.export.write(folder / "runtime" / "export.json")
    _copy_adapter(inputs.adapter_dir, folder / "adapter")
    if inputs.aliases is not None:
        _write_aliases(inputs.aliases, folder / "aliases")
    if inputs.sample:
        _write_sample(inputs.sample, folder, progress)
    inputs.run.write(folder / "run.json")
    write_json_atomic(folder / "manifests.json", [each.to_json() for each in inputs.manifests])
    for of, records in ("adapted", inputs.evaluations), ("base", inputs.base_evaluations):
        for title, record in records.items():
            write_json_atomic(
                folder / "evaluation" / f"{title}.json", {"of": of} | record.to_json()
            )
    if inputs.benchmark is not None:
        inputs.benchmark.write(folder / "benchmark.json")
    for title, text in reproduce_files(inputs).items():
        write_text_atomic(folder / "reproduce" / title, text)
    architecture = runtime_transcriber.arch_name(inputs.layout)
    write_text_atomic(folder / "README.md", model_card(inputs, name, architecture))
    PackageRecord(
        schema_version=SCHEMA_VERSION,
        name=name,
        base=inputs.run.base,
        family=inputs.layout.family,
        sample_clips=len(inputs.sample),
        evaluations=sorted(inputs.evaluations | inputs.base_evaluations),
        packed_with=versions() | {"zlib": zlib.ZLIB_RUNTIME_VERSION},
    ).write(folder / PACKAGE_FILE)
    _refuse_secrets(folder)
    write_sums(folder)


def _write_aliases(aliases: AliasesRecord, folder: Path) -> None:
    """Write the table, and how to apply it in three languages, with texts to test with."""
    aliases.write(folder / "aliases.json")
    code = resources.files("moonshine_tune.corpus.aliases")
    for name in ALIAS_CODE:
        write_text_atomic(folder / name, (code / name).read_text(encoding="utf-8"))


def _copy_adapter(source: Path, target: Path) -> None:
    _copy(source / ADAPTER_WEIGHTS_FILE, target / ADAPTER_WEIGHTS_FILE)
    config = read_json(source / ADAPTER_CONFIG_FILE, hint="train again")
    if config.get("base_model_name_or_path"):
        config["base_model_name_or_path"] = public_name(config["base_model_name_or_path"])
    write_json_atomic(target / ADAPTER_CONFIG_FILE, config)
    if (source / _BASE_FILE).is_file():
        public_base(BaseModelRecord.read(source / _BASE_FILE)).write(target / _BASE_FILE)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _write_sample(clips: Sequence[Utterance], folder: Path, progress: Progress) -> None:
    """Write the clips under neutral names, with the packed runtime's transcripts of them."""
    records: list[dict[str, Any]] = []
    with (
        runtime_transcriber.RuntimeTranscriber(folder / "runtime") as runtime,
        progress.stage("sample", len(clips)) as stage,
    ):
        for number, utterance in enumerate(clips, start=1):
            path = folder / "sample" / f"clip-{number}.wav"
            write_audio(path, load_utterance(utterance))
            # Read back: the transcript must belong to the packed 16-bit file, not to its source.
            hypothesis = runtime.transcribe([load_audio(path)])[0]
            records.append({
                "id": path.stem, "audio": path.name, "heard": hypothesis,
                "arch": platform.machine(), "moonshine_voice": package_version("moonshine-voice"),
            })  # fmt: skip
            stage.advance()
    write_jsonl_atomic(folder / SAMPLE_FILE, records)


# --- a last look for what must stay on this machine


def _refuse_secrets(folder: Path) -> None:
    """Search every file for this machine's home folder and the environment's secrets.

    Public records take nothing of the kind; this guards what is copied as it is, and what a person
    wrote into a setting.

    Raises:
        ProblemsError: something private is in a file; its value is not shown.
    """
    private = {
        value.encode("utf-8", "surrogateescape"): f"the value of {name}"
        for value, name in secret_variables().items()
    }
    home = str(Path.home())
    if len(home) > 1:
        private[(home + os.sep).encode()] = "the path of your home folder"
    problems = [
        f"{name} holds {description}"
        for name in files_below(folder)
        for description in _search(folder / name, private)
    ]
    if problems:
        raise ProblemsError(
            "nothing was packed: this would publish private data",
            problems,
            hint="find where these words come from (a setting, a name), and remove them there",
        )


def _search(path: Path, private: Mapping[bytes, str]) -> list[str]:
    if path.stat().st_size == 0:
        return []
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return [text for value, text in private.items() if content.find(value) >= 0]
