"""transformers and PEFT in a plain loop, as their documentation shows it: the peer of `train`.

    python -m benchmarks.peers.plain_peft CHECKPOINT MANIFEST --steps 60 --batch-size 8
    python -m benchmarks.peers.plain_peft CHECKPOINT MANIFEST --steps 200 --sites all --out FOLDER

The second form is the recipe of a careful user: all linear layers, warm-up and cosine;
nothing keeps general speech. It writes the adapter in PEFT's format.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import soundfile
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoTokenizer, MoonshineForConditionalGeneration

BOS, EOS, PAD = 1, 2, -100
SITES = {
    "qv": ["q_proj", "v_proj"],
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
}
_WARM_UP = 20


def main() -> None:
    """Train for some steps and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sites", choices=SITES, default="qv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the adapter here")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    model = MoonshineForConditionalGeneration.from_pretrained(options.checkpoint)
    model = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules=SITES[options.sites])
    )
    rows = [json.loads(line) for line in options.manifest.read_text("utf-8").splitlines()]
    for row in rows:
        samples, rate = soundfile.read(options.manifest.parent / row["audio"], dtype="float32")
        assert rate == 16_000 and samples.ndim == 1, row["audio"]
        row["samples"] = torch.from_numpy(samples)
        row["ids"] = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=5e-4, weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / _WARM_UP)
        * 0.5 * (1 + math.cos(math.pi * step / options.steps)),
    )  # fmt: skip
    chance = random.Random(options.seed)
    order: list[int] = []
    model.train()
    begun = time.monotonic()
    loss = torch.zeros(())
    for _ in range(options.steps):
        if len(order) < options.batch_size:
            order = list(range(len(rows)))
            chance.shuffle(order)
        batch = [rows[order.pop()] for _ in range(options.batch_size)]
        audio = torch.nn.utils.rnn.pad_sequence([row["samples"] for row in batch], True)
        mask = torch.zeros_like(audio, dtype=torch.long)
        for line, row in zip(mask, batch, strict=True):
            line[: len(row["samples"])] = 1
        inputs = [torch.tensor([BOS, *row["ids"]]) for row in batch]
        targets = [torch.tensor([*row["ids"], EOS]) for row in batch]
        logits = model(
            input_values=audio,
            attention_mask=mask,
            decoder_input_ids=torch.nn.utils.rnn.pad_sequence(inputs, True, EOS),
            use_cache=False,
        ).logits
        wanted = torch.nn.utils.rnn.pad_sequence(targets, True, PAD)
        loss = F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=PAD)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.monotonic() - begun
    if options.out is not None:
        model.save_pretrained(options.out)
    print(json.dumps({"loop_seconds": seconds, "steps": options.steps, "loss": float(loss)}))


if __name__ == "__main__":
    main()
