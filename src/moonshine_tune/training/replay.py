"""General speech that a run hears again and again, so that it is not lost."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.core.hardware import cache_root, make_cache_folder
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.sampler import BucketSampler
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.inference.dataset import SpeechDataset, build_corpus
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.encoder_cache_budget import StateStores
from moonshine_tune.inference.encoder_cache_disk import recipe_hash
from moonshine_tune.models.lora import adapter_disabled
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.training.teacher import ReplayTeacher

# A canary of a clip or two says nothing: a single word would be 10 % of it.
_FEWEST_WATCHED = 5


@dataclass(frozen=True)
class Replay:
    """Replay clips, what each of them teaches, and the order in which they are drawn.

    Attributes:
        transcripts: token ids of the clips that teach their own text; the teacher has the others.
    """

    source: StateSource
    teacher: ReplayTeacher
    sampler: BucketSampler
    transcripts: Mapping[int, Sequence[int]]

    def num_targets(self, indices: Sequence[int]) -> int:
        """Tokens, ends included, that some clips teach."""
        told = [index for index in indices if index in self.transcripts]
        taught = [index for index in indices if index not in self.transcripts]
        own = sum(len(self.transcripts[index]) + 1 for index in told)
        return own + self.teacher.num_targets(taught)


def part_replay(
    utterances: Sequence[Utterance], settings: RunSettings, *, has_canary: bool
) -> tuple[list[Utterance], list[Utterance]]:
    """The clips that are replayed and those that are watched instead, both evenly chosen.

    Watched clips lose their texts: they show how far the adapter drifts from what the base hears.
    """
    watched = min(settings.retain.watched_clips, len(utterances) // 5)
    if has_canary or watched < _FEWEST_WATCHED:
        watched = 0
    held = set(evenly_chosen(range(len(utterances)), watched))
    rest = [item for place, item in enumerate(utterances) if place not in held]
    chosen = evenly_chosen(rest, settings.retain.max_clips)
    return chosen, [replace(utterances[place], text=None) for place in sorted(held)]


def prepare_replay(
    utterances: Sequence[Utterance],
    settings: RunSettings,
    opened: OpenedModel,
    stores: StateStores,
    progress: Progress,
    *,
    of: int,
) -> tuple[Replay, SpeechDataset]:
    """Encode the replay clips that will be drawn and hear what the base says to them.

    Args:
        of: how many clips the manifest has, for the remark.
    """
    model, retain = opened.model, settings.retain
    corpus = build_corpus(
        utterances,
        model,
        name=f"replay, {len(utterances)} of {of} clips",
        max_clip_s=settings.data.max_clip_s,
        needs_text=False,
    )
    micro = min(retain.clips_per_step, settings.train.batch_size)
    sampler = BucketSampler(
        corpus.seconds,
        batch_size=micro,
        accumulation=-(-retain.clips_per_step // micro),
        seed=settings.train.seed,
    )
    drawn = sampler.drawn(settings.train.steps)
    source = stores.source(corpus, drawn, "replay")
    source.prepare(drawn, progress, "encoding replay")
    transcripts: dict[int, Sequence[int]] = {}
    if retain.targets == "transcripts":
        transcripts = {index: corpus.tokens[index] for index in drawn if corpus.tokens[index]}
    taught = [index for index in drawn if index not in transcripts]
    teacher = _listen(corpus, taught, opened, source, progress)
    return Replay(source, teacher, sampler, transcripts), corpus


def _listen(
    corpus: SpeechDataset,
    taught: Sequence[int],
    opened: OpenedModel,
    source: StateSource,
    progress: Progress,
) -> ReplayTeacher:
    """The teacher; what the base says is decoded once and kept for later runs."""
    identity = [
        opened.base["sha256"],
        str(opened.model.dtype),
        str(opened.device.device.type),
        opened.limits.tokens_per_second,
        recipe_hash("inference/greedy.py", "inference/decoder_session.py"),
        [corpus.content_key(index) for index in taught],
    ]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    path = make_cache_folder(cache_root() / "replay-texts") / f"{name}.json"
    known = _read_tokens(path, taught)
    with adapter_disabled(opened.model):
        teacher = ReplayTeacher(opened.model, source, taught, opened.limits, progress, known=known)
    if known is None:
        said = teacher.said
        write_json_atomic(path, [said[index] for index in taught])
    return teacher


def _read_tokens(path: Path, taught: Sequence[int]) -> dict[int, list[int]] | None:
    try:
        lines = json.loads(path.read_text(encoding="utf-8"))
        if len(lines) != len(taught):
            return None
        return {
            index: [int(token) for token in line] for index, line in zip(taught, lines, strict=True)
        }
    except (OSError, ValueError, TypeError):
        return None
