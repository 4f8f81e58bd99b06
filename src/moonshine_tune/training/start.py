"""What a run starts at: the base model, or the adapter of an earlier run and its recordings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.files import sha256_of
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.inference.dataset import TrainingData, read_training_data
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.parent import Parent, read_parent
from moonshine_tune.training.continued import ContinuedRun
from moonshine_tune.training.earlier import (
    earlier_recordings,
    earlier_remark,
    kept_recordings,
    with_earlier,
)


@dataclass(frozen=True)
class RunStart:
    """Where a run starts, and what it is trained on.

    Attributes:
        data: the manifests, and the earlier recordings that are replayed.
        adapter_dir: the adapter that it starts at; None for the base.
        parent: of a new run; a resumed one has all that it needs in its own folder.
        recordings: of the parent, as they are kept in the run folder.
        remarks: how many recordings are replayed, and what is missing.
    """

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
    settings = resolved.settings
    share = settings.data.earlier_share
    if continued is not None:
        data = read_training_data(settings.data)
        kept = kept_recordings(continued.run)
        folder = continued.run.parent_dir
        data = replace(with_earlier(data, kept), shares_voices=continued.record.voices is not None)
        return RunStart(data, folder if folder.is_dir() else None)
    if settings.adapter.parent is None:
        return RunStart(read_training_data(settings.data))
    # The parent first: what is wrong with it is wrong whatever the manifests say.
    parent = read_parent(settings.adapter.parent)
    parent.check_fits(resolved)
    data = read_training_data(settings.data)
    recordings, remarks = earlier_recordings(parent) if share else ((), [])
    is_same_dev = data.dev is not None and data.dev.sha256 == parent.record.data.get("dev")
    # Recordings without a speaker, as in most logs of corrections, do not say whose voice it is.
    shares = is_same_dev and parent.record.voices is not None
    data = replace(with_earlier(data, recordings), shares_voices=shares)
    remarks = [*parent.remarks_on(settings), *remarks, earlier_remark(parent.name, data, share)]
    return RunStart(data, parent.adapter_dir, parent, recordings, tuple(remarks))


def earlier_fingerprint(run: RunFolder) -> dict[str, str]:
    """The checksum of the earlier recordings of a run, if it has any, as of its manifests."""
    return {"earlier": sha256_of(run.earlier_path)} if run.earlier_path.is_file() else {}
