"""A small random streaming model and synthetic clips: work for benchmarks of the loop itself.

What is asked there (does a kill change a loss, does memory creep) does not depend on the size of
the model, so no weights and no recordings are needed.
"""

import json
from pathlib import Path

import numpy as np
import soundfile
from tokenizers import Tokenizer, decoders, models

from moonshine_tune.registry.published_configs import model_from_config

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def save_small_model(folder: Path, *, seed: int = 0) -> Path:
    """A streaming checkpoint of two by two layers that spells, with random weights."""
    from transformers import AutoConfig

    words = ["<unk>", "<s>", "</s>", "▁", *_LETTERS, *(f"<{n}>" for n in range(2))]
    raw = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>"))
    raw.decoder = decoders.Fuse()
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    encoder = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
               "sliding_windows": ((16, 4), (16, 0)), **heads}  # fmt: skip
    config = AutoConfig.for_model(
        "moonshine_streaming", encoder_config=encoder, vocab_size=len(words), hidden_size=32,
        intermediate_size=64, num_hidden_layers=2, max_position_embeddings=512,
        decoder_start_token_id=1, **heads,
    )  # fmt: skip
    model_from_config(config, seed=seed).module.save_pretrained(folder)
    raw.save(str(folder / "tokenizer.json"))
    return folder


def write_clips(
    folder: Path, name: str, count: int, longest_s: float, *, with_text: bool = True
) -> Path:
    """A manifest of tones with noise, from half a second to `longest_s`, a speaker each."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng([count, len(name), *name.encode()])
    lines = []
    for place in range(count):
        seconds = float(chance.uniform(0.5, longest_s))
        time = np.arange(round(seconds * 16_000)) / 16_000
        sound = 0.05 * chance.standard_normal(len(time))
        for pitch in chance.uniform(90, 900, 3):
            sound += 0.1 * np.sin(2 * np.pi * pitch * time)
        file = f"{name}-{place}.wav"
        soundfile.write(folder / file, sound.astype(np.float32), 16_000)
        record = {"id": f"{name}-{place}", "audio": file, "speaker": f"{name}-{place}",
                  "duration": len(time) / 16_000}  # fmt: skip
        if with_text:
            letters = chance.choice(list(_LETTERS), max(round(2 * seconds), 1))
            record["text"] = "".join(letters)
        lines.append(json.dumps(record) + "\n")
    path = folder / f"{name}.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path
