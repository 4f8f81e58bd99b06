"""The run or adapter that a training starts at: its settings, its record, and its line of descent.

A training that goes on from it computes with the same matrices, so rank, scale and target modules
are those of the adapter. The other settings are those of the parent's run, where there is one.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from moonshine_tune.config.resolve import (
    FEW_RECORDINGS,
    PARENT_SETTING,
    PATH_SETTINGS,
    Layer,
    ResolvedSettings,
    resolve_settings,
)
from moonshine_tune.config.resume import settings_as_run
from moonshine_tune.config.settings import RunSettings, setting_rows
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import complete_folder, read_json, sha256_of
from moonshine_tune.core.nested import flatten, unflatten
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance, write_manifest
from moonshine_tune.models.adapter_config import ALTERING_STARTS, FULL, lora_fields, start_of
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, BASE_FILE
from moonshine_tune.models.lora import TARGET_MODULES, find_adapter
from moonshine_tune.runs.folder import RunFolder, status_now
from moonshine_tune.runs.kept_adapter import altered_adapter
from moonshine_tune.runs.locations import locate
from moonshine_tune.runs.records import BETTER, BaseModelRecord, ParentRecord, RunRecord

_FILES = (ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE, BASE_FILE)
# Fields of PEFT that give single layers another shape, which no setting can name.
_BY_LAYER = ("exclude_modules", "rank_pattern", "alpha_pattern", "layers_to_transform",
             "layers_pattern", "fan_in_fan_out")  # fmt: skip
# Of the machine, and of the new recordings: not the parent's. Folds start at the base.
_OWN = ("device.", "tracker", PARENT_SETTING, "data.train", "data.unlabelled", "train.folds")
_MODULES = tuple(
    f"model.{name}"
    for part, attentions in (
        ("decoder", ("self_attn", "encoder_attn")),
        ("encoder", ("self_attn",)),
    )
    for name in (
        *(f"{part}.layers.0.{item}.{proj}_proj" for item in attentions for proj in "qkvo"),
        *(f"{part}.layers.0.mlp.fc{number}" for number in (1, 2)),
    )
)


@dataclass(frozen=True)
class Parent:
    """The adapter that a training starts at.

    Attributes:
        path: as it was named.
        adapter_dir: folder of the adapter.
        shape: the settings of `adapter` that its matrices have, by their names there. A strength
            that was chosen is a part of `alpha`, or of fully tuned matrices. Empty as of
            `read_origin`.
        run: the run that made it; None for an adapter without its run.
        record: of that run; empty without one.
    """

    path: Path
    adapter_dir: Path
    shape: dict[str, Any] = field(default_factory=dict)
    run: RunFolder | None = None
    record: RunRecord = field(default_factory=RunRecord)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return str(self.path)

    @property
    def adapter_sha256(self) -> str:
        """Hash of its matrices."""
        return sha256_of(self.adapter_dir / ADAPTER_WEIGHTS_FILE)

    @property
    def lineage(self) -> list[ParentRecord]:
        """This adapter and those that it goes back to, the nearest first."""
        base = self.record.base
        if (self.adapter_dir / BASE_FILE).is_file():
            base = BaseModelRecord.read(self.adapter_dir / BASE_FILE)
        best = self.record.result.best
        own = ParentRecord(
            path=str(self.path.absolute()),
            adapter_sha256=self.adapter_sha256,
            base_sha256=base.content_sha256 or base.sha256,
            steps=best.step if self.record.result.steps is None else self.record.result.steps,
            created=self.record.created,
            data=self.record.data,
        )
        return [own, *self.record.lineage]

    @property
    def layer(self) -> Layer:
        """Its settings as a source for those of the new run."""
        content: dict[str, Any] = {}
        if self.run is not None:
            known = {name for name, *_ in setting_rows()}
            flat = flatten(settings_as_run(self.record.settings))
            content = {
                name: value
                for name, value in flat
                if name in known
                and name not in PATH_SETTINGS
                and not name.startswith(_OWN)
                # Decided by its number of recordings, not by its user.
                and self.record.sources.get(name) != FEW_RECORDINGS
            }
            present = locate(self.run.path, self.record).present
            content |= {name: str(path) for name, path in present.items() if name not in _OWN}
        elif (self.adapter_dir / BASE_FILE).is_file():
            name = BaseModelRecord.read(self.adapter_dir / BASE_FILE).name
            content |= {"model": name} if name else {}
        shape = {f"adapter.{name}": value for name, value in self.shape.items()}
        return f"--from {self.name}", unflatten(content | shape)

    def remarks_on(self, settings: RunSettings) -> list[str]:
        """What a run with these settings does not have any more, and what speaks against it."""
        altered = altered_adapter(self.adapter_dir)
        if self.run is None:
            return [altered] if altered else []
        now = dict(flatten(settings.model_dump(mode="json")))
        missing = locate(self.run.path, self.record).missing
        remarks = [altered] if altered else []
        remarks += [
            f"{name} of {self.name} is not there any more ({path}): continuing without it"
            for name, path in missing.items()
            if name not in _OWN and now[name] is None
        ]
        if status_now(self.run.path, self.record.status) == "running":
            remarks.append(f"{self.name} is still being trained: its best adapter so far is taken")
        if (verdict := self.record.result.judged) not in ("", BETTER):
            remarks.append(f"{self.name} is recorded as: {verdict}")
        return remarks

    def check_fits(self, resolved: ResolvedSettings) -> None:
        """Refuse settings that give the adapter another shape, all of them at once.

        Raises:
            ProblemsError: rank, scale or target modules are not those of this adapter.
        """
        now = resolved.settings.adapter
        problems = [
            f"adapter.{name}: {self.shape[name]} in {self.name}, {getattr(now, name)} by "
            f"{resolved.sources.get(f'adapter.{name}', 'default')}"
            for name in self.shape
            if getattr(now, name) != self.shape[name]
        ]
        if problems:
            names = " ".join(f"--set adapter.{name}={self.shape[name]}" for name in self.shape
                             if getattr(now, name) != self.shape[name])  # fmt: skip
            raise ProblemsError(
                f"{self.name}: training cannot start at this adapter with another shape",
                problems,
                hint=f"leave these settings out, or name the adapter's own: {names}; to start at "
                "the base model, leave out --from",
            )

    def copy_to(self, folder: Path, recordings: Sequence[Utterance]) -> None:
        """Keep the adapter and the list of its training recordings, complete or not at all.

        A run that goes on from it can then be resumed and evaluated after the parent is gone.
        """
        with complete_folder(folder, replace=True) as scratch:
            for name in _FILES:
                if (self.adapter_dir / name).is_file():
                    shutil.copyfile(self.adapter_dir / name, scratch / name)
            if recordings:
                write_manifest(scratch / RunFolder(folder.parent).earlier_path.name, recordings)


def read_parent(path: Path) -> Parent:
    """The adapter in a run or adapter folder that a training can start at.

    Raises:
        RequestError: no adapter is there, or one whose shape no setting can name.
    """
    origin = read_origin(path)
    return replace(origin, shape=_shape_of(origin.adapter_dir))


def read_origin(path: Path) -> Parent:
    """The adapter in a run or adapter folder, and the run that made it; its shape is not read.

    Raises:
        RequestError: no adapter is there.
    """
    if not path.is_dir():
        raise RequestError(
            "a file, not a folder" if path.exists() else "no such folder",
            where=path,
            hint="name a run folder of `moonshine-tune train`, or its adapter/ folder",
        )
    adapter_dir = find_adapter(path)
    for folder in (path, path.absolute().parent):
        run = RunFolder(folder)
        if run.record_path.is_file() and run.adapter_dir.resolve() == adapter_dir.resolve():
            return Parent(path, adapter_dir, run=run, record=run.read_record())
    return Parent(path, adapter_dir)


def parts_of(record: RunRecord) -> Iterator[tuple[str, Parent | None]]:
    """The adapters that the adapter of a run is the sum of, by the path that they had.

    None for one that is not there any more, or that another adapter has taken the place of.
    """
    digests = {item.adapter_sha256 for item in record.result.combined}
    for item in record.lineage:
        if item.adapter_sha256 in digests:
            part = None
            with suppress(RequestError):
                part = read_origin(Path(item.path))
            is_same = part is not None and part.adapter_sha256 == item.adapter_sha256
            yield item.path, part if is_same else None


def with_parent(layers: Sequence[Layer]) -> list[Layer]:
    """The layers on top of the parent's settings; as they are if they name no parent.

    Raises:
        RequestError: as of `read_parent`.
    """
    named = [
        value for _, content in layers for key, value in flatten(content) if key == PARENT_SETTING
    ]
    if not named or not named[-1]:
        return list(layers)
    # As the settings read it: a number is a wrong path, in their words.
    path = resolve_settings([("--from", {PARENT_SETTING: named[-1]})]).settings.adapter.parent
    return list(layers) if path is None else [read_parent(path).layer, *layers]


def _shape_of(adapter_dir: Path) -> dict[str, Any]:
    """The settings of `adapter` that give matrices of this shape."""
    path = adapter_dir / ADAPTER_CONFIG_FILE
    fields = read_json(path)
    if fields.get("peft_type") == FULL:
        return _shape_of_full(adapter_dir)
    arguments = lora_fields(fields, path)
    problem = ""
    if by_layer := [name for name in _BY_LAYER if arguments.get(name)]:
        problem = f"its layers differ ({', '.join(by_layer)})"
    elif (start := start_of(fields)) in ALTERING_STARTS:
        problem = f"it was started with {start}, which changed the base"
    elif (sites := _sites_of(adapter_dir / ADAPTER_WEIGHTS_FILE)) is None:
        problem = f"its target modules are none of {', '.join(TARGET_MODULES)}"
    if problem:
        raise RequestError(
            f"training cannot start at this adapter: {problem}",
            where=path,
            hint="merge it, and train on the merged model: moonshine-tune merge --run "
            f"{quoted(adapter_dir)} --out merged ; moonshine-tune train --model merged --train …",
        )
    return {
        "kind": "lora",
        "rank": arguments.get("r", 8),
        "alpha": float(arguments.get("lora_alpha", 8)),
        "sites": sites,
        "rslora": bool(arguments.get("use_rslora")),
        "dora": bool(arguments.get("use_dora")),
    }


def _shape_of_full(adapter_dir: Path) -> dict[str, Any]:
    """The same for the matrices of full fine-tuning."""
    sites = _sites_of(adapter_dir / ADAPTER_WEIGHTS_FILE)
    if sites is None:
        raise RequestError(
            f"training cannot start here: its layers are none of {', '.join(TARGET_MODULES)}",
            where=adapter_dir,
            hint="start at the base model: leave out --from",
        )
    return {"kind": "full", "sites": sites}


def _sites_of(weights: Path) -> str | None:
    """The value of `adapter.sites` whose layers have matrices; None where there is none."""
    try:
        with safe_open(weights, framework="np") as file:
            keys = list(file.keys())
    except SafetensorError as error:
        raise RequestError(
            f"damaged or cut off: {error}", where=weights, hint="copy the adapter folder again"
        ) from error
    modules = {
        re.sub(r"\.layers\.\d+\.", ".layers.0.", key.removeprefix("base_model.model."))
        for key in (key.partition(".lora_")[0].removesuffix(".weight") for key in keys)
    }
    for name, pattern in TARGET_MODULES.items():
        if modules == {item for item in _MODULES if re.fullmatch(pattern, item)}:
            return name
    return None
