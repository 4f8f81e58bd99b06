"""The training clips and dev of a run, given or held out: real voices before synthetic ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.grouping import plain_text
from moonshine_tune.corpus.manifest import Manifest, Utterance
from moonshine_tune.corpus.splits import Splits, find_leaks, split_utterances
from moonshine_tune.corpus.voices import ONE_VOICE, tiny_set_remark, voice_scope
from moonshine_tune.data.shared_clips import repeated_clips
from moonshine_tune.inference.dataset import TrainingData
from moonshine_tune.runs.records import VoicesRecord
from moonshine_tune.runs.split_record import are_for_known_voices, voices_of


@dataclass(frozen=True)
class TrainAndDev:
    """The clips of both sets, whose voices a score on dev is for, and remarks."""

    train: Sequence[Utterance]
    dev: Sequence[Utterance]
    voices: VoicesRecord | None
    remarks: tuple[str, ...]


def train_and_dev(settings: RunSettings, data: TrainingData) -> TrainAndDev:
    """Both sets; without a dev manifest, a share of train is held out, as `data split` does it.

    Where there are real clips for dev, no synthetic one is in it: an adapter that is chosen by
    synthetic voices is chosen by how well it knows a synthesizer.

    Raises:
        RequestError: too few clips to hold some out, or dev overlaps with train.
    """
    remarks = [
        f"{name}: {remark}"
        for name, manifest in data.by_name.items()
        for remark in manifest.remarks
    ]
    train: Sequence[Utterance] = data.training_clips
    if data.dev is not None:
        dev = _real_or_all(data.dev.utterances, remarks)
        scored = replace(data.dev, utterances=tuple(dev))
        voices = voices_of(_with_earlier(data), scored)
        remarks += _check_no_clip_is_learned(settings, data.all_trained, scored)
        remarks += _check_dev_is_separate(
            settings, data.all_trained, scored, voices, is_known=data.shares_voices
        )
    else:
        # Of the new ones: an earlier adapter has an advantage on what it was trained on.
        earlier = {item.id for item in data.earlier} | data.known
        new = [item for item in train if item.id not in earlier]
        parts = _hold_out(settings, new, data.train)
        held_out = f"held {len(parts.dev)} of {len(new)} utterances out, by {parts.by}"
        remarks.append(f"dev: no manifest given, {held_out}")
        train = (*parts.train, *(item for item in train if item.id in earlier))
        real = [item for item in train if not item.is_synthetic]
        dev = parts.dev
        if copies := {item.id for item in repeated_clips(dev, train)}:
            train = [item for item in train if item.id not in copies]
            remarks.append(f"train: left out {len(copies)} clips, copies of clips of dev")
        voices = VoicesRecord.of(voice_scope(real or train, dev, by=parts.by))
    remarks += _check_general_speech(data, train, dev)
    if voices is not None:
        remarks.append(f"dev: {voices.sentence}")
    if shared := _texts_spoken_by_synthesis(train, dev):
        remarks.append(shared)
    if tiny := tiny_set_remark("dev", dev):
        remarks.append(f"{tiny}; where WERs are equal, the loss on its words decides")
    return TrainAndDev(train, dev, voices, tuple(remarks))


def _with_earlier(data: TrainingData) -> Manifest:
    """The training manifest with its earlier recordings, without synthetic clips beside it."""
    return replace(data.train, utterances=(*data.train.utterances, *data.earlier))


def _real_or_all(dev: Sequence[Utterance], remarks: list[str]) -> Sequence[Utterance]:
    """The real clips of a dev manifest, or all where none is real."""
    real = [item for item in dev if not item.is_synthetic]
    if not real or len(real) == len(dev):
        return dev
    remarks.append(f"dev: kept {len(real)} of {len(dev)} clips: the others are synthetic")
    return real


def _hold_out(settings: RunSettings, clips: Sequence[Utterance], manifest: Manifest) -> Splits:
    """Hold some clips out for dev: real ones where there are enough, else synthetic ones."""
    share, seed = settings.data.dev_share, settings.train.seed
    real = [item for item in clips if not item.is_synthetic]
    synthetic = [item for item in clips if item.is_synthetic]
    if real:
        parts = split_utterances(real, dev=share, test=0.0, seed=seed)
        if parts.dev and parts.train:
            return Splits((*parts.train, *synthetic), parts.dev, (), parts.remarks, parts.by)
    if synthetic:
        parts = split_utterances(synthetic, dev=share, test=0.0, seed=seed, disjoint_texts=True)
        if 2 * len(parts.train) < len(synthetic):
            # Each voice speaks most of the texts: kept apart, they would leave too few.
            parts = split_utterances(synthetic, by="text", dev=share, test=0.0, seed=seed)
        if parts.dev and parts.train:
            return Splits((*real, *parts.train), parts.dev, (), parts.remarks, parts.by)
    raise RequestError(
        f"{len(clips)} utterances cannot be split into train and dev",
        where=manifest.path,
        hint="name a development manifest with: --dev dev.jsonl",
    )


def _texts_spoken_by_synthesis(train: Sequence[Utterance], dev: Sequence[Utterance]) -> str | None:
    """How many texts of dev are texts of synthetic training clips; None for none."""
    spoken = {plain_text(item) for item in train if item.is_synthetic} - {""}
    texts = {plain_text(item) for item in dev} - {""}
    shared = len(texts & spoken)
    if not shared:
        return None
    return (
        f"dev: {shared} of its {len(texts)} texts are also those of synthetic training clips: its "
        "WER is optimistic for other texts"
    )


def _check_general_speech(
    data: TrainingData, train: Sequence[Utterance], dev: Sequence[Utterance]
) -> list[str]:
    """Refuse a canary that is learned; remarks on replay audio that is scored.

    Raises:
        RequestError: training clips in the canary.
    """
    canary = data.canary.utterances if data.canary else ()
    if data.canary and (same := repeated_clips(train, canary)):
        raise RequestError(
            f"{len(same)} of {len(canary)} canary clips are also training clips, such as "
            f"{same[0].id}: what general speech loses would not show",
            where=data.canary.path,
            hint="leave them out of one of the two, or name another canary with --canary",
        )
    replay = data.replay.utterances if data.replay else ()
    return [
        f"{name}: {len(same)} of its {len(clips)} clips are also replayed: its WER is optimistic"
        for name, clips in (("dev", dev), ("canary", canary))
        if (same := repeated_clips(replay, clips))
    ]


def _check_no_clip_is_learned(settings: RunSettings, train: Manifest, dev: Manifest) -> list[str]:
    """Refuse training clips in dev; a remark where dev is nothing but copies of them.

    That is how people check that a model can learn at all.

    Raises:
        RequestError: training clips in dev.
    """
    same = repeated_clips(train.utterances, dev.utterances)
    if not same:
        return []
    files = {item.audio for item in train.utterances}
    if len(same) == len(dev) and files.isdisjoint(item.audio for item in dev.utterances):
        return [
            "dev: all of its clips are copies of training clips: its WER says what is learned by "
            "heart, and nothing of other speech"
        ]
    raise RequestError(
        f"{len(same)} of {len(dev)} dev clips are also training clips, such as {same[0].id}",
        where=settings.data.dev,
        hint="split again: moonshine-tune data split; or leave --dev out",
    )


def _check_dev_is_separate(
    settings: RunSettings,
    train: Manifest,
    dev: Manifest,
    voices: VoicesRecord | None,
    *,
    is_known: bool,
) -> list[str]:
    """Refuse a dev set with speakers of train, unless it is for these very voices.

    Voices whose texts a model wrote may be in dev: what is spoken there stays unknown to training,
    and people transcribe some of their recordings. It is remarked.

    Args:
        is_known: whether it was accepted for them by an earlier run.
    """
    labeled = [item for item in train.utterances if item.is_pseudo_labelled]
    transcribed = [item for item in train.utterances if not item.is_pseudo_labelled]
    leaks = find_leaks({"train": transcribed, "dev": dev.utterances})
    shared = [leak.value for leak in leaks.speakers]
    is_one = voices is not None and voices.kind == ONE_VOICE
    if not shared or is_one or is_known or are_for_known_voices([train, dev]):
        known = find_leaks({"train": labeled, "dev": dev.utterances}).speakers if labeled else ()
        if not known or is_one:
            return []
        return [f"dev: {len(known)} of its speakers are also in recordings that a model labeled"]
    named = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
    if not settings.data.shared_speakers:
        raise RequestError(
            f"dev shares {len(shared)} speakers with train ({named}): its WER would be "
            "optimistic by several points",
            where=settings.data.dev,
            hint="split by speaker: moonshine-tune data split; if the model will serve these very "
            "voices: --set data.shared_speakers=true",
        )
    return [f"dev: shares {len(shared)} speakers with train ({named}), as allowed"]
