"""The settings of a run: types, bounds, defaults, and when to change them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

REPLAY_WORDS = ("auto", "hub", "none")
"""Values of `data.replay` that are no path; a file of such a name is written `./auto`."""


class _Section(BaseModel):
    # The docstring below a field is its description: the meaning, then when to change it.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


_Probability = Annotated[float, Field(ge=0, le=1)]


class DataSettings(_Section):
    """Manifests. Paths in a settings file are relative to that file."""

    train: Path | None = None
    """Training manifest, with transcripts. Every run needs one, or `unlabelled`."""
    dev: Path | None = None
    """Development manifest, by which the adapter is chosen; without one, speakers of the training
    manifest are held out, or sentences where there is one voice. Give one if you have recordings
    that resemble the later use."""
    dev_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the training manifest that is held out if there is no development manifest. Raise it
    for a small corpus, where a tenth is too few words to compare adapters."""
    shared_speakers: bool = False
    """Allow the held-out utterances to share speakers with the training set. Switch it on for a
    split of your own with voices that the model will serve; WER on dev is then optimistic by
    several points for others. One voice, and splits of `data split`, do not need it."""
    canary: Path | None = None
    """General speech whose WER must stay within `select.canary_bound`; lines without a transcript
    are scored against what the base model writes. Give one to limit the loss on general speech."""
    replay: Literal["auto", "hub"] | Path | None = None
    """General speech on which the frozen base model acts as a teacher: a manifest or a folder of
    recordings, no transcripts needed; `auto` synthesizes sentences and needs no network,
    `hub` downloads recordings, `none` does without. Give recordings of your own if you have any:
    they keep general speech best."""
    synthetic: Path | None = None
    """Manifest of synthesized clips that train beside `train`. Give one, made by `data synth`, if
    you have more texts than recordings."""
    synthetic_share: _Probability | None = None
    """Share of each step that is synthetic or pseudo-labeled, where others train too; by default
    100 ÷ (100 + other clips), and never more than their share of all clips. Lower it if real voices
    get worse."""
    unlabelled: Path | None = None
    """Recordings without transcripts that train too: a folder, or a manifest. The base model writes
    their texts, and those that it is likely to have right are learned. Give some if you have hours
    that nobody transcribed; needs `dev`, with transcripts."""
    pseudo_labels: Path | None = None
    """Manifest of clips that train beside `train`, with texts that a model wrote; a run with
    `unlabelled` writes its own. Give that of an earlier run, to use its labels again."""
    pseudo_rounds: int = Field(default=2, ge=1, le=2)
    """How often `unlabelled` is labeled and trained on: by the base, then by the first adapter.
    Set it to 1 to halve the time."""
    terms: Path | None = None
    """Terms, one per line, whose tokens weigh `train.term_weight`. Give the words that the model
    must not miss."""
    normalizer: str | None = None
    """Text normalizer of all scores: english-1, spelled-1 or basic-1; by default chosen by
    language. Change it for spelled letters and digits (spelled-1)."""
    teach_silence: bool = False
    """Learn the training and replay clips with an empty text as silence: the model writes nothing
    on them. Switch it on, with a few clips of silence and noise as they occur later, if the model
    makes up words where nobody speaks."""
    earlier_share: float = Field(default=0.5, ge=0, lt=1)
    """Share of the drawn training clips that the earlier run was trained on, where
    `adapter.parent` names one; 0 = none. Raise it if the new adapter loses what the earlier one
    knew; set it to 0 if those recordings were wrong."""
    max_clip_s: float = Field(default=30.0, gt=0)
    """Longest utterance that is used, in seconds; longer ones are skipped and counted. Lower it if
    memory runs out with a single clip."""

    @field_validator("replay", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: Any) -> Any:
        return None if value == "none" else value


class AdapterSettings(_Section):
    """The LoRA adapter, or what trains in its place."""

    kind: Literal["lora", "full"] = "lora"
    """`lora` trains small matrices beside those of the layers, `full` the layers' own (full
    fine-tuning, `--full`), at far lower rates. Choose `full` for hours of transcribed speech, if
    the memory is there."""
    parent: Path | None = None
    """Run folder or adapter folder whose adapter the training starts at; by default it starts at
    the base model. Name one to learn new recordings, such as a week's corrections, without
    training from the beginning."""
    rank: int = Field(default=8, ge=1, le=256)
    """Rank of the LoRA matrices. Raise it for much training data (tens of hours); rates matter more
    than ranks on small corpora."""
    alpha: float = Field(default=16.0, gt=0)
    """The adapter's effect is scaled by alpha ÷ rank. Change it together with the rank, to keep the
    ratio."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout in front of the LoRA matrices. Raise it to 0.1 or 0.2 if dev WER rises while the
    training loss falls."""
    sites: Literal[
        "qv",
        "attention",
        "all",
        "decoder",
        "decoder-attention",
        "decoder-self-attention",
        "cross-attention",
        "encoder",
    ] = "decoder"
    """Linear layers that get an adapter, or that train (target modules). `qv`: queries and values
    of all attention, in encoder and decoder; `attention`: its four projections; `all`: attention
    and MLPs. Only in the decoder: `decoder` (attention and MLP), `decoder-attention` (q, k, v),
    `decoder-self-attention`, `cross-attention`. `encoder`: all of the encoder's. Choose `all` for
    voices, noise or unusual acoustics, which the encoder must learn."""
    rslora: bool = False
    """Scale by alpha ÷ √rank (rank-stabilized LoRA). Switch it on for ranks above 32."""
    dora: bool = False
    """Train magnitude and direction of the weights separately (DoRA). Try it if a higher rank does
    not help; a step takes longer."""


class AugmentSettings(_Section):
    """Audio augmentation, deterministic for a given seed."""

    share: float = Field(default=0.0, ge=0, le=1)
    """Share of the drawn training clips that are augmented; 0 = off. Set it to 0.5 if later
    recordings are noisier or more varied than the training set."""
    synthetic_share: _Probability | None = None
    """Share of the drawn synthetic clips that are augmented; by default that of `share`. Set it to
    0.5 or 1 where no real recording trains: synthesizers are cleaner than rooms."""
    variants: int = Field(default=4, ge=0, le=100)
    """Augmented versions of each clip, encoded once before training; 0 = a new version at each
    draw, encoded each time. Raise it for a small corpus; preparation takes longer, steps do not."""
    dev: bool = True
    """Also score augmented dev clips, and choose the adapter by both scores: WER on clean clips
    does not show robustness. Switch it off if only clean recordings matter."""
    noise_chance: _Probability = 0.6
    """Probability of noise from `noise`. Set it to 1 if noise is the only difference."""
    noise: Path | None = None
    """Folder of noise recordings, or a manifest of them. Give noises of the later use, and keep the
    recordings that you test with out of it."""
    snr_db: tuple[float, float] = (0.0, 20.0)
    """Lowest and highest signal-to-noise ratio, dB. Raise the lowest if nobody would understand
    speech at 0 dB in your application."""
    room_chance: _Probability = 0.2
    """Probability of reverberation from `rooms`. Raise it for microphones far from the speaker."""
    rooms: Path | None = None
    """Folder of room impulse responses, or a manifest of them. Give some for microphones far from
    the speaker."""
    gain_chance: _Probability = 0.3
    """Probability of a change of level. Raise it if levels differ between your recordings."""
    gain_db: tuple[float, float] = (-12.0, 6.0)
    """Lowest and highest gain, dB. Lower the lowest for very quiet recordings."""
    speed_chance: _Probability = 0.3
    """Probability of a change of speed, which changes the pitch too. Raise it for few speakers."""
    speeds: tuple[float, float] = (0.9, 1.1)
    """Lowest and highest speed, as factors. Widen the range for children's or hurried speech."""
    telephone_chance: _Probability = 0.05
    """Probability of a telephone channel: 300–3400 Hz in 8 bits. Raise it for telephone or radio
    speech if the training set has none."""
    clipping_chance: _Probability = 0.05
    """Probability of clipped peaks. Raise it for overdriven microphones."""
    masking_chance: _Probability = 0.1
    """Probability of up to three gaps of 60 ms. Raise it for connections that lose packets."""

    @property
    def highest_share(self) -> float:
        """The larger of the shares of real and of synthetic clips."""
        return max(self.share, self.synthetic_share or 0.0)

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        for name in ("snr_db", "gain_db", "speeds"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"augment.{name}: {low:g} is above {high:g}")
        if not 0.5 <= self.speeds[0] <= self.speeds[1] <= 2.0:
            raise ValueError("augment.speeds: between 0.5 and 2")
        return self


class StageSettings(_Section):
    """One stage of a length curriculum."""

    steps: int = Field(ge=1)
    """Optimizer steps of the stage."""
    max_clip_s: float = Field(gt=0)
    """Longest clip of the stage, in seconds."""


class TrainSettings(_Section):
    """Optimization."""

    steps: int = Field(default=200, ge=1)
    """Maximum number of steps; unless it is set, few recordings get fewer: 25 passes over each.
    Raise it for more than an hour of speech, or if the best adapter is that of the last steps."""
    batch_size: int = Field(default=8, ge=1)
    """Utterances in a micro-batch. Lower it, and raise `accumulation`, if memory is short."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches in a step. Raise it to keep the effective batch with a smaller `batch_size`."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak learning rate in the decoder; 5e-5 with `adapter.kind=full`, unless it is set. Lower it
    if steps are skipped or dev WER jumps; raise it to 1e-3 if an adapter's loss falls slowly."""
    encoder_learning_rate: float = Field(default=1e-4, ge=0)
    """Peak learning rate in the encoder; 2e-5 with `adapter.kind=full`, unless it is set; 0 freezes
    the encoder. Raise it to 5e-4 for adapters in tiny, to learn voices; 1e-3 gives NaN on
    medium."""
    lora_plus_ratio: float = Field(default=1.0, ge=1)
    """Learning rate of B as a multiple of that of A (LoRA+ uses about 16). Set it to 8 if training
    time is short."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps that warm up the learning rate. Raise it if the first steps are
    skipped."""
    final_rate_share: float = Field(default=0.05, ge=0, le=1)
    """Learning rate at the end, as a share of the peak. Set it to 1 for a constant rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay. Raise it to 0.01 if the adapter overfits in spite of dropout."""
    stages: tuple[StageSettings, ...] = ()
    """Length curriculum, `[{steps: 100, max_clip_s: 8}, …]`; the clips of the last stage are used
    to the end; empty: all clips from the start. Use it for a corpus of very long clips."""
    speaker_balance: float = Field(default=0.0, ge=0, le=1)
    """How far speakers are drawn equally often: 0 by their number of clips, 1 equally. Raise it if
    a few speakers have most of the clips."""
    easy_first: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps that use only clips on which the base model has a low loss: first the
    easiest third, then the easier two thirds. Try 0.5 for a corpus of very hard clips."""
    term_weight: float = Field(default=1.0, ge=1, le=100)
    """Weight in the loss of the tokens of `data.terms`; all others weigh 1. Raise it to 3 if listed
    terms are still missed."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: far less memory, a third more time. Switch it on
    if a batch of one does not fit."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient; larger ones are scaled down. Lower it if the loss has
    spikes."""
    max_skipped_steps: int = Field(default=10, ge=1)
    """Consecutive non-finite steps that end the run. Raise it for float16, whose first steps may
    overflow."""
    save_every_minutes: float = Field(default=5.0, gt=0)
    """Oldest age of the state from which a run resumes. Lower it where machines are often stopped;
    raise it for slow disks."""
    seed: int = Field(default=0, ge=0)
    """Seed of clip order, adapter and dropout. Change it to see how much of a result is chance."""
    folds: int = Field(default=1, ge=1, le=10)
    """Trainings with other clips held out each, whose adapters are averaged: all clips are learned
    from, and the time grows with their number. Set it to 2 or 3 for few speakers."""


class RetainSettings(_Section):
    """What keeps the accuracy on general speech: the frozen base model teaches on replay audio."""

    weight: float = Field(default=1.0, ge=0)
    """Weight of the KL divergence from the base model on replay audio. Raise it to 4 if the canary
    loses accuracy."""
    clips_per_step: int = Field(default=4, ge=1)
    """Replay clips in a step. Raise it if the canary loses accuracy; a step takes longer."""
    max_clips: int = Field(default=150, ge=1)
    """Replay clips that are used, evenly spaced in the manifest. Raise it for more steps: few clips
    are memorized."""
    window_s: float = Field(default=4.0, ge=0)
    """Length of the windows that replay clips are cut into, seconds; 0 = whole clips. Raise it if
    long recordings lose accuracy; a step takes longer."""
    varied_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the replay windows that are changed in room, line or noise. Lower it to 0 if
    later recordings are all clean reading."""
    encoder_weight: float = Field(default=10.0, ge=0)
    """Weight of the squared distance of the encoder states from the base model's on replay audio,
    where the encoder trains. Raise it to 100 if the canary loses accuracy."""
    targets: Literal["teacher", "transcripts"] = "teacher"
    """Targets on replay audio: the base model's output, or the transcript of each line that has
    one. Use transcripts only if they follow the conventions of your domain."""
    domain_weight: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from the base model on the training clips. Raise it to 0.3 or 1
    if you have no general speech; accuracy on the domain falls a little."""
    watched_clips: int = Field(default=20, ge=0)
    """Replay clips, at most a fifth, that are held out as the canary if none is named; 0 = none.
    Raise it for a steadier estimate of what general speech loses."""
    strengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0, 0.8, 0.6)
    """Scales of the adapter that are tried at the end: the largest within `select.max_drift`, or
    without replay audio the best on dev and canary. Use [1.0] to keep the adapter as trained."""

    filter_weight: float = Field(default=3.0, ge=0)
    """Weight of general speech when the adapter is filtered: what its layers do to inputs that only
    general speech has is taken out, by parts at each score and at the end if dev shows no loss; 0 =
    off. Raise it to 5 if the canary loses accuracy."""


class SelectSettings(_Section):
    """Which adapter is kept, and when training stops."""

    every_steps: int = Field(default=25, ge=1)
    """Steps between scores on dev. Raise it if scoring takes a large part of the time."""
    patience: int = Field(default=6, ge=1)
    """Scores in a row without a new best that end the run. Raise it if dev WER fluctuates."""
    max_dev_utterances: int = Field(default=200, ge=1)
    """Dev utterances that are scored during training. Raise it for closer comparisons, at the price
    of time."""
    canary_bound: float = Field(default=2.0, ge=0)
    """Points of WER that the canary may lose. Lower it if general speech matters as much as the
    domain."""
    max_drift: float = Field(default=0.05, gt=0)
    """Most that the adapter may drift from the base model on varied, held-out replay audio, in nats
    per token (KL divergence); a stronger one is weakened. Raise it if only the domain matters."""
    average_last: int = Field(default=0, ge=0, le=50)
    """Number of the latest scored adapters whose mean is tried as a further candidate; 0 = off. Set
    it to 3 for a small dev set, where the best score is partly luck."""


class DeviceSettings(_Section):
    """Device, number formats and memory."""

    name: str = "auto"
    """auto, cpu, mps, cuda or cuda:N. Name one to choose between GPUs, or to avoid a faulty one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the arithmetic; auto: bfloat16 on GPUs that have it, else float32. Use
    bfloat16 on MPS, to save memory, after doctor's gradient check has passed."""
    frozen_weights: Literal["float32", "bfloat16"] = "float32"
    """Number format of the frozen weights. bfloat16 takes half the memory, and down to half the
    time on CPUs that multiply it (AVX512-BF16, AMX): use it for small and medium models."""
    clear_cache_steps: int = Field(default=20, ge=0)
    """Steps between looks at MPS's cache, which is released once it takes an eighth of the GPU's
    memory; 0 = never. Lower it if the memory of MPS's driver grows."""
    keep_awake: bool = True
    """Keep a Mac awake while a run trains (`caffeinate`); elsewhere nothing happens. Switch it off
    where another program decides when the machine sleeps."""
    compare_steps: int | None = Field(default=None, ge=0)
    """Steps between comparisons of a micro-batch's loss and gradient with the CPU's, from the first
    step on; a run that disagrees stops. 0 = never; by default 200 on MPS, else never; each takes as
    long as a step on the CPU. Raise it if that is too long; set it on any device that you doubt."""
    budget_gib: float | None = Field(default=None, gt=0)
    """Memory that a run may take. By default 89 % of what Metal recommends on MPS (9.5 GiB on a Mac
    with 16 GB), nine tenths of the GPU's memory on CUDA, nine tenths of the free memory on the CPU.
    Raise it if other programs need little, lower it if the machine swaps."""
    state_cache_mb: int = Field(default=1500, ge=0)
    """Memory for stored encoder states, or for the input of the encoder's layers if the encoder
    trains; 0 = none. Lower it if memory is short; raise it to keep a corpus off the disk."""
    state_storage: Literal["auto", "memory", "disk"] = "auto"
    """Where encoder states are stored; auto: in memory up to `state_cache_mb`, else in the
    program's cache on disk, where later runs reuse them. Use disk to save memory, memory to save
    the disk."""
    state_format: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format of states on disk; bfloat16 weights imply bfloat16. Use float32 to compare runs
    bit by bit with states in memory."""
    state_disk_mb: int = Field(default=20_000, ge=0)
    """Most disk space for all stored states; the oldest are deleted. Raise it for a corpus of more
    than about 70 hours with medium."""


class RunSettings(_Section):
    """All settings of `train`."""

    model: str = "tiny"
    """Catalog name, hub id or folder. Choose a larger model for accuracy, a streaming one for live
    transcription; `moonshine-tune models list` shows the catalog."""
    tracker: str | None = None
    """Also send metrics to a tracker of Accelerate: wandb, mlflow, trackio, comet_ml or another.
    Set it to compare runs of several machines; TensorBoard's files are always written."""
    data: DataSettings = DataSettings()
    adapter: AdapterSettings = AdapterSettings()
    augment: AugmentSettings = AugmentSettings()
    train: TrainSettings = TrainSettings()
    retain: RetainSettings = RetainSettings()
    select: SelectSettings = SelectSettings()
    device: DeviceSettings = DeviceSettings()


def setting_rows(
    section: type[BaseModel] = RunSettings, prefix: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """Dotted name, default and description of every setting."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_rows(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default, " ".join((field.description or "").split())
