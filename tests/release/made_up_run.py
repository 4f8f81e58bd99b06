"""A made-up run with everything that `package` reads, and a runtime without a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.audio.io import write_audio
from moonshine_tune.core.files import sha256_of
from moonshine_tune.release.inputs import PackageRequest
from moonshine_tune.runtime.layout import STREAMING_FILES

PRIVATE_TEXT = "the patient is called Rumpelstiltskin"


class FakeRuntime:
    """A runtime whose transcripts give the number of samples."""

    backend = "runtime"

    def __init__(self, runtime_dir: Path) -> None:
        assert (runtime_dir / "tokenizer.bin").is_file()

    def transcribe(self, clips: list[Any]) -> list[str]:
        return [f"it counted {len(clip)} samples" for clip in clips]

    def __enter__(self) -> "FakeRuntime":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_manifest(folder: Path, name: str, clips: int) -> Path:
    lines = []
    for number in range(clips):
        audio = folder / "audio" / f"{name}-{number}.wav"
        tone = 0.1 * np.sin(np.arange(8000 + 160 * number) / 9)
        write_audio(audio, tone.astype(np.float32))
        lines.append(
            {"id": f"{name}{number}", "audio": f"audio/{audio.name}", "text": PRIVATE_TEXT,
             "speaker": f"Ms Private {number}", "duration": 0.5 + 0.01 * number}
        )  # fmt: skip
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


class MadeUpRun:
    """A finished run with everything that `package` reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.test = write_manifest(folder, "test", 5)
        manifests = {
            role: write_manifest(folder, role, n) for role, n in (("train", 7), ("dev", 2))
        }
        self.run, self.runtime = folder / "run", folder / "exported"
        self.evaluation, self.base_evaluation = folder / "adapted", folder / "base"
        self.benchmark = folder / "bench"
        base = {
            "name": "streaming-tiny",
            "family": "streaming",
            "source": "cache",
            "sha256": "ba5e",
        }
        (self.run / "adapter").mkdir(parents=True)
        (self.run / "adapter" / "adapter_model.safetensors").write_bytes(bytes(range(256)))
        write_json(
            self.run / "adapter" / "adapter_config.json",
            {"r": 8, "base_model_name_or_path": str(folder / "models" / "my-base")},
        )
        write_json(self.run / "adapter" / "base_model.json", base)
        settings: dict[str, Any] = {
            "model": "streaming-tiny",
            "data": {"train": str(manifests["train"]), "dev": str(manifests["dev"]),
                     "normalizer": "basic-1", "max_clip_s": 30.0},
            "adapter": {"rank": 8, "sites": "decoder"},
            "train": {"steps": 100, "learning_rate": 3e-4},
        }  # fmt: skip
        candidates = {
            "baseline": {"step": 0, "dev_wer": 40.0, "canary_wer": 10.0},
            "best": {"step": 50, "dev_wer": 12.5, "canary_wer": 11.25},
        }
        self.record: dict[str, Any] = {
            "schema_version": 1, "command": ["moonshine-tune", "train", str(folder)],
            "created": "2026-01-01T00:00:00+00:00", "settings": settings,
            "sources": {"model": "flag"}, "base": base, "device": {"name": "cpu", "reason": "-"},
            "data": {role: sha256_of(path) for role, path in manifests.items()},
            "remarks": [f"{folder} was read"], "status": "finished", "seed": 0,
            "versions": {"python": "3.11.7", "moonshine-tune": "0.1.0", "torch": "2.13.0+cpu"},
            "platform": {"system": "Linux", "release": "kernel-of-mine", "arch": "x86_64"},
            "result": candidates | {"canary_held": True},
        }  # fmt: skip
        self.save_run()
        self.runtime.mkdir()
        for name in STREAMING_FILES:
            (self.runtime / name).write_bytes(name.encode() * 50)
        write_json(self.runtime / "streaming_config.json", {"encoder_dim": 320})
        self.sums = {name: sha256_of(self.runtime / name) for name in STREAMING_FILES}
        self.save_export(passed=True)
        punctuation = {"value": 64.25, "ci95": [60.5, 70.5], "counted": 9, "out_of": 14,
                       "unit": "%", "better": "lower"}  # fmt: skip
        score = {"wer": 12.0, "cer": 3.0, "ci95": [10.0, 14.0], "utterances": 5, "backend": "torch",
                 "reference_words": 35, "normalizer": "basic-1", "model": "streaming-tiny",
                 "manifest_sha256": sha256_of(self.test), "adapter": "run",
                 "by_speaker": {"Ms Private 1": 12.0},
                 "metrics": {"punctuation_error_rate": punctuation},
                 "worst": [{"id": "test1", "reference": PRIVATE_TEXT}]}  # fmt: skip
        write_json(self.evaluation / "result.json", score)
        base_metrics = {"punctuation_error_rate": punctuation | {"value": 12.5}}
        write_json(
            self.base_evaluation / "result.json",
            score | {"wer": 41.5, "adapter": None, "metrics": base_metrics},
        )
        self.save_benchmark(self.sums)

    def save_run(self) -> None:
        write_json(self.run / "run.json", self.record)

    def save_export(self, *, passed: bool, **more: Any) -> None:
        parity = {"passed": passed, "word_difference": 1.25, "bound": 5.0, "clips": 9,
                  "identical": 8, "words": 80, "examples": [[PRIVATE_TEXT, "x"]]}  # fmt: skip
        record = {"method": "graft", "sha256": self.sums, "parity": parity,
                  "base": self.record["base"]}  # fmt: skip
        write_json(self.runtime / "export.json", record | more)

    def save_benchmark(self, sums: dict[str, str]) -> None:
        times = {"median": 43.0, "p95": 61.0, "max": 77.0}
        files = [{"name": n, "bytes": 10, "sha256": digest} for n, digest in sums.items()]
        record = {"runtime_dir": "exported", "machine": {"chip": "Apple M3"}, "clips": 5,
                  "latency_ms": times, "load_ms": times, "rtf": 0.02, "rounds": 4,
                  "by_length": [{"from_s": 5.0, "to_s": None, "clips": 5, "latency_ms": times}],
                  "memory_mb": {"peak": 321.0}, "files": files, "total_bytes": 5_000_000,
                  "manifest_sha256": sha256_of(self.test), "wer": None}  # fmt: skip
        write_json(self.benchmark / "benchmark.json", record)

    def request(self, **changed: Any) -> PackageRequest:
        given: dict[str, Any] = {
            "run": self.run, "runtime_dir": self.runtime, "evaluations": (self.evaluation,),
            "base_evaluations": (self.base_evaluation,), "benchmark": self.benchmark,
            "sample": self.test,
        }  # fmt: skip
        return PackageRequest(**(given | changed))
