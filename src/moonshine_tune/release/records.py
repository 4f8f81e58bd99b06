"""What of a run's records may be published: a list of what is taken, never of what is left out.

No path, transcript, speaker or host fact passes through here.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.corpus.manifest import read_manifest, seconds_of
from moonshine_tune.release.archive import files_below

MANIFEST_ROLES = ("train", "dev", "replay", "canary")
_RUN_KEYS = ("schema_version", "created", "sources", "device", "dtype", "normalizer", "data",
             "seed", "status", "versions", "git", "result")  # fmt: skip
_EVALUATION_KEYS = ("wer", "cer", "substitutions", "deletions", "insertions", "reference_words",
                    "utterances", "audio_seconds", "rtf", "normalizer", "ci95", "backend",
                    "manifest_sha256", "base", "comparison", "keyterms")  # fmt: skip
_PARITY_KEYS = ("passed", "word_difference", "bound", "clips", "identical", "words")
_EXPORT_KEYS = ("method", "matrices", "changed", "changed_files", "worst_step_error", "sha256",
                "adapter_sha256", "quantize", "calibrated", "calibrate", "rounding", "windows",
                "versions")  # fmt: skip
_BENCHMARK_KEYS = ("schema_version", "manifest_sha256", "clips", "audio_seconds", "rounds",
                   "warm_up_clips", "machine", "versions", "family", "load_ms", "load_processes",
                   "latency_ms", "rtf", "by_length", "stream", "memory_mb", "files", "total_bytes",
                   "wer", "keyterms", "ratios", "same_text_clips", "wer_comparison")  # fmt: skip
_BASE_KEYS = ("family", "source", "revision", "sha256")
_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "APIKEY",
                 "ACCESS_KEY", "PRIVATE_KEY")  # fmt: skip
_SHORTEST_SECRET = 8
_CHUNK = 1 << 22


def read_json(path: Path, *, hint: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        RequestError: missing or unreadable; the hint says which command makes it.
    """
    if not path.is_file():
        raise RequestError("no such file", where=path, hint=hint)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot be read: {error}", where=path, hint=hint) from error
    if not isinstance(record, dict):
        raise RequestError("not a JSON object", where=path, hint=hint)
    return record


def public_name(name: object) -> str:
    """A model's name as it may be published: of a path on this machine only the last part."""
    text = str(name)
    local = Path(text).is_absolute() or text.startswith(("~", ".")) or "\\" in text
    if local or (os.sep in text and Path(text).exists()):
        return Path(text.replace("\\", "/")).name
    return text


def public_base(base: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the base model."""
    return {"name": public_name(base.get("name", "unknown"))} | _taken(base, _BASE_KEYS)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Resolved settings; manifests are named by their role only."""
    result = {key: value for key, value in settings.items() if key not in ("model", "data")}
    data = {
        key: value for key, value in settings.get("data", {}).items() if key not in MANIFEST_ROLES
    }
    named = {"model": settings.get("model", "tiny"), "data": data} | result
    return {key: _without_paths(value) for key, value in named.items()}


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return public_name(value) if isinstance(value, str | Path) else value


def public_run(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a training run."""
    result = _taken(record, _RUN_KEYS)
    result["base"] = public_base(record.get("base", {}))
    result["settings"] = public_settings(record.get("settings", {}))
    system = record.get("platform", {})
    result["platform"] = _taken(system, ("system", "arch"))
    result["adapter"] = record.get("adapter", {})
    return result


def public_export(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an export, without the clips' transcripts."""
    result = _taken(record, _EXPORT_KEYS)
    result["parity"] = _taken(record.get("parity", {}), _PARITY_KEYS)
    result["base"] = public_base(record.get("base", {}))
    return result


def public_evaluation(record: Mapping[str, Any]) -> dict[str, Any]:
    """The score of an evaluation, without utterances and speakers."""
    result: dict[str, Any] = {"model": public_name(record.get("model", "unknown"))}
    adapter = record.get("adapter")
    result["adapter"] = public_name(adapter) if adapter else None
    return result | _taken(record, _EVALUATION_KEYS)


def public_benchmark(record: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement; of the folder that it was compared with, the figures."""
    result = _taken(record, _BENCHMARK_KEYS)
    other = record.get("other")
    result["other"] = None if not other else _taken(other, _BENCHMARK_KEYS)
    return result


def _taken(record: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: record[key] for key in keys if key in record}


def manifest_record(role: str, digest: str | None, path: object) -> dict[str, Any]:
    """Fingerprint of a manifest, with its counts where the very same file is still there."""
    record: dict[str, Any] = {"role": role, "sha256": digest}
    file = Path(str(path)) if path else None
    if file is None or not file.is_file():
        return record
    try:
        manifest = read_manifest(file, require_text=False, check_files=False)
    except RequestError:
        # It has changed since: the fingerprint alone is what can be said.
        return record
    if digest not in (None, manifest.sha256):
        return record
    speakers = {item.speaker for item in manifest.utterances if item.speaker}
    record["sha256"] = manifest.sha256
    record["utterances"] = len(manifest)
    record["with_text"] = sum(item.text is not None for item in manifest.utterances)
    seconds = seconds_of(manifest.utterances)
    record["seconds"] = round(seconds, 1) if seconds else None
    record["speakers"] = len(speakers) or None
    return record


def refuse_secrets(folder: Path) -> None:
    """Look through every file for this machine's home folder and the environment's secrets.

    The records above take nothing of the kind; this guards what is copied as it is, and what a
    person wrote into a setting.

    Raises:
        ProblemsError: one is found; its value is not shown.
    """
    wanted = {
        value.encode(): f"the value of {name}"
        for name, value in os.environ.items()
        if any(word in name.upper() for word in _SECRET_WORDS) and len(value) >= _SHORTEST_SECRET
    }
    home = str(Path.home())
    if len(home) > 1:
        wanted[(home + os.sep).encode()] = "the path of your home folder"
    problems = [
        f"{name} holds {what}"
        for name in files_below(folder)
        for what in _found_in(folder / name, wanted)
    ]
    if problems:
        raise ProblemsError(
            "nothing was packed: this would publish what is private",
            problems,
            hint="look where these words come from (a setting, a name), and remove them there",
        )


def _found_in(path: Path, wanted: Mapping[bytes, str]) -> list[str]:
    found: dict[str, None] = {}
    overlap = max((len(word) for word in wanted), default=1)
    tail = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            window = tail + chunk
            found |= {what: None for word, what in wanted.items() if word in window}
            tail = window[-overlap:]
    return list(found)
