"""A small streaming model with random weights, for machines on which a real one is too large.

Training, state and export run as with a large model. Its transcripts mean nothing, and neither do
accuracy figures: callers must say so.
"""

import shutil
from pathlib import Path

import torch

from moonshine_tune.core.files import complete_folder
from moonshine_tune.models.checkpoint import load_tokenizer

_SEED = 20_260_101


def write_random_model(tokenizer_folder: Path, out: Path) -> None:
    """Write a checkpoint folder, deterministic for a given tokenizer; an existing one is kept.

    Args:
        tokenizer_folder: checkpoint folder whose tokenizer the model uses.
    """
    from transformers import AutoConfig, AutoModelForSpeechSeq2Seq

    if (out / "config.json").is_file():
        return
    vocabulary = load_tokenizer(tokenizer_folder).vocabulary_size
    encoder = {
        "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4,
        "sliding_windows": ((16, 4), (16, 0)),
    }  # fmt: skip
    config = AutoConfig.for_model(
        "moonshine_streaming", encoder_config=encoder, vocab_size=vocabulary, hidden_size=64,
        intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=512, decoder_start_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        module = AutoModelForSpeechSeq2Seq.from_config(config, attn_implementation="sdpa")
    with complete_folder(out) as scratch:
        module.save_pretrained(scratch)
        shutil.copyfile(tokenizer_folder / "tokenizer.json", scratch / "tokenizer.json")
