"""The settings of a run: what can be set, its type, its bounds and its default."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
    dev: Annotated[
        bool,
        Field(
            description="Score dev with every clip changed too, and choose the adapter by both: on "
            "clean clips alone one that has just begun to hear through noise looks as good.",
        ),
    ] = True
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
        Field(
            description="Number format of the frozen weights. bfloat16: half the memory, and "
            "down to half the time on CPUs that multiply it (AVX512-BF16, AMX)."
        ),
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
        Field(
            ge=0,
            description="Memory for stored encoder states, or, where the encoder trains, for what "
            "its layers read; 0 = none.",
        ),
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
