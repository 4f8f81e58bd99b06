"""What a run starts at: the base model, or the adapter of an earlier run and its recordings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.inference.dataset import TrainingData, read_training_data
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.parent import Parent, read_parent
from moonshine_tune.training.continued import ContinuedRun
from moonshine_tune.training.earlier import (
    drawn_share,
    earlier_recordings,
    earlier_remark,
    kept_recordings,
    with_earlier,
)
from moonshine_tune.training.few_clips import with_few_steps


@dataclass(frozen=True)
class RunStart:
    """Where a run starts, and what it is trained on.

    Attributes:
        resolved: its settings, with what the data decide.
        data: the manifests, and the earlier recordings that are replayed.
        adapter_dir: the adapter that it starts at; None for the base.
        parent: of a new run; a resumed one has all that it needs in its own folder.
        recordings: of the parent, as they are kept in the run folder.
        remarks: how many recordings are replayed, what is missing, what the data decided.
    """

    resolved: ResolvedSettings
    data: TrainingData
    adapter_dir: Path | None = None
    parent: Parent | None = None
    recordings: Sequence[Utterance] = ()
    remarks: tuple[str, ...] = ()

    def keep_in(self, run: RunFolder) -> dict[str, Any]:
        """Copy the parent into the folder of a new run; returns what run.json says about it."""
        if self.parent is None:
            return {}
        self.parent.copy_to(run.parent_dir, self.recordings)
        return {"lineage": [item.to_json() for item in self.parent.lineage]}


def start_of_run(resolved: ResolvedSettings, continued: ContinuedRun | None) -> RunStart:
    """Read the manifests of a run and its parent.

    Raises:
        RequestError: no training manifest, or no adapter where the settings name a parent.
        ProblemsError: invalid lines in a manifest, or settings that do not fit the parent.
    """
    if continued is not None:
        data = with_earlier(_manifests(resolved), kept_recordings(continued.run))
        data = replace(data, shares_voices=continued.record.voices is not None)
        folder = continued.run.parent_dir
        return RunStart(resolved, data, folder if folder.is_dir() else None)
    if resolved.settings.adapter.parent is None:
        data = _manifests(resolved)
        beside = data.pseudo_labels.utterances if data.pseudo_labels else ()
        resolved, remarks = with_few_steps(resolved, len(data.train) + len(beside))
        return RunStart(resolved, data, remarks=remarks)
    # The parent first: what is wrong with it is wrong whatever the manifests say.
    parent = read_parent(resolved.settings.adapter.parent)
    parent.check_fits(resolved)
    if resolved.settings.train.folds > 1:
        raise RequestError(
            "folds start at the base model, not at an earlier adapter",
            hint="leave train.folds out, or start at the base: leave out --from",
        )
    return _start_at(parent, resolved)


def _manifests(resolved: ResolvedSettings) -> TrainingData:
    """The manifests of a run; replay audio of the cache that is gone is made again later."""
    data = resolved.settings.data
    is_there = isinstance(data.replay, Path) and data.replay.is_file()
    return read_training_data(data if is_there else data.model_copy(update={"replay": None}))


def _start_at(parent: Parent, resolved: ResolvedSettings) -> RunStart:
    """The start of a new run at an adapter."""
    share = resolved.settings.data.earlier_share
    data = _manifests(resolved)
    remarks = parent.remarks_on(resolved.settings)
    if remark := _other_voices(parent, resolved, data):
        remarks.append(remark)
        settings = resolved.settings
        alone = settings.model_copy(update={"data": settings.data.model_copy(update={"dev": None})})
        resolved, data = replace(resolved, settings=alone), replace(data, dev=None)
    recordings, missing = earlier_recordings(parent) if share else ((), [])
    is_same_dev = data.dev is not None and data.dev.sha256 == parent.record.data.get("dev")
    # Recordings without a speaker, as in most logs of corrections, do not say whose voice it is.
    shares = is_same_dev and parent.record.voices is not None
    data = replace(with_earlier(data, recordings), shares_voices=shares)
    remarks += [*missing, earlier_remark(parent.name, data, share)]
    # So many that the new ones, which have the rest of the draws, are passed as often.
    num_clips = round(len(data.train) / (1.0 - drawn_share(data, share)))
    resolved, few = with_few_steps(resolved, num_clips)
    return RunStart(resolved, data, parent.adapter_dir, parent, recordings, (*remarks, *few))


def _other_voices(parent: Parent, resolved: ResolvedSettings, data: TrainingData) -> str:
    """Why the parent's dev set is not the one for new recordings of one voice; else empty."""
    is_of_parent = resolved.sources.get("data.dev", "").startswith("--from ")
    if data.dev is None or not is_of_parent:
        return ""
    own = {item.speaker for item in data.train.utterances}
    scored = {item.speaker for item in data.dev.utterances}
    if len(own) > 1 or None in own | scored or own & scored:
        return ""
    return (
        f"dev: that of {parent.name} has {len(scored)} other voices, so some recordings of "
        f"{next(iter(own))} are held out instead; to score those voices: --dev "
        f"{quoted(data.dev.path)}"
    )


def earlier_fingerprint(run: RunFolder) -> dict[str, str]:
    """The checksum of the earlier recordings of a run, if it has any, as of its manifests."""
    return {"earlier": sha256_of(run.earlier_path)} if run.earlier_path.is_file() else {}
