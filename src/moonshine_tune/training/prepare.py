"""What the training loop needs, made ready: corpora, stored states, teacher, holdouts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.corpus.sampler import CurriculumStage, StagedSampler, easy_first_stages
from moonshine_tune.corpus.splits import find_leaks, split_by_speaker
from moonshine_tune.inference.dataset import SpeechDataset, build_corpus
from moonshine_tune.inference.encoder_cache import StateSource, release_encoder
from moonshine_tune.inference.encoder_cache_budget import Clips, StateStores
from moonshine_tune.inference.scored_set import ScoredSet
from moonshine_tune.inference.token_losses import base_losses
from moonshine_tune.inference.train_data import TrainingData
from moonshine_tune.models.lora import AdapterSummary, inject_lora
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.training.augmentation import (
    AugmentedDataset,
    ChangedOnce,
    Sounds,
    open_sound_banks,
)
from moonshine_tune.training.replay import Replay, part_replay, prepare_replay


@dataclass(frozen=True)
class TrainingSetup:
    """What the loop works on."""

    corpus: SpeechDataset
    hearing: AugmentedDataset
    states: StateSource
    sampler: StagedSampler
    dev: ScoredSet
    dev_augmented: ScoredSet | None
    canary: ScoredSet | None
    replay: Replay | None
    adapter: AdapterSummary
    remarks: tuple[str, ...]
    fingerprints: dict[str, str]


def prepare_training(
    settings: RunSettings,
    data: TrainingData,
    opened: OpenedModel,
    normalizer: Normalizer,
    progress: Progress,
    *,
    scores: bool = True,
) -> TrainingSetup:
    """Inject the adapter and store what a frozen encoder needs only once.

    Args:
        scores: whether this process scores dev and canary; of several processes one does.

    Raises:
        RequestError: nothing in a manifest can be used, or dev flatters.
    """
    model = opened.model
    sounds = open_sound_banks(settings.augment)
    train_utterances, dev_utterances, remarks = _train_and_dev(settings, data)
    corpus = build_corpus(
        train_utterances,
        model,
        name="train",
        max_clip_s=settings.data.max_clip_s,
        needs_text=True,
    )
    adapter = inject_lora(
        model,
        rank=settings.adapter.rank,
        alpha=settings.adapter.alpha,
        dropout=settings.adapter.dropout,
        sites=settings.adapter.sites,
        seed=settings.train.seed,
        rslora=settings.adapter.rslora,
        dora=settings.adapter.dora,
    )
    if settings.train.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    stores = StateStores(settings.device, opened, trains_encoder=adapter.touches_encoder)
    preparation = _Preparation(settings, opened, normalizer, stores, progress)
    replay_clips, general, name = _general_speech(data, settings)
    # The small ones first: they are what memory is best spent on.
    dev = preparation.holdout("dev", dev_utterances, scores=scores)
    dev_augmented: ScoredSet | None = None
    if settings.augment.share and settings.augment.dev:
        dev_augmented = preparation.augmented(dev, sounds, scores=scores)
    canary = preparation.holdout(name, general, scores=scores) if general else None
    replay: Replay | None = None
    if replay_clips and data.replay is not None:
        replay = preparation.replay(replay_clips, len(data.replay))
    losses = base_losses(corpus, opened, progress) if settings.train.easy_first else ()
    sampler = _sampler(settings, corpus, losses)
    hearing = AugmentedDataset(corpus, settings.augment, sounds, seed=settings.train.seed)
    states = preparation.heard(hearing, sampler)
    return TrainingSetup(
        corpus=corpus,
        hearing=hearing,
        states=states,
        sampler=sampler,
        dev=dev,
        dev_augmented=dev_augmented,
        canary=canary,
        replay=replay,
        adapter=adapter,
        remarks=(*remarks, *corpus.remarks, *hearing.remarks(), *preparation.finish()),
        fingerprints={name: manifest.sha256 for name, manifest in data.by_name.items()}
        | sounds.fingerprints(),
    )


class _Preparation:
    """Makes the corpora's states ready one after the other and remembers what there is to say."""

    def __init__(
        self,
        settings: RunSettings,
        opened: OpenedModel,
        normalizer: Normalizer,
        stores: StateStores,
        progress: Progress,
    ) -> None:
        self._settings, self._opened, self._normalizer = settings, opened, normalizer
        self._stores, self._progress = stores, progress
        self._remarks: list[str] = []
        self._needs_encoder = stores.trains_encoder

    def heard(self, hearing: AugmentedDataset, sampler: StagedSampler) -> StateSource:
        """The states of all that the steps will hear; versions without end are never stored."""
        if hearing.is_endless:
            self._needs_encoder = True
            return self._stores.endless(hearing.load)
        return self.states("train", hearing, hearing.drawn(sampler, self._settings.train.steps))

    def states(self, name: str, corpus: Clips, drawn: Sequence[int]) -> StateSource:
        """The stored states of a corpus."""
        source = self._stores.source(corpus, drawn, name)
        source.prepare(drawn, self._progress, f"encoding {name}")
        self._needs_encoder |= not source.holds(drawn)
        return source

    def holdout(self, name: str, utterances: Sequence[Utterance], *, scores: bool) -> ScoredSet:
        """A set to score; a process that does not score it encodes nothing."""
        corpus = build_corpus(
            utterances[: self._settings.select.max_dev_utterances],
            self._opened.model,
            name=name,
            max_clip_s=self._settings.data.max_clip_s,
            needs_text=False,
        )
        source = self.states(name, corpus, range(len(corpus)) if scores else ())
        self._remarks += corpus.remarks
        return ScoredSet(name, corpus.utterances, source, self._normalizer, self._opened.limits)

    def augmented(self, dev: ScoredSet, sounds: Sounds, *, scores: bool) -> ScoredSet:
        """Dev with every clip changed as training changes some, from the same sounds."""
        name = "augmented dev"
        corpus = build_corpus(
            dev.utterances, self._opened.model, name=name, max_clip_s=math.inf, needs_text=False
        )
        hearing = AugmentedDataset(
            corpus, self._settings.augment, sounds, seed=self._settings.train.seed
        )
        changed = ChangedOnce(hearing, len(corpus))
        source = self.states(name, changed, range(len(corpus)) if scores else ())
        return ScoredSet(name, corpus.utterances, source, self._normalizer, self._opened.limits)

    def replay(self, utterances: Sequence[Utterance], of: int) -> Replay:
        """General speech to train on."""
        replay, corpus = prepare_replay(
            utterances, self._settings, self._opened, self._stores, self._progress, of=of
        )
        drawn = replay.sampler.drawn(self._settings.train.steps)
        self._needs_encoder |= not replay.source.holds(drawn)
        self._remarks += corpus.remarks
        return replay

    def finish(self) -> list[str]:
        """All remarks; with every state stored, the encoder's memory is given back."""
        self._remarks += self._stores.remarks
        if not self._needs_encoder:
            freed = release_encoder(self._opened.model)
            self._remarks.append(f"encoder: {freed} MB released, all its states are stored")
        return self._remarks


def _general_speech(
    data: TrainingData, settings: RunSettings
) -> tuple[list[Utterance], Sequence[Utterance], str]:
    """Clips to replay, clips to watch for drift, and what the watched ones are called."""
    canary = data.canary.utterances if data.canary else ()
    if data.replay is None or settings.retain.weight == 0:
        return [], canary, "canary"
    replayed, watched = part_replay(data.replay.utterances, settings, has_canary=bool(canary))
    return replayed, canary or watched, "canary" if canary else "held-out replay"


def _sampler(
    settings: RunSettings, corpus: SpeechDataset, losses: Sequence[float]
) -> StagedSampler:
    """The order of the utterances.

    Args:
        losses: the base model's, where easy ones come first; else empty.
    """
    train = settings.train
    stages = [CurriculumStage(item.steps, item.max_clip_s) for item in train.stages]
    if stages and losses:
        raise RequestError(
            "train.stages and train.easy_first both say what comes first", hint="set only one"
        )
    if losses:
        stages = list(easy_first_stages(losses, train.steps, train.easy_first))
    speakers = [item.speaker for item in corpus.utterances]
    if train.speaker_balance and not any(speakers):
        raise RequestError(
            "train.speaker_balance needs speakers, and the manifest names none",
            hint='add "speaker" to its lines, or leave the setting at 0',
        )
    sampler = StagedSampler(
        corpus.seconds,
        stages or [CurriculumStage(train.steps, max(corpus.seconds))],
        batch_size=train.batch_size,
        accumulation=train.accumulation,
        seed=train.seed,
        speakers=speakers,
        balance=train.speaker_balance,
    )
    for stage, count in zip(stages, sampler.utterances_by_stage, strict=False):
        if not count:
            raise RequestError(
                f"no clip is as short as {stage.max_clip_s:g} s, which a stage asks for",
                hint="raise train.stages[].max_clip_s; lengths: moonshine-tune data check",
            )
    return sampler


def _train_and_dev(
    settings: RunSettings, data: TrainingData
) -> tuple[Sequence[Utterance], Sequence[Utterance], tuple[str, ...]]:
    """The two sides; without a dev manifest, speakers are held out of the training one."""
    remarks = tuple(
        f"{name}: {remark}" for name, found in data.by_name.items() for remark in found.remarks
    )
    train = data.train.utterances
    if data.dev is not None:
        dev = data.dev.utterances
        return train, dev, (*remarks, *_check_apart(settings, train, dev))
    parts = split_by_speaker(train, dev=settings.data.dev_share, test=0.0, seed=settings.train.seed)
    if not parts.dev or not parts.train:
        raise RequestError(
            f"{len(train)} utterances cannot be split by speaker into train and dev",
            hint="name a development manifest with: --dev dev.jsonl",
        )
    remark = f"dev: no manifest given, held {len(parts.dev)} of {len(train)} utterances out"
    return parts.train, parts.dev, (*remarks, remark)


def _check_apart(
    settings: RunSettings, train: Sequence[Utterance], dev: Sequence[Utterance]
) -> tuple[str, ...]:
    """Refuse a dev set that flatters; one voice alone has no other, which is said instead."""
    leaks = find_leaks({"train": train, "dev": dev})
    spans = {(item.audio, item.start, item.end) for item in train}
    same = [item.id for item in dev if (item.audio, item.start, item.end) in spans]
    if same:
        raise RequestError(
            f"{len(same)} of {len(dev)} dev clips are training clips too, such as {same[0]}",
            where=settings.data.dev,
            hint="split anew: moonshine-tune data split; or leave --dev out",
        )
    shared = [leak.value for leak in leaks.speakers]
    if not shared:
        return ()
    named = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
    if len({item.speaker or item.session for item in train}) == 1:
        return (f"dev: spoken by the one voice of train ({named}): says nothing about others",)
    if not settings.data.shared_speakers:
        raise RequestError(
            f"dev shares {len(shared)} speakers with train ({named}): its WER would flatter by "
            "several points",
            where=settings.data.dev,
            hint="split by speaker: moonshine-tune data split; where these very voices are the "
            "ones to be served: --set data.shared_speakers=true",
        )
    return (f"dev: shares {len(shared)} speakers with train ({named}), as allowed",)
