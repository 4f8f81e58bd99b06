"""Which settings may change when a run is resumed.

A resumed run is the same run. What changes how long it goes on, how it uses this machine or how it
logs may change, and run.json records from which step it held. What changes the adapter, the loss,
the data or the scores may not: the run's scores could not be compared with each other any more.
"""

from collections.abc import Mapping
from typing import Any

from moonshine_tune.config.resolve import PATH_SETTINGS, ResolvedSettings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.core.nested import flatten, unflatten

# Compared by content: the base model's hash and the fingerprints of the data, not the paths.
BY_CONTENT = frozenset({"model", *PATH_SETTINGS})
MAY_CHANGE = frozenset({
    "tracker",
    # A permission to score dev speakers of train; the manifests are the same.
    "data.shared_speakers",
    # Of the training clips: the scored sets keep the clips of the first leg.
    "data.max_clip_s",
    "train.steps", "train.batch_size", "train.accumulation", "train.gradient_checkpointing",
    "train.learning_rate", "train.encoder_learning_rate", "train.max_skipped_steps",
    "train.save_every_minutes", "train.folds", "data.pseudo_rounds",
    "select.every_steps", "select.patience",
    "device.name", "device.dtype", "device.frozen_weights", "device.clear_cache_steps",
    "device.keep_awake",
    "device.compare_steps", "device.budget_gib", "device.state_cache_mb", "device.state_storage",
    "device.state_format", "device.state_disk_mb",
})  # fmt: skip
FIXED = frozenset({
    "data.dev_share", "data.normalizer", "data.teach_silence", "data.earlier_share",
    "data.synthetic_share",
    "adapter.kind", "adapter.rank", "adapter.alpha", "adapter.dropout", "adapter.sites",
    "adapter.rslora", "adapter.dora", "adapter.parent",
    "augment.share", "augment.synthetic_share", "augment.variants", "augment.dev",
    "augment.noise_chance", "augment.snr_db",
    "augment.room_chance", "augment.gain_chance", "augment.gain_db", "augment.speed_chance",
    "augment.speeds", "augment.telephone_chance", "augment.clipping_chance",
    "augment.masking_chance",
    "train.lora_plus_ratio", "train.warmup_share", "train.final_rate_share", "train.weight_decay",
    "train.stages", "train.speaker_balance", "train.easy_first", "train.clip_norm", "train.seed",
    "train.term_weight",
    "retain.weight", "retain.clips_per_step", "retain.max_clips", "retain.targets",
    "retain.window_s", "retain.varied_share", "retain.encoder_weight",
    "retain.domain_weight", "retain.watched_clips", "retain.strengths", "retain.filter_weight",
    "select.max_dev_utterances", "select.canary_bound", "select.max_drift",
    "select.average_last",
})  # fmt: skip

Changes = dict[str, tuple[Any, Any]]
"""Settings that differ, by dotted name: the value before and the value now."""


# Runs of earlier versions replayed whole clips as they were, did not pull the encoder's states, and
# did not filter the adapter.
_UNRECORDED = dict.fromkeys(
    [f"retain.{name}" for name in ("window_s", "varied_share", "encoder_weight", "filter_weight")],
    0.0,
)


def settings_as_run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of run.json; those that are newer than the run have what it was run with."""
    return unflatten(_UNRECORDED | dict(flatten(settings)))


def at_resume(name: str) -> str:
    """What a resume may do with a setting, in two words."""
    if name in BY_CONTENT:
        return "same content"
    return "may change" if name in MAY_CHANGE else "stays"


def changed_settings(before: Mapping[str, Any], now: RunSettings) -> Changes:
    """Settings of `now` that differ from a record's; what the record lacks has its default."""
    defaults = dict(flatten(RunSettings().model_dump(mode="json")))
    recorded = defaults | _UNRECORDED | dict(flatten(before))
    return {
        name: (recorded.get(name), value)
        for name, value in flatten(now.model_dump(mode="json"))
        if recorded.get(name) != value
    }


def check_resumed(
    before: Mapping[str, Any], resolved: ResolvedSettings, normalizer: str | None
) -> Changes:
    """What a resume changes, without paths; refuse what may not change, all of it at once.

    Args:
        before: the settings of run.json.
        normalizer: that of the run: naming the one that was chosen by language changes nothing.

    Raises:
        ProblemsError: settings that cannot change, each with both values and its source.
    """
    changes = changed_settings(before, resolved.settings)
    if "data.normalizer" in changes and changes["data.normalizer"][1] == normalizer:
        del changes["data.normalizer"]
    refused = {
        name: values for name, values in changes.items() if name not in MAY_CHANGE | BY_CONTENT
    }
    if refused:
        raise ProblemsError(
            f"{', '.join(refused)} cannot change at a resume: it keeps what is learnt and scored",
            [
                f"{name}: {old} in this run, {new} by {resolved.sources.get(name, 'default')}"
                for name, (old, new) in refused.items()
            ],
            hint="leave them out to continue, or start a new run with another --out",
        )
    return {name: values for name, values in changes.items() if name not in BY_CONTENT}
