"""Transcription of a manifest by one of several ways, each in a process of its own.

    python -m benchmarks.peers.transcribe ours|official|runtime MODEL MANIFEST [--batch-size 16]

`ours` is this program's decoder with batches of its own choice, `official` the function that
moonshine-voice's trainer scores with, `runtime` the Moonshine runtime one clip after the other.
Prints one line of JSON: seconds after loading and a warm-up clip, seconds of audio, the texts.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from moonshine_tune.core.environment import apply_environment_defaults

Clips = list[np.ndarray]


def _ours(model: Path) -> Callable[[Clips], list[str]]:
    from moonshine_tune.inference.batching import batches_by_length
    from moonshine_tune.inference.transcribe import TorchTranscriber
    from moonshine_tune.models.base import DecodeLimits
    from moonshine_tune.models.checkpoint import load_checkpoint

    transcriber = TorchTranscriber(load_checkpoint(model), DecodeLimits())

    def transcribe(clips: Clips) -> list[str]:
        texts = [""] * len(clips)
        seconds = [len(clip) / 16_000 for clip in clips]
        for group in batches_by_length(seconds, transcriber.batch_s, padded=False):
            heard = transcriber.transcribe([clips[index] for index in group])
            for index, text in zip(group, heard, strict=True):
                texts[index] = text
        return texts

    return transcribe


def _official(model: Path, batch_size: int) -> Callable[[Clips], list[str]]:
    from moonshine_voice.lora.train import transcribe
    from transformers import AutoProcessor, MoonshineForConditionalGeneration

    module = MoonshineForConditionalGeneration.from_pretrained(model)
    own = AutoProcessor.from_pretrained(model)

    class Padding:
        """Clips of different lengths in one batch: without padding the processor refuses them."""

        batch_decode = own.batch_decode

        def __call__(self, *args: Any, **options: Any) -> Any:
            return own(*args, padding=True, **options)

    def run(clips: Clips) -> list[str]:
        texts: list[str] = transcribe(module, Padding(), clips, "cpu", batch_size=batch_size)
        return texts

    return run


def _runtime(model: Path) -> Callable[[Clips], list[str]]:
    from moonshine_tune.runtime.transcriber import RuntimeTranscriber

    transcriber = RuntimeTranscriber(model)
    return transcriber.transcribe


def main() -> None:
    """Transcribe and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=["ours", "official", "runtime"])
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    if options.way == "ours":
        apply_environment_defaults()
    rows = [json.loads(line) for line in options.manifest.read_text("utf-8").splitlines()]
    clips = []
    for row in rows:
        samples, rate = soundfile.read(options.manifest.parent / row["audio"], dtype="float32")
        assert rate == 16_000 and samples.ndim == 1, row["audio"]
        clips.append(samples)
    if options.way == "ours":
        transcribe = _ours(options.model)
    elif options.way == "official":
        transcribe = _official(options.model, options.batch_size)
    else:
        transcribe = _runtime(options.model)
    transcribe(clips[:1])
    begun = time.monotonic()
    texts = transcribe(clips)
    seconds = time.monotonic() - begun
    audio = sum(map(len, clips)) / 16_000
    print(json.dumps({"work_seconds": seconds, "audio_seconds": audio, "texts": texts}))


if __name__ == "__main__":
    main()
