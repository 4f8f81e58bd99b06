"""Fewer steps for few recordings: the same sentences again and again are memorized, not learned."""

from moonshine_tune.config.resolve import FEW_RECORDINGS, ResolvedSettings
from moonshine_tune.core.nested import flatten, unflatten

# Passes over the recordings. AN4 gets two in its 200 steps, 148 clips of a voice eleven.
_MOST_PASSES = 25
_NUM_SCORES = 5
_STEPS, _EVERY = "train.steps", "select.every_steps"


def with_few_steps(
    resolved: ResolvedSettings, num_clips: int
) -> tuple[ResolvedSettings, tuple[str, ...]]:
    """The settings with as many steps as the recordings bear, and a remark if they are fewer.

    What the user has set stays. Scores come as often as for a longer run.

    Args:
        num_clips: recordings to train on; of a run that replays earlier ones, as many as get the
            new ones drawn as often.
    """
    settings = resolved.settings
    train = settings.train
    epochs_a_step = train.batch_size * train.accumulation / num_clips
    steps = round(_MOST_PASSES / min(epochs_a_step, 1.0))
    if steps >= train.steps or train.stages or not _is_default(resolved, _STEPS):
        return resolved, ()
    changes = {_STEPS: steps}
    if _is_default(resolved, _EVERY):
        changes[_EVERY] = min(max(steps // _NUM_SCORES, 1), settings.select.every_steps)
    flat = dict(flatten(settings.model_dump())) | changes
    changed = type(settings).model_validate(unflatten(flat))
    remark = (
        f"train: few recordings, so {steps} steps instead of {train.steps}: {_MOST_PASSES} passes "
        f"over each, scored every {changed.select.every_steps} steps (another number: --set "
        f"{_STEPS}={train.steps})"
    )
    sources = resolved.sources | dict.fromkeys(changes, FEW_RECORDINGS)
    return ResolvedSettings(changed, sources), (remark,)


def _is_default(resolved: ResolvedSettings, name: str) -> bool:
    """Whether nobody chose the value of a setting for these recordings."""
    source = resolved.sources.get(name, "default")
    return source == "default" or source.startswith(("preset ", "--from "))
