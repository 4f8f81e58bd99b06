"""What is compared with what: the commands of both sides, their data, and the goals."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import soundfile

from benchmarks.fresh import Measured
from benchmarks.random_model import save_random_model
from moonshine_tune.audio.io import load_utterance
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.registry.resolve import ResolvedModel, resolve_model

_PYTHON = sys.executable
_BATCH = 8
_EPOCHS = 3
_DEV_CLIPS = 4


class Workshop:
    """Data and models, made when they are first needed.

    Args:
        out: folder of everything that is made.
        shared: folder of the recordings.
        tools: packages that only the peers need.
        full: the whole corpus instead of a part.
    """

    def __init__(self, out: Path, shared: Path, tools: Path, *, full: bool) -> None:
        self.out, self.tools, self.full = out.absolute(), tools, full
        self._shared = shared
        self.out.mkdir(parents=True, exist_ok=True)

    @cached_property
    def tiny(self) -> ResolvedModel:
        """The real tiny: checkpoint and runtime folder."""
        return resolve_model(
            "tiny", cache=cache_root(), sources=("cache", "wheel"), progress=SilentProgress()
        )

    def streaming(self, name: str) -> Path:
        """A checkpoint of a published shape with random weights."""
        folder = self.out / "models" / name
        if not (folder / "config.json").is_file():
            save_random_model(name, folder)
            for extra in ("tokenizer_config.json", "preprocessor_config.json"):
                source = Path(self.tiny.checkpoint_dir) / extra
                (folder / extra).write_bytes(source.read_bytes())
        return folder

    def forget_run(self, label: str) -> None:
        """Remove what an earlier benchmark wrote under that label: a run is never written over."""
        for name in (label, f"{label}-work"):
            shutil.rmtree(self.out / "runs" / name, ignore_errors=True)

    def clips(self, corpus: str, count: int) -> Path:
        """A manifest of WAV files: every n-th utterance of a corpus, longest span first taken."""
        name = "an4/train.jsonl" if corpus == "an4" else f"{corpus}/manifest.jsonl"
        found = read_manifest(self._shared / name).utterances
        count = len(found) if self.full else min(count, len(found))
        return self._write(f"{corpus}-{count}", list(found[:: len(found) // count][:count]))

    def _write(self, name: str, utterances: list[Utterance]) -> Path:
        folder = self.out / "data" / name
        path = folder / "manifest.jsonl"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            dev = self._clips(folder, "dev-", utterances[-_DEV_CLIPS:])
            (folder / "dev.jsonl").write_text(dev, encoding="utf-8")
            path.write_text(self._clips(folder, "", utterances), encoding="utf-8")
        return path

    @staticmethod
    def _clips(folder: Path, prefix: str, utterances: list[Utterance]) -> str:
        """Recordings in a folder; returns their manifest. Speed is measured here, not a gain."""
        lines = []
        for item in utterances:
            name = f"{prefix}{item.id}"
            soundfile.write(folder / f"{name}.wav", load_utterance(item), 16_000)
            record = {"id": name, "audio": f"{name}.wav", "text": item.text,
                      "speaker": item.speaker or "one"}  # fmt: skip
            lines.append(json.dumps(record) + "\n")
        return "".join(lines)


@dataclass(frozen=True)
class Side:
    """One side: its command, what counts as its time, whether it needs the peers' packages."""

    label: str
    command: Callable[[Workshop, str], list[str]]
    seconds: Callable[[Measured], float]
    needs_tools: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two sides, the goal for the ratio of their times, and how often they are run.

    Attributes:
        least_ratio: peer's time over ours; 0 where the goal is not relative.
        most_memory: our peak memory over the peer's.
        most_seconds: our own time.
    """

    name: str
    what: str
    ours: Side
    peer: Side
    least_ratio: float
    most_memory: float | None = None
    most_seconds: float | None = None
    pairs: int = 5

    @property
    def goal(self) -> str:
        """The goal in words."""
        words = [f"≥ {self.least_ratio:g}"] if self.least_ratio else []
        words += [f"memory ≤ {self.most_memory:g}"] if self.most_memory else []
        words += [f"≤ {self.most_seconds:g} s"] if self.most_seconds else []
        return ", ".join(words)

    def is_met(self, ratio: float, memory: float, seconds: float) -> bool:
        """Whether all goals are met; `seconds` are ours."""
        return (
            ratio >= self.least_ratio
            and memory <= (self.most_memory or float("inf"))
            and seconds <= (self.most_seconds or float("inf"))
        )

    def remarks(self, ours: Measured, peer: Measured) -> Iterator[str]:
        """What else the last pair told."""
        if self.name.startswith("train"):
            yield f"whole processes, start-up included: {ours.seconds:.1f} and {peer.seconds:.1f} s"
        said, heard = ours.told.get("texts"), peer.told.get("texts")
        if said and heard:
            same = sum(a.strip() == b.strip() for a, b in zip(said, heard, strict=True))
            audio = ours.told["audio_seconds"]
            speeds = [audio / run.told["work_seconds"] for run in (ours, peer)]
            yield (
                f"{same} of {len(said)} transcripts the same; "
                f"{speeds[0]:.0f} and {speeds[1]:.0f} times real time"
            )


def _whole(run: Measured) -> float:
    return run.seconds


def _work(run: Measured) -> float:
    return float(run.told["work_seconds"])


def _loop(run: Measured) -> float:
    """Preparation, caches included, and steps."""
    return float(run.told["prepare_seconds"] + run.told["train_seconds"])


def _official_loop(run: Measured) -> float:
    """From its words before the first step to those after the last; it stores nothing before.

    The rate that it prints has one digit behind the point: 0.4 steps/s are 80 or 103 seconds.
    """
    begun = next(second for second, line in run.lines if line.startswith("before training"))
    return next(second for second, line in run.lines if "steps/s" in line) - begun


def _steps(shop: Workshop, manifest: Path) -> int:
    clips = len(manifest.read_text("utf-8").splitlines())
    return clips // _BATCH * _EPOCHS


def _train(
    shop: Workshop, label: str, model: Path, manifest: Path, sites: str, **more: Any
) -> list[str]:
    settings = {
        "adapter.sites": sites, "adapter.rank": 8, "adapter.alpha": 8, "train.batch_size": _BATCH,
        "train.steps": _steps(shop, manifest), "train.learning_rate": 1e-3,
        "select.every_steps": _steps(shop, manifest), "retain.weight": 0,
        "data.shared_speakers": True, **more,
    }  # fmt: skip
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [_PYTHON, "-m", "moonshine_tune", "train", "--model", str(model), "--train",
            str(manifest), "--dev", str(manifest.with_name("dev.jsonl")),
            "--out", str(shop.out / "runs" / label), *given, "--json"]  # fmt: skip


def _official(shop: Workshop, label: str, model: Path, manifest: Path) -> list[str]:
    steps = _steps(shop, manifest)
    return [_PYTHON, "-m", "moonshine_voice.lora", "--train-manifest", str(manifest),
            "--no-replay", "--model", str(model), "--rank", "8", "--batch-size", str(_BATCH),
            "--max-steps", str(steps), "--eval-every", str(steps), "--dev-hours", "0.002",
            "--device", "cpu", "--output-dir", str(shop.out / "runs" / label),
            "--work-dir", str(shop.out / "runs" / f"{label}-work")]  # fmt: skip


def _training(
    name: str, clips: int, goal: float, memory: float | None, pairs: int, frozen: str = "float32"
) -> Comparison:
    def ours(shop: Workshop, label: str) -> list[str]:
        manifest, model = shop.clips("an4", clips), shop.streaming(name)
        kind = {"device.frozen_weights": frozen}
        return _train(shop, label, model, manifest, "decoder-self-attention", **kind)

    def peer(shop: Workshop, label: str) -> list[str]:
        return _official(shop, label, shop.streaming(name), shop.clips("an4", clips))

    in_16_bits = frozen != "float32"
    return Comparison(
        name=f"train-{name}{'-16-bit' if in_16_bits else ''}",
        what=f"steps of {name}, decoder self-attention, {_EPOCHS} epochs, caches included"
        + (f"; frozen weights in {frozen}, the peer's in float32" if in_16_bits else ""),
        ours=Side("ours", ours, _loop),
        peer=Side("official", peer, _official_loop, needs_tools=True),
        least_ratio=goal,
        most_memory=memory,
        pairs=pairs,
    )


def _tiny_training(clips: int) -> Comparison:
    def ours(shop: Workshop, label: str) -> list[str]:
        model = Path(shop.tiny.checkpoint_dir)
        return _train(shop, label, model, shop.clips("an4", clips), "qv")

    def peer(shop: Workshop, label: str) -> list[str]:
        manifest = shop.clips("an4", clips)
        return [_PYTHON, "-m", "benchmarks.peers.plain_peft", str(shop.tiny.checkpoint_dir),
                str(manifest), "--steps", str(_steps(shop, manifest)),
                "--batch-size", str(_BATCH)]  # fmt: skip

    return Comparison(
        name="train-tiny",
        what=f"steps of v1 tiny, q/v everywhere, {_EPOCHS} epochs",
        ours=Side("ours", ours, lambda run: float(run.told["train_seconds"])),
        peer=Side("peft", peer, lambda run: float(run.told["loop_seconds"])),
        least_ratio=1.5,
    )


def _transcription(way: str, what: str, goal: float, clips: int) -> Comparison:
    def side(which: str) -> Callable[[Workshop, str], list[str]]:
        def command(shop: Workshop, label: str) -> list[str]:
            runtime = which == "runtime"
            model = shop.tiny.runtime_dir if runtime else shop.tiny.checkpoint_dir
            return [_PYTHON, "-m", "benchmarks.peers.transcribe", which, str(model),
                    str(shop.clips("librispeech_other", clips))]  # fmt: skip

        return command

    return Comparison(
        name=f"transcribe-{way}",
        what=what,
        ours=Side("ours", side("ours"), _work),
        peer=Side(way, side(way), _work),
        least_ratio=goal,
    )


def _help() -> Comparison:
    def ours(shop: Workshop, label: str) -> list[str]:
        return [_PYTHON, "-m", "moonshine_tune", "--help"]

    def peer(shop: Workshop, label: str) -> list[str]:
        return [_PYTHON, "-m", "moonshine_voice.lora", "--help"]

    return Comparison(
        name="help",
        what="`--help`",
        ours=Side("ours", ours, _whole),
        peer=Side("official", peer, _whole),
        least_ratio=0.0,
        most_seconds=0.3,
    )


COMPARISONS: tuple[Comparison, ...] = (
    _help(),
    _transcription("official", "transcribing with v1 tiny, batch free, official at 16", 2.0, 50),
    _transcription("runtime", "transcribing with v1 tiny, runtime one clip at a time", 3.0, 50),
    _tiny_training(240),
    _training("streaming-tiny", 240, 3.0, None, 5),
    _training("streaming-medium", 96, 4.0, 0.6, 3),
    _training("streaming-tiny", 240, 3.0, None, 5, frozen="bfloat16"),
    _training("streaming-medium", 96, 4.0, 0.6, 3, frozen="bfloat16"),
)
