"""How often the studio calls a right recording another sentence, and another sentence right.

    python -m benchmarks.studio_mismatch ../shared/data/an4/test.jsonl …

Each clip is judged twice, as the first takes of a project are: with its own text as the prompt, and
with that of another clip.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.studio.judgment import other_text, recognize

_CLIPS, _SHIFT = 50, 7


def main(manifests: Sequence[str]) -> None:
    """Print a line for each manifest."""
    opened = open_model("tiny", device="cpu", dtype="float32", progress=SilentProgress())
    print("| set | clips | right, refused | another text, refused |\n|---|---|---|---|")
    for name in manifests:
        clips = evenly_chosen(read_manifest(Path(name)).utterances, _CLIPS)
        moved = [*clips[_SHIFT:], *clips[:_SHIFT]]
        swapped = [
            replace(clip, text=another.text) for clip, another in zip(clips, moved, strict=True)
        ]
        title = Path(name).resolve().parent.name
        counts = [_refused(items, opened) for items in (clips, swapped)]
        print(f"| {title} | {len(clips)} | {counts[0]} | {counts[1]} |", flush=True)


def _refused(clips: Sequence[Utterance], opened: OpenedModel) -> int:
    """How many clips are said not to be their texts."""
    return sum(
        other_text(recognize(clip, load_utterance(clip), opened)[1], (), opened) is not None
        for clip in clips
    )


if __name__ == "__main__":
    main(sys.argv[1:])
