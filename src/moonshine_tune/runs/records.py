"""One model for each JSON file that a command writes, shared by its writer and its readers.

Field names are the keys on disk, in the order in which they are written. A record writes what was
given to it, so an optional key that nobody gave stays away. Keys of other versions are kept.
"""

import json
import math
from collections.abc import Iterable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
)

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, write_json_atomic
from moonshine_tune.core.secrets import mask_values
from moonshine_tune.core.text import first_line
from moonshine_tune.corpus.voices import VoiceScope

# Strict: "9" and true are not numbers. An integer stays one, so that a file is written as it was.
Number = StrictInt | StrictFloat
Interval = tuple[Number, Number]
Object = dict[str, Any]
Versions = dict[str, str | None]
Figures = dict[str, Number | None]

PASSED, FAILED, NOT_MEANINGFUL = "passed", "FAILED", "not meaningful"
NOT_MEASURED = "not measured"
# Verdicts of the parity gate.
EQUAL, WORSE, NOT_DECIDED = "equal", "worse", "not decided"


class Record(BaseModel):
    """A JSON object. Every key may be absent: older versions did not write all of them."""

    model_config = ConfigDict(extra="allow", frozen=True, ser_json_inf_nan="constants")

    @classmethod
    def salvage(cls, content: Any) -> tuple[Self, tuple[str, ...]]:
        """As much of `content` as is of the right type, and a sentence for each value left out.

        Values that are left out are removed from `content` itself.
        """
        problems: list[str] = []
        while True:
            try:
                return cls.model_validate(content), tuple(problems)
            except ValidationError as error:
                wrong = _wrong_values(content, error)
            problems += wrong.values()
            if () in wrong:
                content = {}
                continue
            # The last of a list first, so that the others keep their index.
            for path in sorted(wrong, reverse=True):
                del reduce(getitem, path[:-1], content)[path[-1]]

    @property
    def is_empty(self) -> bool:
        """Whether no key was given."""
        return not self.model_fields_set

    def to_json(self) -> Object:
        """The JSON object: the keys that were given, in their order, those of others last."""
        return self.model_dump(mode="json", exclude_unset=True)


class Artifact(Record):
    """A record that is a file.

    Attributes:
        made_by: the command that makes the file, for the hint of an error.
        schema_version: of files that carry one.
    """

    made_by: ClassVar[str]

    schema_version: StrictInt = 1

    @classmethod
    def read(cls, path: Path, *, hint: str | None = None) -> Self:
        """The record in a file.

        Args:
            hint: the next move; without it, the command that makes the file.

        Raises:
            RequestError: missing, not JSON, or with values of a wrong type.
        """
        hint = hint or f"make it again with: {cls.made_by}"
        content = read_json(path, hint=hint)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first, *others = _wrong_values(content, error).values()
            more = f", and {len(others)} more" if others else ""
            raise RequestError(f"{first}{more}", where=path, hint=hint) from error

    def write(self, path: Path) -> None:
        """Write the file, complete or not at all; passwords and tokens in it are masked."""
        write_json_atomic(path, mask_values(self.to_json()))


def _wrong_values(content: object, error: ValidationError) -> dict[tuple[Any, ...], str]:
    """The paths of the values at fault, each with a sentence."""
    wrong: dict[tuple[Any, ...], str] = {}
    for item in error.errors(include_url=False):
        value, path = content, []
        for key in item["loc"]:
            inside = isinstance(value, dict) and key in value
            if not inside and not (isinstance(value, list) and key in range(len(value))):
                # The rest names the types that were tried, or what is not there.
                break
            value = value[key]  # type: ignore[index]
            path.append(key)
        name = ".".join(map(str, path)) or "the file"
        wanted = item["msg"].removeprefix("Input should be ")
        text = f"should be {wanted}, not {first_line(json.dumps(value, default=str), 60)}"
        wrong[tuple(path)] = f"{name} {text}" if wanted != item["msg"] else f"{name}: {wanted}"
    return wrong


# --- scores


class ScoreRecord(Record):
    """A WER in percent with its interval, as several files repeat it."""

    wer: Number | None = None
    ci95: Interval | None = None
    normalizer: str | None = None
    utterances: StrictInt | None = None
    reference_words: StrictInt | None = None


class ComparisonRecord(Record):
    """A paired comparison, in points of WER; below 0 is better."""

    before: Number | None = None
    after: Number | None = None
    difference: Number | None = None
    ci95: Interval | None = None
    relative_change: Number | None = None
    verdict: str = ""

    @property
    def sentence(self) -> str:
        """`WER 20.80 → 15.20, -5.60 points [-7.10, -3.90]: better`; empty without figures."""
        if self.before is None or self.after is None or self.difference is None:
            return ""
        interval = f" [{self.ci95[0]:+.2f}, {self.ci95[1]:+.2f}]" if self.ci95 else ""
        points = f"{self.difference:+.2f} points{interval}"
        return f"WER {self.before:.2f} → {self.after:.2f}, {points}: {self.verdict}"


class KeyTermsArmRecord(Record):
    """One arm of an evaluation with key terms; `change` is against the first arm."""

    arm: str = ""
    wer: Number | None = None
    ci95: Interval | None = None
    terms: StrictInt | None = None
    spoken: StrictInt | None = None
    recalled: StrictInt | None = None
    recall: Number | None = None
    false_alarms: StrictInt | None = None
    false_alarms_per_1000_words: Number | None = None
    change: ComparisonRecord = ComparisonRecord()


class KeyTermsRecord(Record):
    """Key terms: of an evaluation with its arms, of a benchmark with its counts."""

    boost: Number | None = None
    terms: StrictInt | None = None
    spoken: StrictInt | None = None
    recalled: StrictInt | None = None
    recall: Number | None = None
    false_alarms: StrictInt | None = None
    false_alarms_per_1000_words: Number | None = None
    arms: list[KeyTermsArmRecord] = []


class AliasRecord(Record):
    """A text that was written in place of a term; `reason` why it is left out, where it is."""

    text: str = ""
    count: StrictInt = 0
    reason: str | None = None


class TermAliasesRecord(Record):
    """A term in aliases.json.

    Attributes:
        takes: utterances in which it was spoken, by people or by synthetic voices.
        right, unclear: of these, where it was written right, and where the words around it were
            wrong too, so that nothing follows.
    """

    term: str = ""
    takes: StrictInt = 0
    right: StrictInt = 0
    unclear: StrictInt = 0
    aliases: list[AliasRecord] = []
    left_out: list[AliasRecord] = []


class AliasesRecord(Artifact):
    """`aliases.json`: written by data aliases; read by evaluate, transcribe, package and apps.

    Attributes:
        aliases: what is written in place of a term, in small letters with single spaces, and the
            term: all that an app needs.
        model: whose transcripts it is from, and the hash of the adapter, if there was one.
    """

    made_by = "moonshine-tune data aliases"

    aliases: dict[str, str] = {}
    language: str = "en"
    model: str | None = None
    adapter_sha256: str | None = None
    terms: list[TermAliasesRecord] = []
    versions: Versions = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The terms, each once: those that were listed, and those of edited aliases."""
        listed = [item.term for item in self.terms]
        return tuple(dict.fromkeys([*listed, *self.aliases.values()]))

    @classmethod
    def read(cls, path: Path, *, hint: str | None = None) -> Self:
        """The record in a file, perhaps edited by a person.

        Raises:
            RequestError: it has no aliases, or some that no text would match.
        """
        record = super().read(path, hint=hint)
        if not record.aliases and not record.terms:
            raise RequestError(
                "no aliases are in it",
                where=path,
                hint="make such a file with: moonshine-tune data aliases terms.txt --out F.json",
            )
        wrong = [alias for alias in record.aliases if alias != " ".join(alias.lower().split())]
        if wrong:
            raise RequestError(
                f"{len(wrong)} aliases match nothing, such as {wrong[0]!r}",
                where=path,
                hint="write aliases in small letters, with single spaces",
            )
        return record

    def of(self, terms: Iterable[str]) -> tuple[str, ...]:
        """The aliases of these terms, as a runtime takes them: without commas."""
        wanted = set(terms)
        pairs = self.aliases.items()
        return tuple(alias for alias, term in pairs if term in wanted and "," not in alias)


class MetricRecord(Record):
    """An extra metric of an evaluation.

    Attributes:
        value: `counted` divided by `out_of`, in `unit`; None where nothing could be counted.
        reason: why the references cannot be scored with it.
        base: the value of the model that the evaluation is compared with.
    """

    value: Number | None = None
    ci95: Interval | None = None
    counted: Number | None = None
    out_of: Number | None = None
    unit: str = ""
    better: str = ""
    reason: str = ""
    base: Number | None = None


class EmptyReferencesRecord(Record):
    """Utterances without a reference word, which no WER counts, and the words made up on them.

    Attributes:
        seconds: of their audio.
        base: the same of the model that the evaluation is compared with.
    """

    utterances: StrictInt | None = None
    made_up_words: StrictInt | None = None
    seconds: Number | None = None
    made_up_per_minute: Number | None = None
    base: "EmptyReferencesRecord | None" = None


class SystemRecord(ScoreRecord):
    """One system on the clips of an evaluation.

    Attributes:
        side: `base`, `parent` (the adapter that the run started at) or `adapted`.
        backend: `torch` or `runtime`.
        by_speaker: WER of each speaker that has a name.
        comparison: of exported files, from the adapted model in torch to them; of a parent, from it
            to the adapted model.
    """

    side: str = ""
    backend: str = ""
    by_speaker: dict[str, Number] = {}
    comparison: ComparisonRecord | None = None


class SpeakerRecord(Record):
    """How much one speaker said."""

    utterances: StrictInt = 0
    words: StrictInt = 0


class VoicesRecord(Record):
    """Whose voices a score is for; absent where training has none of them.

    Attributes:
        kind: as of `VoiceScope`.
        names: of the speakers that training has too; not in packages.
    """

    kind: str = ""
    names: list[str] = []

    @classmethod
    def of(cls, scope: VoiceScope | None) -> "VoicesRecord | None":
        """The record of a scope."""
        return None if scope is None else cls(kind=scope.kind, names=list(scope.names))

    @property
    def sentence(self) -> str:
        """`for this voice (anna): says nothing about other voices`."""
        return VoiceScope(self.kind, tuple(self.names)).sentence

    @property
    def without_names(self) -> "VoicesRecord":
        """The record as it may be published."""
        return VoicesRecord(kind=self.kind)


class SyntheticSpeechRecord(Record):
    """What of a run's speech was synthesized; absent where nothing was.

    Attributes:
        train, train_real: clips that train, by a synthesizer and by people.
        dev, dev_real: clips that the adapter is chosen by.
        share: of the clips of a step that are synthetic, 0 to 1.
    """

    train: StrictInt = 0
    train_real: StrictInt = 0
    dev: StrictInt = 0
    dev_real: StrictInt = 0
    share: Number = 0

    @property
    def sentence(self) -> str:
        """What that means for the scores, in a sentence."""
        if self.train_real:
            share = f"{self.train} of {self.train + self.train_real} training clips are synthetic"
            train = f"{share}, {self.share:.0%} of each step"
        else:
            train = "all training clips are synthetic"
        if self.dev_real:
            return f"{train}; dev has real voices only"
        if self.train_real:
            return f"{train}; dev is synthetic: its WER says nothing about real voices"
        return f"{train}, and so is dev: no real voice is in training or in the scores"


class PseudoLabelsRecord(Artifact):
    """Texts that a model wrote of recordings, and which of them are learned. WER in percent.

    `labels.json` beside their manifest, and a part of run.json. Written by train.

    Attributes:
        labelled_by: `base`, or the round whose adapter wrote them.
        clips, seconds: with a text or without, as they are cut.
        kept, kept_seconds: those that are learned.
        threshold: least score of these.
        dev_clips, dev_kept: clips with a true text, and those of them that the threshold keeps.
        dev_wer, dev_kept_wer: of the model's texts on these.
        train, train_transcribed: clips that train with such a text, and with one that is given.
        share: of the clips of a step that have such a text, 0 to 1.
    """

    made_by = "moonshine-tune train"
    file_name: ClassVar[str] = "labels.json"

    labelled_by: str = "base"
    clips: StrictInt = 0
    seconds: Number = 0.0
    kept: StrictInt = 0
    kept_seconds: Number = 0.0
    threshold: Number | None = None
    dev_clips: StrictInt = 0
    dev_kept: StrictInt = 0
    dev_wer: Number | None = None
    dev_kept_wer: Number | None = None
    train: StrictInt = 0
    train_transcribed: StrictInt = 0
    share: Number = 0

    @property
    def filter_sentence(self) -> str:
        """`kept 512 of 948 clips (31 of 55 min): on dev, …`; empty where that is not recorded."""
        if self.dev_wer is None or self.dev_kept_wer is None:
            return ""
        writer = "the base" if self.labelled_by == "base" else f"the adapter of {self.labelled_by}"
        minutes = f"{self.kept_seconds / 60:.1f} of {self.seconds / 60:.1f} min"
        return (
            f"kept {self.kept} of {self.clips} clips ({minutes}): on dev, {writer} gets "
            f"{self.dev_kept_wer:.1f} % of the words wrong on such clips ({self.dev_kept} of "
            f"{self.dev_clips}), {self.dev_wer:.1f} % on all"
        )

    @property
    def sentence(self) -> str:
        """Which training clips have such texts, and what is known of these, in a sentence."""
        if self.train_transcribed:
            clips = f"{self.train} of {self.train + self.train_transcribed} training clips"
            train = f"a model wrote the texts of {clips}, {self.share:.0%} of each step"
        else:
            train = "a model wrote the texts of all training clips"
        return "; ".join(filter(None, (train, self.filter_sentence)))


# By the use of recordings in a run: what a score of its adapter on them says.
_KNOWN_CLIPS = {
    "train": "the adapter was trained on them, so their WER says nothing about new speech",
    "dev": "the adapter was chosen by them, so their WER is optimistic",
    "replay": "they were replayed in the training, so their WER is optimistic",
}


class KnownClipsRecord(Record):
    """How many scored clips the run of the adapter used, by their sound; absent where none.

    Attributes:
        clips: all that were scored.
        used: by their use in the run.
    """

    clips: StrictInt = 0
    used: dict[str, StrictInt] = {}

    @property
    def sentences(self) -> list[str]:
        """What that means for the score, one for each use."""
        return [
            f"{count} of {self.clips} clips are recordings of {use} of this run: {meaning}"
            for use, meaning in _KNOWN_CLIPS.items()
            if (count := self.used.get(use, 0))
        ]


class EvaluationRecord(Artifact):
    """`result.json`: written by evaluate, demo and plan; read by report and package."""

    made_by = "moonshine-tune evaluate"

    wer: Number | None = None
    cer: Number | None = None
    substitutions: StrictInt | None = None
    deletions: StrictInt | None = None
    insertions: StrictInt | None = None
    reference_words: StrictInt | None = None
    utterances: StrictInt | None = None
    audio_seconds: Number | None = None
    seconds: Number | None = None
    rtf: Number | None = None
    normalizer: str | None = None
    ci95: Interval | None = None
    backend: str = ""
    model: str | None = None
    adapter: str | None = None
    manifest_sha256: str = ""
    set_name: str = ""
    by_speaker: dict[str, Number] = {}
    speakers: dict[str, SpeakerRecord] = {}
    exported: str | None = None
    adapter_sha256: str | None = None
    systems: list[SystemRecord] = []
    worst: list[Object] = []
    base: ScoreRecord | None = None
    comparison: ComparisonRecord | None = None
    conditions: list[Object] = []
    metrics: dict[str, MetricRecord] = {}
    keyterms: KeyTermsRecord | None = None
    aliases: KeyTermsRecord | None = None
    empty_references: EmptyReferencesRecord | None = None
    voices: VoicesRecord | None = None
    known_clips: KnownClipsRecord | None = None
    remarks: list[str] = []


class GateResult(Record):
    """A gate of plan.json or demo.json: what was measured, what is required, and the verdict.

    Attributes:
        passed: None where it was not measured or means nothing.
        verdict: of a plan, `passed`, `FAILED`, `not meaningful` (measured, and says nothing),
            `not decided` (measured on too little) or `not measured`.
        note: why it is not meaningful, or what would decide.
    """

    phase: str = ""
    name: str = "–"
    passed: StrictBool | None = None
    verdict: str = ""
    figure: str = "–"
    bound: str = "–"
    note: str = ""

    @property
    def word(self) -> str:
        """The verdict; of a demonstration, which has none, what `passed` says."""
        return self.verdict or {True: PASSED, False: FAILED, None: "open"}[self.passed]

    @property
    def holds(self) -> bool:
        """Whether what comes after the gate may go on."""
        return self.word in (PASSED, NOT_MEANINGFUL, NOT_DECIDED)


# --- runs


class BaseModelRecord(Artifact):
    """`base_model.json` in an adapter, and `base` in other files: the base model's identity.

    Written by train; read where an adapter is loaded, exported or packed.
    """

    made_by = "moonshine-tune train"

    name: str | None = None
    family: str | None = None
    source: str | None = None
    revision: str | None = None
    sha256: str | None = None
    content_sha256: str | None = None
    sign_sha256: str | None = None
    precision: str | None = None
    path: str | None = None


class SelectionRecord(Artifact):
    """`selection.json` in an adapter, and the scores of run.json. WER in percent.

    Written by train; read on resume and by report.

    Attributes:
        canary: which set the canary is: `librispeech_other, 50 clips`.
        strengths: of a sum of adapters, that of each; `strength` is the mean of those above 0.
        dev_wers: of several dev sets, that of each; `dev_wer` is their mean.
        sha256: of the adapter that the scores are of, as of `adapter_checksums`.
    """

    made_by = "moonshine-tune train"

    step: StrictInt | None = None
    dev_wer: Number | None = None
    canary_wer: Number | None = None
    strength: Number | None = None
    averaged: StrictInt | None = None
    dev_augmented_wer: Number | None = None
    drift: Number | None = None
    canary: str = ""
    dev_loss: Number | None = None
    filter_weight: Number | None = None
    strengths: tuple[Number, ...] = ()
    dev_wers: dict[str, Number] = {}
    sha256: dict[str, str] = {}

    @property
    def canary_name(self) -> str:
        """`canary (librispeech_other, 50 clips)`."""
        return f"canary ({self.canary})" if self.canary else "canary"

    @property
    def dev_sentence(self) -> str:
        """`the mean of voice-dev 48.52 and words-dev 9.67`; empty for a single set."""
        listed = [f"{name} {wer:.2f}" for name, wer in self.dev_wers.items()]
        return f"the mean of {' and '.join(listed)}" if len(listed) > 1 else ""

    @property
    def judged_wer(self) -> float | None:
        """The WER that it is chosen by: of dev as recorded and, if scored so, augmented."""
        if self.dev_wer is None or self.dev_augmented_wer is None:
            return self.dev_wer
        return (self.dev_wer + self.dev_augmented_wer) / 2

    def is_better_than(self, before: "SelectionRecord") -> bool | None:
        """Whether dev says so: by WER, and by loss where few clips give the same; None: unknown."""
        old, new = before.judged_wer, self.judged_wer
        if old is None or new is None:
            return None
        if old != new or self.dev_loss is None or before.dev_loss is None:
            return new < old
        return self.dev_loss < before.dev_loss


BETTER, NOT_BETTER, CANARY_LOST = "better", "no better than the base", "canary bound broken"
NOT_BETTER_THAN_PARENT = "no better than the adapter before"
NOT_BETTER_THAN_PART = "no better than one of the adapters alone"
NO_GAIN = "no gain shown"


class FoldRecord(Record):
    """One of the trainings whose adapters were averaged; its scores are of its own adapter.

    Attributes:
        adapter: its folder, relative to the run.
        in_mean: whether the mean has it; it has those that are better than the base.
    """

    adapter: str
    baseline: SelectionRecord
    best: SelectionRecord
    verdict: str
    in_mean: bool


class RoundRecord(Record):
    """One of the trainings on pseudo-labels; its scores are of its own adapter.

    Attributes:
        adapter: its folder, relative to the run.
        labels: whose texts it learned.
        is_kept: whether its adapter is that of the run.
    """

    adapter: str
    labels: PseudoLabelsRecord
    best: SelectionRecord
    verdict: str
    is_kept: bool


class CombinedRecord(Record):
    """One of the adapters that an adapter is the weighted sum of.

    Attributes:
        name: what it is called in messages; `lineage` of the run has its path.
        adapter_sha256: of its weights.
        strength: what its effect is multiplied by.
        alone: its own scores, at full strength.
    """

    name: str
    adapter_sha256: str
    strength: Number
    alone: SelectionRecord


# What takes less of the time is not named.
_SHORTEST_SHARE = 0.005


class RunResultRecord(Record):
    """How a run ended. Times in seconds, `prepare_seconds` before the first step.

    Attributes:
        folds: the trainings whose mean the adapter is; empty for a single one.
        rounds: the trainings on pseudo-labels of which the best is kept; empty without any.
        combined: the adapters that the adapter is the sum of; empty for a trained one.
        tried: the sums that were scored, in this order; their strengths are in that of `combined`.
        gain: of the adapter against the base on dev, where pseudo-labels train.
        verdict: `better`, `no better than the base`, `no better than the adapter before`, `no
            better than one of the adapters alone` (a sum), `no gain shown` (pseudo-labels alone,
            and the interval of `gain` has 0) or `canary bound broken`: of the adapter that was
            kept, on the scores of the run itself; empty where it has none.
        parent: scores of the adapter that the run started at; None where that is the base.
        time: seconds by activity, over all legs of the run. `replay` is the part of the steps that
            general speech took; on other devices than the CPU it is a part of `steps`.
    """

    steps: StrictInt | None = None
    skipped_steps: StrictInt | None = None
    baseline: SelectionRecord = SelectionRecord()
    parent: SelectionRecord | None = None
    best: SelectionRecord = SelectionRecord()
    canary_held: StrictBool | None = None
    verdict: str = ""
    first_loss: Number | None = None
    last_loss: Number | None = None
    seconds: Number | None = None
    train_seconds: Number | None = None
    prepare_seconds: Number | None = None
    time: dict[str, Number] = {}
    peak_memory_mb: Number | None = None
    folds: tuple[FoldRecord, ...] = ()
    rounds: tuple[RoundRecord, ...] = ()
    combined: tuple[CombinedRecord, ...] = ()
    tried: tuple[SelectionRecord, ...] = ()
    gain: ComparisonRecord | None = None

    @property
    def time_sentence(self) -> str:
        """Where the time went, the longest activity first; empty where it was not recorded."""
        total = sum(self.time.values())
        taken = sorted(self.time.items(), key=lambda item: -item[1])
        return ", ".join(
            f"{name} {seconds:.0f} s ({seconds / total:.0%})"
            for name, seconds in taken
            if seconds >= _SHORTEST_SHARE * total > 0
        )

    @property
    def scored_adapter(self) -> str:
        """What the scores are of, where they are not of the adapter that was kept; else empty."""
        count = sum(fold.in_mean for fold in self.folds)
        return f"of the first fold alone, not of the mean of {count}" if count > 1 else ""

    @property
    def judged(self) -> str:
        """The verdict, also of a run that was recorded without one."""
        return self.verdict or verdict_on(self.baseline, self.best, self.canary_held, self.parent)


def verdict_on(
    base: SelectionRecord,
    best: SelectionRecord,
    canary_held: bool | None,
    parent: SelectionRecord | None = None,
) -> str:
    """Whether an adapter may be used; empty where a score is missing.

    An adapter that is chosen by dev as recorded and augmented is judged by both.
    """
    is_better = best.is_better_than(base)
    if is_better is None:
        return ""
    # First what cannot be cured by keeping more of the base.
    if not is_better:
        return NOT_BETTER
    if canary_held is False:
        return CANARY_LOST
    beats_parent = None if parent is None else best.is_better_than(parent)
    return NOT_BETTER_THAN_PARENT if beats_parent is False else BETTER


class LegRecord(Record):
    """A part of a run, from a resume that changed settings to the next.

    Attributes:
        first_step: from which the settings held, from 1 as in metrics.jsonl.
        changed: the value before and the value from then on, by setting.
    """

    first_step: StrictInt = 1
    created: str = ""
    command: list[str] = []
    settings: Object = {}
    changed: dict[str, tuple[Any, Any]] = {}
    device: dict[str, str | None] = {}
    dtype: dict[str, str | None] = {}
    processes: StrictInt | None = None


class ReplayRecord(Artifact):
    """What a run replays: `replay` in run.json, and `replay.json` of the cache.

    Attributes:
        kind: `manifest`, `folder`, `auto`, `hub`, or `none`.
        source: where the clips come from, in words and without paths.
        license: of what was fetched.
        missing: what `auto` could not have on this machine, and how to get it.
        files: SHA-256 of each file beside the manifest; in the cache alone.
    """

    made_by = "moonshine-tune train"
    file_name: ClassVar[str] = "replay.json"

    kind: str = ""
    source: str = ""
    clips: StrictInt = 0
    seconds: Number = 0.0
    license: str = ""
    missing: str = ""
    files: dict[str, str] = {}

    @property
    def sentence(self) -> str:
        """`auto, 92 clips (19 min): sentences by 10 voices of espeak-ng`."""
        if not self.clips:
            return self.source or "not recorded"
        licensed = f", license {self.license}" if self.license else ""
        name = "" if self.kind == "manifest" else f"{self.kind}, "
        minutes = f" ({self.seconds / 60:.0f} min)" if self.seconds else ""
        return f"{name}{self.clips} clips{minutes}: {self.source}{licensed}"


class ParentRecord(Record):
    """An adapter that a run goes back to.

    Attributes:
        path: of the run or adapter folder, at that time; not in packages.
        adapter_sha256: of the adapter's weights.
        base_sha256: of the weights of its base model.
        steps: of its run; None where that is not known.
        data: fingerprints of its manifests.
    """

    path: str = ""
    adapter_sha256: str = ""
    base_sha256: str | None = None
    steps: StrictInt | None = None
    created: str = ""
    data: dict[str, str | None] = {}

    @property
    def summary(self) -> str:
        """`adapter 1a2b3c4d5e6f after 300 steps, base 9f8e7d6c5b4a`."""
        steps = "" if self.steps is None else f" after {self.steps} steps"
        base = f", base {self.base_sha256[:12]}" if self.base_sha256 else ""
        return f"adapter {self.adapter_sha256[:12]}{steps}{base}"


class RecordingRecord(Record):
    """A line of `recordings.jsonl`: one recording that a run was made of.

    Attributes:
        manifest: of the run that names it, such as `train`; `earlier` for those of a parent.
        use: `train`, `dev`, `canary` or `replay`: a part of `train` may be held out as dev.
        fingerprint: of its content and span.
        size, modified_ns, changed_ns: what its file tells without being read; None where it had
            just been written, so that a later change may not show.
    """

    manifest: str = ""
    use: str = ""
    id: str = ""
    speaker: str | None = None
    fingerprint: str = ""
    size: StrictInt | None = None
    modified_ns: StrictInt | None = None
    changed_ns: StrictInt | None = None


class RunRecord(Artifact):
    """`run.json`: written by train and combine, a part of it again by package.

    Read by resume, runs, report, export, ablate, plan and package.

    Attributes:
        settings: those now in force.
        legs: of a run whose settings changed at a resume: each leg with its own, the first too.
        relative_paths: of manifests and noises, from the run folder, by setting.
        voices: whose voices the scores on dev are for.
        replay: the general speech that was replayed.
        lineage: the adapters that it goes back to, the one that it started at first, or those that
            it is the sum of, each with its own; none where it started at the base.
        synthetic: what of train and dev was synthesized.
        pseudo_labels: texts of training clips that a model wrote.
    """

    made_by = "moonshine-tune train"

    command: list[str] = []
    created: str = ""
    job: str = ""
    settings: Object = {}
    sources: dict[str, str] = {}
    relative_paths: dict[str, str] = {}
    legs: list[LegRecord] = []
    base: BaseModelRecord = BaseModelRecord()
    lineage: list[ParentRecord] = []
    device: dict[str, str | None] = {}
    dtype: dict[str, str | None] = {}
    processes: StrictInt | None = None
    normalizer: str | None = None
    data: dict[str, str | None] = {}
    voices: VoicesRecord | None = None
    replay: ReplayRecord | None = None
    synthetic: SyntheticSpeechRecord | None = None
    pseudo_labels: PseudoLabelsRecord | None = None
    remarks: list[str] = []
    expected_memory_mb: Number | None = None
    adapter: dict[str, StrictBool | StrictInt] = {}
    seed: StrictInt | None = None
    status: str | None = None
    versions: Versions = {}
    platform: dict[str, str] = {}
    git: Object | None = None
    result: RunResultRecord = RunResultRecord()
    error: str = ""

    @property
    def dev_voices(self) -> str:
        """Whose voices the dev WER is for, in a sentence; empty for voices that train has not."""
        if self.synthetic and self.synthetic.dev:
            return "for synthetic voices: says nothing about real ones"
        return self.voices.sentence if self.voices else ""


# --- benchmark, export, package


class BandRecord(Record):
    """Latency of clips from `from_s` to `to_s` seconds long; the last band has no upper edge."""

    from_s: Number | None = None
    to_s: Number | None = None
    clips: StrictInt | None = None
    latency_ms: Figures = {}
    rtf: Number | None = None


class StreamRecord(Record):
    """Time from the end of speech to the final text, where clips were streamed."""

    clips: StrictInt | None = None
    chunk_s: Number | None = None
    final_ms: Figures = {}


class RatioRecord(Record):
    """A figure of this folder over that of the other."""

    ratio: Number | None = None
    ci95: Interval | None = None


class MeasurementRecord(Record):
    """One measured runtime folder."""

    runtime_dir: str | None = None
    family: str | None = None
    load_ms: Figures = {}
    load_processes: StrictInt | None = None
    latency_ms: Figures = {}
    rtf: Number | None = None
    by_length: list[BandRecord] = []
    stream: StreamRecord | None = None
    memory_mb: Figures = {}
    files: list[Object] = []
    total_bytes: StrictInt | None = None
    wer: ScoreRecord | None = None
    keyterms: KeyTermsRecord | None = None


class _BenchmarkSetup(Artifact):
    manifest_sha256: str = ""
    clips: StrictInt | None = None
    audio_seconds: Number | None = None
    rounds: StrictInt | None = None
    warm_up_clips: StrictInt | None = None
    machine: Object = {}
    versions: Versions = {}


class BenchmarkRecord(MeasurementRecord, _BenchmarkSetup):
    """`benchmark.json`: written by benchmark and plan; read by report and package.

    The measured folder's figures stand beside the setup; `other` is what it was compared with.
    """

    made_by = "moonshine-tune benchmark"

    other: MeasurementRecord | None = None
    ratios: dict[str, RatioRecord] | None = None
    same_text_clips: StrictInt | None = None
    wer_comparison: ComparisonRecord | None = None
    remarks: list[str] = []


# A difference of tensors; one that is infinite is null in the file.
Difference = Annotated[
    Number,
    BeforeValidator(lambda value: math.inf if value is None else value),
    PlainSerializer(lambda value: round(value, 6) if math.isfinite(value) else None),
]


class OutputDifference(Record):
    """One output of one graph against torch, over all clips.

    Attributes:
        max, mean: of the absolute differences.
        relative: norm of the difference over the norm of torch's output, of the worst clip.
        clip: id of that clip.
        passed: whether the scheme explains the difference.
    """

    graph: str = ""
    output: str = ""
    max: Difference = 0.0
    mean: Difference = 0.0
    relative: Difference = 0.0
    bound: Number = 0.0
    clip: str = ""
    passed: StrictBool | None = None


class WeightDifference(Record):
    """A stored tensor that is not the trained one; `relative` is the norm of the difference."""

    graph: str = ""
    tensor: str = ""
    relative: Difference = 0.0


class WeightParity(Record):
    """Stored tensors: how many were compared, which differ, and why none were compared."""

    checked: StrictInt = 0
    different: list[WeightDifference] = []
    note: str | None = None


class TokenParity(Record):
    """Positions, and the share of them where graph and torch choose the same next token."""

    count: StrictInt = 0
    agreement: Number = 1.0


class WerParity(Record):
    """The runtime's WER against torch's; `kept`: not shown to be more than half a point above."""

    torch: Number = 0.0
    runtime: Number = 0.0
    difference: Number = 0.0
    ci95: Interval = (0.0, 0.0)
    kept: StrictBool | None = None


class MarginRecord(Record):
    """How much the runtime loses against torch, and how much more than the base's own files do.

    All in points: of words that differ, or of WER.

    Attributes:
        adapted, adapted_ci95: from torch to the runtime, of the exported files.
        base: the same of the base and its own files, on the same clips.
        difference, ci95: how much more the exported files lose.
        margin: a loss up to this counts as none.
        verdict: `equal`, `worse` or `not decided`.
        clips: those that say something about it.
        clips_needed: about how many decide, if they are like these; None where it is too close.
    """

    adapted: Number = 0.0
    adapted_ci95: Interval = (0.0, 0.0)
    base: Number = 0.0
    difference: Number = 0.0
    ci95: Interval = (0.0, 0.0)
    margin: Number = 0.0
    verdict: str = NOT_DECIDED
    clips: StrictInt = 0
    clips_needed: StrictInt | None = None


class BasePairRecord(Record):
    """The base in torch and in its own runtime files: words that differ, and the WER of both."""

    word_difference: Number | None = None
    identical: StrictInt | None = None
    words: StrictInt | None = None
    torch: Number | None = None
    runtime: Number | None = None


class AgainstBase(Record):
    """The words and the WER of exported files, judged beside the base's own files.

    Attributes:
        clips: all that were transcribed; `general_clips` of them are general speech.
        sources: names of the sets that were added, with how many clips of each.
        base: the base on these clips.
    """

    verdict: str = NOT_DECIDED
    clips: StrictInt = 0
    general_clips: StrictInt = 0
    sources: dict[str, StrictInt] = {}
    words: MarginRecord = MarginRecord()
    wer: MarginRecord | None = None
    base: BasePairRecord = BasePairRecord()


class ParityRecord(Record):
    """How far exported files and torch agree.

    Attributes:
        passed: whether the files may be shipped; None where that is not decided.
        verdict: `equal`, `worse` or `not decided`; empty in records of earlier versions.
        judged_by: what words and WER are compared with: the base's own runtime files, or the fixed
            bound and why.
        advice: what to record so that it can be decided.
        against_base: over all clips that were judged; the figures beside it are of the first ones,
            those of the manifest.
        first_difference: the first one beyond its bound, from the files up to the WER.
        word_difference, bound: words that differ, in percent of torch's, and the share that may.
        identical: clips in which none does.
        examples: (torch's text, the runtime's) of the first clips that differ.
        wer: where the clips have texts.
        chunked: for streaming models, clips fed in chunks as from a microphone against the same
            clips fed at once, both by the runtime.
        window_rule: for streaming models, how the encoder graph reads the windows of the
            model's configuration: "exclusive" as transformers does, "inclusive" one frame
            further on either side.
    """

    passed: StrictBool | None = None
    verdict: str = ""
    judged_by: str = ""
    advice: str = ""
    first_difference: str | None = None
    word_difference: Number | None = None
    bound: Number | None = None
    clips: StrictInt | None = None
    identical: StrictInt | None = None
    words: StrictInt | None = None
    examples: list[tuple[str, str]] = []
    wer: WerParity | None = None
    against_base: AgainstBase | None = None
    chunked: "ParityRecord | None" = None
    graphs: list[OutputDifference] = []
    weights: WeightParity = WeightParity()
    tokens: TokenParity = TokenParity()
    window_rule: str | None = None


EXPORT_FILE = "export.json"


class ExportRecord(Artifact):
    """`export.json` in a runtime folder: written by export, read by package and plan."""

    made_by = "moonshine-tune export"

    runtime_dir: str | None = None
    method: str | None = None
    format: str | None = None
    quantize: str | None = None
    scales: str | None = None
    channel_scales: StrictInt | None = None
    calibrated: StrictBool | None = None
    calibrate: str | None = None
    rounding: str | None = None
    windows: dict[str, str] | None = None
    matrices: StrictInt | None = None
    changed: StrictInt | None = None
    changed_files: list[str] = []
    worst_step_error: Number | None = None
    sha256: dict[str, str] = {}
    parity: ParityRecord = ParityRecord()
    seconds: Number | None = None
    base: BaseModelRecord = BaseModelRecord()
    adapter_sha256: str | None = None
    checkpoint_sha256: str | None = None
    versions: Versions = {}
    adapter_file: str | None = None
    adapter_bytes: StrictInt | None = None


class AppliedRecord(Record):
    """The answer of `apply`: the folder that it made, and of what."""

    runtime_dir: str | None = None
    adapter_file: str | None = None
    base: BaseModelRecord = BaseModelRecord()
    sha256: dict[str, str] = {}
    seconds: Number | None = None


class PackageRecord(Artifact):
    """`package.json`, the index of a package: written by package, read by verify and push."""

    made_by = "moonshine-tune package"

    name: str | None = None
    base: BaseModelRecord = BaseModelRecord()
    family: str | None = None
    sample_clips: StrictInt | None = None
    evaluations: list[str] = []
    packed_with: Versions = {}


# --- data


class SplitSideRecord(Record):
    """One manifest of a split.

    Attributes:
        voices: of dev and test, whose voices a score on them is for.
    """

    utterances: StrictInt | None = None
    seconds: Number | None = None
    speakers: StrictInt | None = None
    sha256: str = ""
    voices: VoicesRecord | None = None


class SplitRecord(Artifact):
    """`split.json` beside the manifests of a split: written by data split.

    Read by train and evaluate.

    Attributes:
        by: what no two sides share, as `Splits.by` has it; `field` for the manifest's own split.
        manifest_sha256: of the manifest that was split.
        sides: by name: train, dev, test.
    """

    made_by = "moonshine-tune data split"

    by: str = ""
    seed: StrictInt | None = None
    shares: dict[str, Number] = {}
    manifest_sha256: str = ""
    sides: dict[str, SplitSideRecord] = {}
    remarks: list[str] = []


class FixRecord(Record):
    """One thing that `data fix` can do about one utterance."""

    id: str = ""
    kind: str = ""
    action: str = ""
    usual: StrictBool = False
    value: Number | None = None


class ForgottenRecord(Record):
    """What was removed of some speakers; no text and no recording of theirs is in it.

    Attributes:
        utterances: lines that were removed from manifests.
        manifests: checksums before and after, by path.
        learned: what goes back to these recordings, and what to do about it.
    """

    created: str = ""
    speakers: list[str] = []
    utterances: StrictInt = 0
    manifests: dict[str, list[str]] = {}
    recordings_deleted: StrictInt = 0
    learned: dict[str, str] = {}


class ForgetRecord(Artifact):
    """`forgotten.json`: written by data forget, for people."""

    made_by = "moonshine-tune data forget"

    forgotten: list[ForgottenRecord] = []


class AuditRecord(Artifact):
    """`audit.json`: written by data audit, read by data fix."""

    made_by = "moonshine-tune data audit"

    kind: str = ""
    counts: dict[str, StrictInt] = {}
    manifest: str | None = None
    manifest_sha256: str = ""
    lines: StrictInt | None = None
    utterances: StrictInt | None = None
    clean: StrictInt | None = None
    seconds: Number | None = None
    speakers: StrictInt | None = None
    findings: list[Object] = []
    distributions: list[Object] = []
    conventions: Object = {}
    vocabulary: Object | None = None
    listening: Object | None = None
    advice: list[str] = []
    fixes: list[FixRecord] = []
    passed: StrictBool | None = None


class SynthesisRecord(Artifact):
    """`synthesis.json` beside a synthesized manifest: written by data synth, for people."""

    made_by = "moonshine-tune data synth"

    voices: list[str] = []
    voices_per_sentence: StrictInt | None = None
    seed: StrictInt | None = None
    delivery: Object = {}
    audio_format: str | None = None
    utterances: StrictInt | None = None
    left_out: StrictInt | None = None
    engines: dict[str, str] = {}
    versions: Versions = {}


# --- ablation


class TrialFigures(Record):
    """The figures of a trial: WER in percent, losses in points, times in seconds.

    Attributes:
        canary_loss: points of WER that general speech lost; below 0 it gained.
        latency: latency of the exported files over the base's.
    """

    dev_wer: Number | None = None
    base_dev_wer: Number | None = None
    canary_wer: Number | None = None
    canary_loss: Number | None = None
    canary_held: StrictBool | None = None
    latency: Number | None = None
    strength: Number | None = None
    best_step: StrictInt | None = None
    steps: StrictInt | None = None
    adapter_mb: Number | None = None
    train_seconds: Number | None = None
    seconds: Number | None = None
    peak_memory_mb: Number | None = None


class TrialRecord(Record):
    """A trial in `trials.json`, a copy of the database: written by ablate, read by report.

    Attributes:
        state: `finished`, `pruned`, `failed`, `running` or `waiting`.
        figures: empty until finished.
        remark: why it failed, or which trial it took its result from.
    """

    number: StrictInt | None = None
    state: str = ""
    params: Object = {}
    figures: TrialFigures = TrialFigures()
    remark: str = ""


def rank_trials(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Finished trials, the best first: those that hold the canary, by dev WER, by number."""
    finished = [
        (trial.figures.canary_held is False, trial.figures.dev_wer, trial.number or 0, index, trial)
        for index, trial in enumerate(trials)
        if trial.state == "finished" and trial.figures.dev_wer is not None
    ]
    return [trial for *_, trial in sorted(finished)]


class AblationRecord(Artifact):
    """`ablation.json`: written by ablate; read by it again and by report. No password is in it."""

    made_by = "moonshine-tune ablate run"

    kind: str = ""
    command: list[str] = []
    created: str = ""
    space_name: str = ""
    space: Object = {}
    settings: Object = {}
    sources: dict[str, str] = {}
    data: dict[str, str] = {}
    study: str = ""
    storage: str | None = None
    sampler: str = ""
    pruner: str = ""
    objectives: list[str] = []
    seed: StrictInt | None = None
    trials: StrictInt | None = None
    versions: Versions = {}
    platform: dict[str, str] = {}
    git: Object | None = None


class CurvePointRecord(Record):
    """A training of a learning curve, on `recordings` clips; WER in percent on dev."""

    recordings: StrictInt = 0
    seed: StrictInt = 0
    wer: Number = 0.0
    seconds: Number | None = None
    run: str = ""


class CurvePredictionRecord(Record):
    """The expected WER with so many recordings, and its 80 % interval, in percent."""

    recordings: StrictInt = 0
    wer: Number = 0.0
    low: Number = 0.0
    high: Number = 0.0


class CurveRecord(Artifact):
    """`curve.json`: written by curve; read by it again and by report.

    Attributes:
        recordings: clips that there are.
        base_wer: of the base model on dev, in percent: the curve at no recordings.
        gain, gain_interval: points of WER that twice as many recordings are expected to gain, with
            an 80 % interval.
        verdict: `worth it`, `flat`, `not decided` or `no better than the base`; empty where too
            little is trained.
        line: the fitted curve with its interval.
    """

    made_by = "moonshine-tune curve"

    kind: str = ""
    command: list[str] = []
    created: str = ""
    settings: Object = {}
    sources: dict[str, str] = {}
    data: dict[str, str] = {}
    recordings: StrictInt = 0
    sizes: list[StrictInt] = []
    seeds: StrictInt = 0
    more: list[StrictInt] = []
    base_wer: Number | None = None
    points: list[CurvePointRecord] = []
    predictions: list[CurvePredictionRecord] = []
    line: list[CurvePredictionRecord] = []
    gain: Number | None = None
    gain_interval: Interval | None = None
    verdict: str = ""
    sentences: list[str] = []
    voices: VoicesRecord | None = None
    versions: Versions = {}


# --- demonstration and plan


class StateRecord(Record):
    """A record that changes during a run, and is written in full."""

    model_config = ConfigDict(frozen=False)

    def model_post_init(self, context: object) -> None:
        self.model_fields_set.update(type(self).model_fields)


class StepRecord(StateRecord):
    """One step of a phase.

    Attributes:
        state: `running` (or killed), `done` or `failed`.
        inputs: fingerprint of each thing that the step depends on.
        output: fingerprint of what it made, for the steps that depend on it.
        result: its figures.
        starts: how often it was started with these inputs.
    """

    state: str = ""
    inputs: dict[str, str] = {}
    output: str = ""
    result: Object = {}
    seconds: Number = 0.0
    starts: StrictInt = 1
    error: str = ""
    hint: str = ""
    exit_code: StrictInt = 0


class PhaseRecord(StateRecord):
    """The steps of a phase by name, in order; `forced` names what was not waited for."""

    steps: dict[str, StepRecord] = {}
    forced: list[str] = []


class PhaseSummary(Record):
    """A phase in the summary of plan.json: its state with the reason, and its gates."""

    name: str = "–"
    kind: str = ""
    state: str = "–"
    why: str = ""
    next: str = ""
    seconds: Number | None = None
    steps: list[Object] = []
    gates: list[GateResult] = []
    forced: list[str] = []


class DemoRecord(Artifact):
    """`demo.json`: written by demo, read by report. Scores by model and back end."""

    made_by = "moonshine-tune demo"

    gates: list[GateResult] = []
    domain: dict[str, dict[str, ScoreRecord]] = {}
    canary: dict[str, dict[str, ScoreRecord]] = {}
    seconds: dict[str, Number] = {}
    peak_memory_mb: Number | None = None
    adapter: str | None = None
    runtime_dir: str | None = None
    run: str | None = None
    normalizer: str | None = None


class PlanSource(Record):
    """The plan as it was read: its file, the order of its phases, its settings and manifests."""

    source: str = ""
    order: list[str] = []
    settings: Object = {}
    manifests: dict[str, str | None] = {}


class _PlanHead(Artifact):
    kind: str = ""
    created: str = ""
    command: list[str] = []
    plan: PlanSource = PlanSource()
    name: str = ""


class PlanRecord(DemoRecord, _PlanHead):
    """`plan.json`: written by plan; read by it again (`record`) and by report (the rest).

    It repeats what a demonstration's record has, for the adapter that the plan is about.
    """

    made_by = "moonshine-tune plan run"

    passed: StrictBool | None = None
    phases: list[PhaseSummary] = []
    versions: Versions = {}
    platform: dict[str, str] = {}
    git: Object | None = None
    record: dict[str, PhaseRecord] = {}


# --- studio


class StudioRecord(Artifact):
    """`studio.json` in a project folder: written and read by studio.

    Attributes:
        manifest: file name of the accepted clips in the folder.
        speaker, session: of new recordings.
        keep_original: whether each recording is also kept as the browser sent it.
        port: where the page was last, so that the browser finds what it keeps for it again.
        skipped: ids of prompts that are shown last.
        reasons: why a prompt was proposed, by its id.
        imports: files that are to be transcribed, relative to the folder.
    """

    made_by = "moonshine-tune studio"

    manifest: str = "manifest.jsonl"
    model: str = "tiny"
    speaker: str = ""
    session: str = ""
    keep_original: StrictBool = False
    port: StrictInt = 0
    skipped: list[str] = []
    reasons: dict[str, str] = {}
    imports: list[str] = []
