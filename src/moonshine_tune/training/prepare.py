"""Everything that the training loop needs: splits, stored states, the teacher, scored sets."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.stopwatch import Stopwatch
from moonshine_tune.corpus.keyterms import read_key_terms
from moonshine_tune.corpus.manifest import HELD_OUT_KEY, SET_KEY, Utterance
from moonshine_tune.corpus.sampler import (
    CurriculumStage,
    EarlierShare,
    SpeakerBalance,
    StagedSampler,
    SyntheticMix,
    automatic_synthetic_share,
    easy_first_stages,
)
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.data.base_style import unlearned_style
from moonshine_tune.inference.dataset import SpeechDataset, TrainingData, build_dataset
from moonshine_tune.inference.encoder_cache import (
    EncoderCache,
    StateSource,
    release_encoder,
)
from moonshine_tune.inference.scored_set import ScoredSet
from moonshine_tune.inference.token_losses import base_losses
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import AdapterSummary, inject_lora, load_matrices, tune_fully
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.runs.recordings import UsedSpans
from moonshine_tune.runs.records import (
    PseudoLabelsRecord,
    SyntheticSpeechRecord,
    VoicesRecord,
)
from moonshine_tune.training.augmentation import (
    AugmentedCopies,
    AugmentedDataset,
    NoiseBanks,
    open_noise_banks,
)
from moonshine_tune.training.drift import GeneralDrift, prepare_drift
from moonshine_tune.training.replay import Replay, prepare_replay
from moonshine_tune.training.scored_sets import ScoredSets
from moonshine_tune.training.term_weights import TermWeights, weigh_terms
from moonshine_tune.training.train_dev_split import train_and_dev
from moonshine_tune.training.windows import narrow_share

_AUGMENTED_DEV, _CANARY = "augmented dev", "canary"
# A canary of a clip or two says nothing: a single word would be 10 % of it.
_MIN_WATCHED = 5


@dataclass(frozen=True)
class PreparedTraining:
    """What the training loop works on.

    Attributes:
        dataset: the training clips as recorded; `augmented` has all their versions and `states`
            the encoder states of those.
        voices: whose voices the scores on dev are for; None for voices that train has not.
        has_parent: whether the adapter starts as another one, and not as none.
        synthetic: what of train and dev was synthesized; None where nothing was.
        pseudo_labels: texts of training clips that a model wrote; None where there are none.
        term_weights: weights of the targets; None where all weigh the same.
        used: the spans of recordings that the training reads, by their use.
        seconds: that the preparation took.
    """

    dataset: SpeechDataset
    augmented: AugmentedDataset
    states: StateSource
    sampler: StagedSampler
    dev: ScoredSet
    dev_augmented: ScoredSet | None
    canary: ScoredSet | None
    drift: GeneralDrift | None
    replay: Replay | None
    adapter: AdapterSummary
    normalizer: str
    voices: VoicesRecord | None
    has_parent: bool
    synthetic: SyntheticSpeechRecord | None
    pseudo_labels: PseudoLabelsRecord | None
    term_weights: TermWeights | None
    remarks: tuple[str, ...]
    fingerprints: dict[str, str]
    used: UsedSpans
    seconds: float

    @property
    def scored_sets(self) -> list[ScoredSet]:
        """All sets that are scored."""
        sets = (self.dev, self.dev_augmented, self.canary)
        return [scored for scored in sets if scored is not None]


def prepare_training(
    settings: RunSettings,
    data: TrainingData,
    opened: OpenedModel,
    progress: Progress,
    *,
    scores: bool = True,
    scored_clip_s: float | None = None,
    parent_dir: Path | None = None,
    stopwatch: Stopwatch | None = None,
) -> PreparedTraining:
    """Inject the adapter, and compute once what a frozen encoder always computes the same.

    In this order: the clips of train and dev; the adapter; the scored sets with their encoder
    states; the replay clips and the teacher's output on them; the order of the training clips; the
    encoder states of all their versions. What was done is shown as remarks.

    Args:
        scores: whether this process scores dev and canary; of several processes, one does.
        scored_clip_s: longest clip of dev and canary; None for that of the settings.
        parent_dir: folder of the adapter that the training starts at; None for the base.
        stopwatch: counts `reading`, `encoding` and `teacher`.

    Raises:
        RequestError: nothing in a manifest can be used, dev overlaps with train, or the parent
            does not fit the model.
    """
    start_time = time.monotonic()
    stopwatch = stopwatch or Stopwatch()
    banks = open_noise_banks(settings.augment)
    split = train_and_dev(settings, data)
    dataset = build_dataset(
        split.train,
        opened.model,
        name="train",
        max_clip_s=settings.data.max_clip_s,
        needs_text=True,
        keeps_silence=settings.data.teach_silence,
    )
    style_remarks: tuple[str, ...] = ()
    if scores and settings.data.train is not None:
        style_remarks = unlearned_style(dataset, opened, settings.data.train, progress)
    adapter = _inject(opened.model, settings)
    if parent_dir is not None:
        load_matrices(opened.model, parent_dir)
    if settings.train.gradient_checkpointing:
        opened.model.enable_gradient_checkpointing()
    cache = EncoderCache(
        settings.device,
        opened,
        progress,
        trains_encoder=adapter.touches_encoder,
        stopwatch=stopwatch,
    )
    general = _general_speech(data, settings)
    # The small sets first: memory is best spent on them.
    held_out = {"dev": split.dev}
    if general.canary:
        held_out[_CANARY] = general.canary
    scored = settings
    if scored_clip_s is not None:
        changed = settings.data.model_copy(update={"max_clip_s": scored_clip_s})
        scored = settings.model_copy(update={"data": changed})
    scored_sets = ScoredSets(scored, opened, cache, encodes=scores)
    sets, set_remarks = _scored_sets(held_out, scored_sets, banks, canary_set=general.canary_set)
    drift: GeneralDrift | None = None
    if general.watched and scores:
        with stopwatch.measure("teacher"):
            drift = prepare_drift(general.watched, settings, opened, cache, progress)
    replay: Replay | None = None
    if general.replayed and data.replay is not None:
        with stopwatch.measure("teacher"):
            replay = prepare_replay(
                general.replayed,
                settings,
                opened,
                cache,
                progress,
                available=len(data.replay),
                narrow=narrow_share(dataset),
            )
    losses = base_losses(dataset, opened, progress) if settings.train.easy_first else ()
    mix = _synthetic_mix(settings, dataset)
    sampler = _build_sampler(settings, dataset, losses, data, mix)
    synthetic = _synthetic_speech(dataset, sets["dev"], mix)
    labels = _pseudo_labels(settings, dataset, mix)
    term_weights = _term_weights(settings, dataset, opened)
    augmented = AugmentedDataset(dataset, settings.augment, banks, seed=settings.train.seed)
    states = cache.source(augmented, augmented.drawn(sampler, settings.train.steps), "train")
    remarks = [*split.remarks, *dataset.remarks, *style_remarks, *augmented.remarks, *set_remarks]
    remarks += [f"synthetic speech: {synthetic.sentence}"] if synthetic else []
    remarks += [f"pseudo-labels: {labels.sentence}"] if labels else []
    remarks += term_weights.remarks if term_weights else ()
    remarks += [*(replay.remarks if replay else ()), *cache.remarks]
    if not cache.needs_encoder:
        freed = release_encoder(opened.model)
        remarks.append(f"encoder: {freed} MB released, all its states are stored")
    for remark in remarks:
        progress.say(remark)
    files = {name: manifest.sha256 for name, manifest in data.by_name.items()}
    if settings.data.terms is not None:
        files["terms"] = sha256_of(settings.data.terms)
    return PreparedTraining(
        dataset=dataset,
        augmented=augmented,
        states=states,
        sampler=sampler,
        dev=sets["dev"],
        dev_augmented=sets.get(_AUGMENTED_DEV),
        canary=sets.get(_CANARY),
        drift=drift,
        replay=replay,
        adapter=adapter,
        normalizer=sets["dev"].normalizer.name,
        voices=split.voices,
        has_parent=parent_dir is not None,
        synthetic=synthetic,
        pseudo_labels=labels,
        term_weights=term_weights,
        remarks=tuple(remarks),
        fingerprints=files | banks.fingerprints(),
        used=_used_spans(
            train=[dataset.utterances[index] for index in sampler.drawn(settings.train.steps)],
            dev=sets["dev"].utterances,
            canary=sets[_CANARY].utterances if _CANARY in sets else (),
            replay=(*general.replayed, *general.watched),
        ),
        seconds=time.monotonic() - start_time,
    )


def _used_spans(**utterances: Sequence[Utterance]) -> UsedSpans:
    return {use: frozenset(item.span for item in items) for use, items in utterances.items()}


def _inject(model: SpeechModel, settings: RunSettings) -> AdapterSummary:
    """Inject what trains."""
    adapter = settings.adapter
    if adapter.kind == "full":
        return tune_fully(model, sites=adapter.sites)
    return inject_lora(
        model,
        seed=settings.train.seed,
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        sites=adapter.sites,
        rslora=adapter.rslora,
        dora=adapter.dora,
    )


def _scored_sets(
    held_out: Mapping[str, Sequence[Utterance]],
    scored_sets: ScoredSets,
    banks: NoiseBanks,
    *,
    canary_set: str,
) -> tuple[dict[str, ScoredSet], list[str]]:
    """The held-out sets by name, dev augmented too where training is, and the remarks.

    Args:
        canary_set: which set the canary is.
    """
    settings = scored_sets.settings
    sets: dict[str, ScoredSet] = {}
    remarks: list[str] = []
    for name, utterances in held_out.items():
        set_name = canary_set if name == _CANARY else ""
        dataset = scored_sets.dataset(
            f"{name} ({set_name})" if set_name else name,
            utterances[: settings.select.max_dev_utterances],
        )
        remarks += dataset.remarks
        if name == "dev":
            scored_sets.count_words(name, dataset, settings.data.dev)
        sets[name] = scored_sets.make(name, dataset, set_name=set_name)
        if name == "dev" and settings.augment.share and settings.augment.dev:
            # From the same noises as the training clips.
            seed = settings.train.seed
            copies = AugmentedCopies(dataset, settings.augment, banks, seed=seed)
            sets[_AUGMENTED_DEV] = scored_sets.make(_AUGMENTED_DEV, dataset, copies)
    return sets, remarks


@dataclass(frozen=True)
class _GeneralSpeech:
    """General speech by its use.

    Attributes:
        replayed: clips on which the base teaches.
        watched: clips of the replay audio that are held out, without their texts: they show how far
            the adapter drifts from the base's output.
        canary: clips that are scored; without a canary manifest, the watched ones.
        canary_set: which set that is.
    """

    replayed: Sequence[Utterance] = ()
    watched: Sequence[Utterance] = ()
    canary: Sequence[Utterance] = ()
    canary_set: str = ""


def _general_speech(data: TrainingData, settings: RunSettings) -> _GeneralSpeech:
    canary = data.canary.utterances if data.canary else ()
    canary_set = data.canary.title if data.canary else ""
    if data.replay is None or settings.retain.weight == 0:
        return _GeneralSpeech(canary=canary, canary_set=canary_set)
    utterances = data.replay.utterances
    held_out = _held_out(utterances, settings.retain.watched_clips)
    watched = [replace(utterances[index], text=None) for index in sorted(held_out)]
    rest = [item for index, item in enumerate(utterances) if index not in held_out]
    replayed = evenly_chosen(rest, settings.retain.max_clips)
    if watched and not canary:
        named = watched[0].extra.get(SET_KEY)
        canary_set = f"held-out replay: {named}" if named else "held-out replay"
    return _GeneralSpeech(replayed, watched, canary or watched, canary_set)


def _held_out(utterances: Sequence[Utterance], watched_clips: int) -> set[int]:
    """Clips of replay audio to watch: those that are marked, else some at even distances."""
    marked = [index for index, item in enumerate(utterances) if item.extra.get(HELD_OUT_KEY)]
    if marked and watched_clips:
        return set(evenly_chosen(marked, watched_clips))
    count = min(watched_clips, len(utterances) // 5)
    return set(evenly_chosen(range(len(utterances)), count if count >= _MIN_WATCHED else 0))


def _synthetic_mix(settings: RunSettings, dataset: SpeechDataset) -> SyntheticMix | None:
    """The share in each step of clips that no person spoke, or whose texts none wrote.

    None where all clips are of one kind.
    """
    kinds = tuple(not item.is_real for item in dataset.utterances)
    if len(set(kinds)) < 2:
        return None
    share = settings.data.synthetic_share
    if share is None:
        share = automatic_synthetic_share(kinds.count(False), kinds.count(True))
    return SyntheticMix(kinds, share)


def _synthetic_speech(
    dataset: SpeechDataset, dev: ScoredSet, mix: SyntheticMix | None
) -> SyntheticSpeechRecord | None:
    """What of train and dev was synthesized; None where nothing was."""
    num_train = sum(item.is_synthetic for item in dataset.utterances)
    num_dev = sum(item.is_synthetic for item in dev.utterances)
    if not num_train and not num_dev:
        return None
    return SyntheticSpeechRecord(
        train=num_train,
        train_real=len(dataset) - num_train,
        dev=num_dev,
        dev_real=len(dev.utterances) - num_dev,
        share=_share_of([item.is_synthetic for item in dataset.utterances], mix),
    )


def _pseudo_labels(
    settings: RunSettings, dataset: SpeechDataset, mix: SyntheticMix | None
) -> PseudoLabelsRecord | None:
    """What is known of the texts that a model wrote; None where no training clip has one."""
    marks = [item.is_pseudo_labelled for item in dataset.utterances]
    manifest = settings.data.pseudo_labels or settings.data.train
    if not any(marks) or manifest is None:
        return None
    path = manifest.parent / PseudoLabelsRecord.file_name
    known = PseudoLabelsRecord.read(path).to_json() if path.is_file() else {}
    counts = {
        "train": sum(marks),
        "train_transcribed": len(dataset) - sum(marks),
        "share": _share_of(marks, mix),
    }
    return PseudoLabelsRecord.model_validate(known | counts)


def _share_of(marks: Sequence[bool], mix: SyntheticMix | None) -> float:
    """Share of the clips of a step that are marked; where kinds are mixed, none of them is real."""
    if mix is None:
        return round(sum(marks) / len(marks), 4)
    return round(mix.share * sum(marks) / sum(mix.is_synthetic), 4)


def _term_weights(
    settings: RunSettings, dataset: SpeechDataset, opened: OpenedModel
) -> TermWeights | None:
    """The weights of the targets, computed once; None where all weigh the same.

    Raises:
        RequestError: a weight without terms, or terms that no training text has.
    """
    path, weight = settings.data.terms, settings.train.term_weight
    if path is None:
        if weight > 1:
            raise RequestError(
                f"train.term_weight={weight:g} needs a list of terms",
                hint="name it with: --set data.terms=terms.txt, one term per line",
            )
        return None
    terms = read_key_terms(path)
    if weight == 1:
        return None
    return weigh_terms(dataset, terms, weight, opened.model.tokenizer)


def _build_sampler(
    settings: RunSettings,
    dataset: SpeechDataset,
    losses: Sequence[float],
    data: TrainingData,
    mix: SyntheticMix | None,
) -> StagedSampler:
    """The order of the utterances, with a bounded share of earlier ones.

    Args:
        losses: the base model's per utterance, where easy ones come first; else empty.
        mix: synthetic clips among real ones.
    """
    train = settings.train
    stages = [CurriculumStage(item.steps, item.max_clip_s) for item in train.stages]
    if stages and losses:
        raise RequestError(
            "train.stages and train.easy_first both choose the order", hint="set only one"
        )
    if losses:
        stages = list(easy_first_stages(losses, train.steps, train.easy_first))
    speakers = [item.speaker for item in dataset.utterances]
    if train.speaker_balance and not any(speakers):
        raise RequestError(
            "train.speaker_balance needs speakers, and the manifest names none",
            hint='add "speaker" to its lines, or leave the setting at 0',
        )
    earlier = {item.id for item in data.earlier}
    sampler = StagedSampler(
        dataset.seconds,
        stages or [CurriculumStage(train.steps, max(dataset.seconds))],
        batch_size=train.batch_size,
        accumulation=train.accumulation,
        seed=train.seed,
        balance=SpeakerBalance(speakers, train.speaker_balance),
        earlier=EarlierShare(
            frozenset(i for i, item in enumerate(dataset.utterances) if item.id in earlier),
            settings.data.earlier_share,
        ),
        mix=mix,
    )
    for stage, count in zip(stages, sampler.utterances_by_stage, strict=False):
        if not count:
            raise RequestError(
                f"no clip is as short as {stage.max_clip_s:g} s, which a stage asks for",
                hint="raise train.stages[].max_clip_s; lengths: moonshine-tune data check",
            )
    return sampler
