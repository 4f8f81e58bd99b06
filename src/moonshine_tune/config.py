"""Settings: small, strict data. Default < preset < file < flag, each value with its source."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moonshine_tune.errors import ProblemsError, RequestError
from moonshine_tune.yaml_files import read_shipped, read_yaml, shipped_names

# Settings that name files; in a settings file they are relative to it.
PATH_SETTINGS = ("data.train", "data.dev", "data.canary", "data.replay", "augment.noise",
                 "augment.rooms")  # fmt: skip


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSettings(_Section):
    """Manifests. Paths in a settings file are relative to that file."""

    train: Annotated[Path | None, Field(description="Training manifest, with texts.")] = None
    dev: Annotated[
        Path | None,
        Field(description="Development manifest; without one, speakers are held out of train."),
    ] = None
    dev_share: Annotated[
        float, Field(gt=0, lt=0.5, description="Share of train held out where dev is missing.")
    ] = 0.1
    shared_speakers: Annotated[
        bool,
        Field(description="Let dev share speakers with train: its WER then flatters by points."),
    ] = False
    canary: Annotated[
        Path | None,
        Field(
            description="General speech that must not get worse. Lines without text are "
            "scored against what the base model hears."
        ),
    ] = None
    replay: Annotated[
        Path | None,
        Field(description="General speech, no texts needed, on which the base model teaches."),
    ] = None
    normalizer: Annotated[
        str | None, Field(description="Text normalizer of all scores; by language if missing.")
    ] = None
    max_clip_s: Annotated[float, Field(gt=0, description="Longer clips are left out.")] = 30.0


class AdapterSettings(_Section):
    """LoRA."""

    rank: Annotated[int, Field(ge=1, le=256, description="Rank of the two matrices.")] = 8
    alpha: Annotated[float, Field(gt=0, description="Effect is scaled by alpha ÷ rank.")] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1, description="Dropout before A.")] = 0.0
    sites: Annotated[
        Literal[
            "qv",
            "attention",
            "all",
            "decoder",
            "decoder-attention",
            "decoder-self-attention",
            "cross-attention",
            "encoder",
        ],
        Field(
            description="Which linear layers get an adapter. `qv`: queries and values of every "
            "attention, encoder and decoder; `attention`: all four of them; `all`: with the MLPs. "
            "In the decoder only: `decoder` (attention and MLP), `decoder-attention` (q, k, v), "
            "`decoder-self-attention`, `cross-attention`. `encoder`: all of it there only."
        ),
    ] = "decoder"
    rslora: Annotated[
        bool, Field(description="Scale by alpha ÷ √rank: for high ranks (rank-stabilized LoRA).")
    ] = False
    dora: Annotated[
        bool,
        Field(
            description="Train lengths and directions of weights apart (DoRA); a step is slower."
        ),
    ] = False


_Chance = Annotated[float, Field(ge=0, le=1)]


class AugmentSettings(_Section):
    """Training clips made harder. Recipes follow from the seed: a repeated run hears the same."""

    share: Annotated[
        float, Field(ge=0, le=1, description="Share of the draws that are changed; 0 = off.")
    ] = 0.0
    variants: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="Changed versions of each clip, whose encoder states are stored as those "
            "of the clip are: preparing takes so much longer, steps stay fast. 0 = a new version "
            "at each draw, encoded each time.",
        ),
    ] = 4
    noise_chance: Annotated[_Chance, Field(description="Noise, from `noise`.")] = 0.6
    noise: Annotated[
        Path | None, Field(description="Folder of noise recordings, or a manifest of them.")
    ] = None
    snr_db: Annotated[
        tuple[float, float], Field(description="Lowest and highest signal-to-noise ratio, dB.")
    ] = (0.0, 20.0)
    room_chance: Annotated[_Chance, Field(description="A room, from `rooms`.")] = 0.2
    rooms: Annotated[
        Path | None, Field(description="Folder of room impulse responses, or a manifest of them.")
    ] = None
    gain_chance: Annotated[_Chance, Field(description="Louder or quieter.")] = 0.3
    gain_db: Annotated[tuple[float, float], Field(description="Lowest and highest gain, dB.")] = (
        -12.0,
        6.0,
    )
    speed_chance: Annotated[_Chance, Field(description="Slower or faster, as a tape.")] = 0.3
    speeds: Annotated[
        tuple[float, float], Field(description="Slowest and fastest, as a factor of the speed.")
    ] = (0.9, 1.1)
    telephone_chance: Annotated[_Chance, Field(description="300–3400 Hz in 8 bits.")] = 0.05
    clipping_chance: Annotated[_Chance, Field(description="Peaks cut off.")] = 0.05
    masking_chance: Annotated[_Chance, Field(description="Up to three holes of 60 ms.")] = 0.1

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        for name in ("snr_db", "gain_db", "speeds"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"augment.{name}: {low:g} lies above {high:g}")
        if not 0.5 <= self.speeds[0] <= self.speeds[1] <= 2.0:
            raise ValueError("augment.speeds: between 0.5 and 2")
        return self


class StageSettings(_Section):
    """One stage of a length curriculum."""

    steps: Annotated[int, Field(ge=1, description="Optimizer steps of the stage.")]
    max_clip_s: Annotated[float, Field(gt=0, description="Longest clip that it draws, seconds.")]


class TrainSettings(_Section):
    """The loop."""

    steps: Annotated[int, Field(ge=1, description="Optimizer steps at most.")] = 200
    batch_size: Annotated[int, Field(ge=1, description="Utterances in a micro-batch.")] = 8
    accumulation: Annotated[int, Field(ge=1, description="Micro-batches in a step.")] = 1
    learning_rate: Annotated[float, Field(gt=0, description="Peak rate of decoder sites.")] = 5e-4
    encoder_learning_rate: Annotated[
        float, Field(gt=0, description="Peak rate of encoder sites; 1e-3 goes to NaN on medium.")
    ] = 1e-4
    lora_plus_ratio: Annotated[
        float,
        Field(ge=1, description="Rate of B as a multiple of that of A (LoRA+ takes about 16)."),
    ] = 1.0
    warmup_share: Annotated[float, Field(ge=0, lt=1, description="Share of steps to warm up.")] = (
        0.1
    )
    final_rate_share: Annotated[
        float, Field(ge=0, le=1, description="Rate at the end as a share of the peak.")
    ] = 0.05
    weight_decay: Annotated[float, Field(ge=0, description="AdamW's weight decay.")] = 0.0
    stages: Annotated[
        tuple[StageSettings, ...],
        Field(
            description="Length curriculum: `[{steps: 100, max_clip_s: 8}, …]`; after the last "
            "stage its clips go on. Empty: all clips from the start."
        ),
    ] = ()
    speaker_balance: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="How far speakers are drawn equally often: 0 by their clips, 1 equally.",
        ),
    ] = 0.0
    easy_first: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Share of the steps that hear only the easier clips by the base model's "
            "loss: half of it the easiest third, half the easier two thirds.",
        ),
    ] = 0.0
    gradient_checkpointing: Annotated[
        bool, Field(description="Recompute activations: a third more time, far less memory.")
    ] = False
    clip_norm: Annotated[float, Field(gt=0, description="Gradient norm is clipped to this.")] = 1.0
    max_skipped_steps: Annotated[
        int, Field(ge=1, description="Non-finite steps in a row that end the run.")
    ] = 10
    save_every_minutes: Annotated[
        float, Field(gt=0, description="The state for an exact resume is never older than this.")
    ] = 5.0
    seed: Annotated[int, Field(ge=0, description="Seed of order, adapter and dropout.")] = 0


class RetainSettings(_Section):
    """What keeps general speech: the frozen base teaches on replay audio."""

    weight: Annotated[
        float, Field(ge=0, description="Weight of the KL to the base model on replay audio.")
    ] = 1.0
    clips_per_step: Annotated[int, Field(ge=1, description="Replay clips in a step.")] = 4
    max_clips: Annotated[
        int,
        Field(ge=1, description="Different replay clips that are heard; evenly from the manifest."),
    ] = 150
    targets: Annotated[
        Literal["teacher", "transcripts"],
        Field(
            description="What replay teaches: always what the base model says, or the transcript "
            "where the line has a text."
        ),
    ] = "teacher"
    domain_weight: Annotated[
        float,
        Field(
            ge=0,
            description="Weight of the KL to the base model on the training clips themselves.",
        ),
    ] = 0.0
    watched_clips: Annotated[
        int,
        Field(
            ge=0,
            description="Replay clips, at most a fifth, held out as canary where none is named: "
            "how far the adapter drifts from what the base hears. 0 = none.",
        ),
    ] = 20
    strengths: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(description="Adapter strengths tried at the end on dev and canary."),
    ] = (1.0, 0.8, 0.6)


class SelectSettings(_Section):
    """Which adapter is the best, and when to stop."""

    every_steps: Annotated[int, Field(ge=1, description="Steps between dev scores.")] = 25
    patience: Annotated[
        int, Field(ge=1, description="Dev scores without a new best that end the run.")
    ] = 6
    max_dev_utterances: Annotated[
        int, Field(ge=1, description="Dev utterances scored during the run.")
    ] = 200
    canary_bound: Annotated[
        float, Field(ge=0, description="Points of WER that the canary may lose.")
    ] = 2.0
    average_last: Annotated[
        int,
        Field(
            ge=0,
            le=50,
            description="The mean of so many last scored adapters is tried as one more; 0 = off.",
        ),
    ] = 0


class DeviceSettings(_Section):
    """Where and in which numbers it runs."""

    name: Annotated[str, Field(description="auto, cpu, mps, cuda or cuda:N.")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(
            description="Number format of the arithmetic. auto: bfloat16 on GPUs that have it, "
            "else float32; on MPS bfloat16 after doctor's gradient check has passed."
        ),
    ] = "auto"
    frozen_weights: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="Number format in which the frozen weights are kept."),
    ] = "float32"
    clear_cache_steps: Annotated[
        int,
        Field(ge=0, description="Steps between clearings of MPS's cache; 0 = never."),
    ] = 20
    budget_gib: Annotated[
        float | None,
        Field(
            gt=0,
            description="Memory that a run may take; without one: 9.5 GiB on MPS, nine tenths of "
            "the GPU's memory on CUDA, nine tenths of the memory free now on the CPU.",
        ),
    ] = None
    state_cache_mb: Annotated[
        int,
        Field(ge=0, description="Memory for stored encoder states of a frozen encoder; 0 = none."),
    ] = 1500
    state_storage: Annotated[
        Literal["auto", "memory", "disk"],
        Field(
            description="Where they are stored; auto: in memory while state_cache_mb lasts, larger "
            "corpora in the program's cache on disk, where later runs find them."
        ),
    ] = "auto"
    state_format: Annotated[
        Literal["float16", "bfloat16", "float32"],
        Field(description="Number format of states on disk; bfloat16 weights make it bfloat16."),
    ] = "float16"
    state_disk_mb: Annotated[
        int,
        Field(ge=0, description="Bound of all stored states on disk; the oldest are removed."),
    ] = 20_000


class RunSettings(_Section):
    """All settings of `train`."""

    model: Annotated[str, Field(description="Catalog name, hub id or folder.")] = "tiny"
    tracker: Annotated[
        str | None,
        Field(
            description="Also send the figures to a tracker that Accelerate knows: wandb, mlflow, "
            "trackio, comet_ml, …; TensorBoard's files are written always."
        ),
    ] = None
    data: DataSettings = DataSettings()
    adapter: AdapterSettings = AdapterSettings()
    augment: AugmentSettings = AugmentSettings()
    train: TrainSettings = TrainSettings()
    retain: RetainSettings = RetainSettings()
    select: SelectSettings = SelectSettings()
    device: DeviceSettings = DeviceSettings()


@dataclass(frozen=True)
class ResolvedSettings:
    """Settings with, for each key that is not at its default, where its value came from."""

    settings: RunSettings
    sources: dict[str, str]


def preset_names() -> tuple[str, ...]:
    """Names of the presets that ship with the package."""
    return shipped_names("presets")


def read_preset(name: str) -> dict[str, Any]:
    """The content of a shipped preset.

    Raises:
        RequestError: there is none of that name.
    """
    if name not in preset_names():
        raise RequestError(
            f"no preset is called {name!r}{_nearest(name, preset_names())}",
            hint=f"one of: {', '.join(preset_names())}",
        )
    return dict(read_shipped("presets", name) or {})


def read_settings_file(path: Path) -> dict[str, Any]:
    """A YAML settings file; manifest paths in it are made absolute.

    Raises:
        RequestError: it is missing or not a YAML mapping.
    """
    if not path.is_file():
        raise RequestError("no such settings file", where=path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise RequestError("settings must be a YAML mapping", where=path)
    for name in PATH_SETTINGS:
        section, _, key = name.partition(".")
        values = content.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            values[key] = str((path.parent / Path(values[key]).expanduser()).absolute())
    return content


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`--set train.learning_rate=3e-4` as a nested mapping; values are YAML.

    Raises:
        RequestError: an assignment without `=`.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise RequestError(
                f"--set {assignment!r} has no '='", hint="write: --set train.learning_rate=3e-4"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RequestError(
                f"--set {assignment!r}: the value cannot be read as YAML",
                hint=f"put it into quotes: --set {key.strip()}='\"{text}\"'",
            ) from error
        if isinstance(value, str):
            # YAML 1.1 reads 3e-4 as text; people mean a number.
            with suppress(ValueError):
                value = float(value)
        place = result
        *parents, last = key.strip().split(".")
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise RequestError(f"--set {key}: {parent!r} is set to a value already")
            place = inner
        place[last] = value
    return result


def resolve_settings(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> ResolvedSettings:
    """Lay settings over each other, later ones win; all problems are reported at once.

    Args:
        layers: (source, nested mapping), weakest first, such as ("preset tiny", {...}).

    Raises:
        ProblemsError: unknown keys (with the nearest name) or values out of range.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    known = {key for key, _ in leaves(RunSettings().model_dump())}
    for source, content in layers:
        for key, value in leaves(content):
            if key not in known:
                problems.append(f"{source}: no setting is called {key!r}{_nearest(key, known)}")
                continue
            sources[key] = source
            place = merged
            *parents, last = key.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
    try:
        settings = RunSettings.model_validate(merged)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            where = _source_of(key, sources)
            problems.append(f"{where}: {key} = {item['input']!r}: {item['msg']}")
        settings = RunSettings()
    if problems:
        raise ProblemsError(
            f"{len(problems)} settings are wrong",
            problems,
            hint="all settings and their meaning: docs/settings.md",
        )
    return ResolvedSettings(settings, sources)


def _source_of(key: str, sources: Mapping[str, str]) -> str:
    """Where a value came from, also one that lies inside of a list (`train.stages.0.steps`)."""
    while key:
        if key in sources:
            return sources[key]
        key = key.rpartition(".")[0]
    return "settings"


def leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested settings, each with its dotted name."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nearest(name: str, known: Sequence[str] | set[str]) -> str:
    candidates = sorted(known)
    found = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    if not found:
        last = name.rpartition(".")[2]
        by_last = {key.rpartition(".")[2]: key for key in candidates}
        close = difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.6)
        found = [by_last[close[0]]] if close else []
    return f"; did you mean {found[0]!r}?" if found else ""
