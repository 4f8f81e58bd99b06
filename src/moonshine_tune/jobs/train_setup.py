"""What the training loop needs, made ready: corpora, stored states, teacher, holdouts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.adapter import AdapterSummary, adapter_disabled, inject_lora
from moonshine_tune.config import RunSettings
from moonshine_tune.decode import DecodeLimits
from moonshine_tune.encoder_cache import StateSource
from moonshine_tune.errors import RequestError
from moonshine_tune.families.interface import SpeechModel
from moonshine_tune.holdout import Holdout
from moonshine_tune.jobs.corpus import Corpus, build_corpus
from moonshine_tune.jobs.model_opening import OpenedModel
from moonshine_tune.manifest import Manifest, Utterance, read_manifest
from moonshine_tune.progress import Progress
from moonshine_tune.sampler import BucketSampler, Stage, StagedSampler
from moonshine_tune.splits import split_by_speaker
from moonshine_tune.teacher import ReplayTeacher
from moonshine_tune.text import Normalizer


@dataclass(frozen=True)
class Replay:
    """Replay clips, what the base says to them, and the order in which they are drawn."""

    teacher: ReplayTeacher
    sampler: BucketSampler


@dataclass(frozen=True)
class TrainingSetup:
    """What the loop works on."""

    corpus: Corpus
    states: StateSource
    sampler: StagedSampler
    dev: Holdout
    canary: Holdout | None
    replay: Replay | None
    adapter: AdapterSummary
    remarks: tuple[str, ...]
    fingerprints: dict[str, str]


def prepare_training(
    settings: RunSettings, opened: OpenedModel, normalizer: Normalizer, progress: Progress
) -> TrainingSetup:
    """Read the manifests, inject the adapter and store what a frozen encoder needs only once.

    Raises:
        RequestError: a manifest is missing, or nothing in it can be used.
    """
    data, model = settings.data, opened.model
    if data.train is None:
        raise RequestError("no training manifest", hint="name it with: --train train.jsonl")
    manifests = _read_manifests(settings)
    train_utterances, dev_utterances, remarks = _train_and_dev(settings, manifests)
    corpus = build_corpus(
        train_utterances, model, name="train", max_clip_s=data.max_clip_s, needs_text=True
    )
    adapter = inject_lora(
        model,
        rank=settings.adapter.rank,
        alpha=settings.adapter.alpha,
        dropout=settings.adapter.dropout,
        sites=settings.adapter.sites,
        seed=settings.train.seed,
    )
    # A trained encoder gives new states every step: nothing may be stored then.
    budget = 0 if adapter.touches_encoder else settings.device.state_cache_mb
    states = StateSource(model, corpus.load, corpus.seconds, budget_mb=budget)
    sampler = _sampler(settings, corpus)
    if settings.train.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    states.prepare(sampler.drawn(settings.train.steps), progress, "encoding train")
    limit = settings.select.max_dev_utterances
    dev, dev_remarks = _holdout(
        "dev", dev_utterances[:limit], settings, opened, normalizer, budget, progress
    )
    canary: Holdout | None = None
    canary_remarks: tuple[str, ...] = ()
    if "canary" in manifests:
        canary, canary_remarks = _holdout(
            "canary",
            manifests["canary"].utterances[:limit],
            settings,
            opened,
            normalizer,
            budget,
            progress,
        )
    replay: Replay | None = None
    replay_remarks: tuple[str, ...] = ()
    if "replay" in manifests and settings.retain.weight > 0:
        replay, replay_remarks = _replay(
            manifests["replay"].utterances, settings, model, opened.limits, budget, progress
        )
    return TrainingSetup(
        corpus=corpus,
        states=states,
        sampler=sampler,
        dev=dev,
        canary=canary,
        replay=replay,
        adapter=adapter,
        remarks=(
            *remarks, *corpus.remarks, *dev_remarks, *canary_remarks, *replay_remarks,
        ),
        fingerprints={name: manifest.sha256 for name, manifest in manifests.items()},
    )  # fmt: skip


def _sampler(settings: RunSettings, corpus: Corpus) -> StagedSampler:
    train = settings.train
    stages = [Stage(item.steps, item.max_clip_s) for item in train.stages]
    sampler = StagedSampler(
        corpus.seconds,
        stages or [Stage(train.steps, max(corpus.seconds))],
        batch_size=train.batch_size,
        accumulation=train.accumulation,
        seed=train.seed,
    )
    for stage, count in zip(stages, sampler.utterances_by_stage, strict=False):
        if not count:
            raise RequestError(
                f"no clip is as short as {stage.max_clip_s:g} s, which a stage asks for",
                hint="raise train.stages[].max_clip_s; lengths: moonshine-tune data check",
            )
    return sampler


def _read_manifests(settings: RunSettings) -> dict[str, Manifest]:
    named: dict[str, Path | None] = {
        "train": settings.data.train,
        "dev": settings.data.dev,
        "canary": settings.data.canary,
        "replay": settings.data.replay,
    }
    return {
        name: read_manifest(path, require_text=name in ("train", "dev"))
        for name, path in named.items()
        if path is not None
    }


def _train_and_dev(
    settings: RunSettings, manifests: dict[str, Manifest]
) -> tuple[Sequence[Utterance], Sequence[Utterance], tuple[str, ...]]:
    """The two sides; without a dev manifest, speakers are held out of the training one."""
    remarks = tuple(
        f"{name}: {remark}" for name, manifest in manifests.items() for remark in manifest.remarks
    )
    train = manifests["train"].utterances
    if "dev" in manifests:
        return train, manifests["dev"].utterances, remarks
    parts = split_by_speaker(train, dev=settings.data.dev_share, test=0.0, seed=settings.train.seed)
    if not parts.dev or not parts.train:
        raise RequestError(
            f"{len(train)} utterances cannot be split by speaker into train and dev",
            hint="name a development manifest with: --dev dev.jsonl",
        )
    remark = f"dev: no manifest given, held {len(parts.dev)} of {len(train)} utterances out"
    return parts.train, parts.dev, (*remarks, remark)


def _holdout(
    name: str,
    utterances: Sequence[Utterance],
    settings: RunSettings,
    opened: OpenedModel,
    normalizer: Normalizer,
    budget_mb: int,
    progress: Progress,
) -> tuple[Holdout, tuple[str, ...]]:
    corpus = build_corpus(
        utterances,
        opened.model,
        name=name,
        max_clip_s=settings.data.max_clip_s,
        needs_text=False,
    )
    source = StateSource(opened.model, corpus.load, corpus.seconds, budget_mb=budget_mb)
    source.prepare(range(len(corpus)), progress, f"encoding {name}")
    return Holdout(name, corpus.utterances, source, normalizer, opened.limits), corpus.remarks


def _replay(
    utterances: Sequence[Utterance],
    settings: RunSettings,
    model: SpeechModel,
    limits: DecodeLimits,
    budget_mb: int,
    progress: Progress,
) -> tuple[Replay, tuple[str, ...]]:
    count = min(len(utterances), settings.retain.max_clips)
    chosen = [utterances[place * len(utterances) // count] for place in range(count)]
    corpus = build_corpus(
        chosen,
        model,
        name=f"replay, {count} of {len(utterances)} clips",
        max_clip_s=settings.data.max_clip_s,
        needs_text=False,
    )
    source = StateSource(model, corpus.load, corpus.seconds, budget_mb=budget_mb)
    clips = settings.retain.clips_per_step
    micro = min(clips, settings.train.batch_size)
    sampler = BucketSampler(
        corpus.seconds, batch_size=micro, accumulation=-(-clips // micro), seed=settings.train.seed
    )
    drawn = sampler.drawn(settings.train.steps)
    source.prepare(drawn, progress, "encoding replay")
    with adapter_disabled(model):
        teacher = ReplayTeacher(model, source, drawn, limits, progress)
    return Replay(teacher, sampler), corpus.remarks
