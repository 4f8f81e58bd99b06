"""`combine`: adapters of one base as one adapter, with strengths that are chosen on dev.

The changes that the adapters make to the weights are summed, each multiplied by its strength. How
strong each may be beside the others, only dev of every domain and the canary tell.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field

from moonshine_tune.config.resolve import resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.device import memory_mb
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_folder, holds_out, sha256_of, write_jsonl_atomic
from moonshine_tune.core.nested import unflatten
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.scratch import refuse_existing
from moonshine_tune.corpus.manifest import Manifest, write_manifest
from moonshine_tune.corpus.voices import tiny_set_remark
from moonshine_tune.models.adapter_sum import save_sum
from moonshine_tune.registry.base_model import location_of, read_base_record
from moonshine_tune.registry.catalog import lookup_model
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import write_selection
from moonshine_tune.runs.locations import relative_paths
from moonshine_tune.runs.records import (
    BETTER,
    NOT_BETTER_THAN_PART,
    CombinedRecord,
    RunResultRecord,
    VoicesRecord,
    verdict_on,
)
from moonshine_tune.training.combined_parts import (
    DevSet,
    Part,
    canary_of,
    check_unlearned,
    dev_sets,
    read_parts,
    remarks_on,
)
from moonshine_tune.training.selection import Candidate, SelectionRule
from moonshine_tune.training.sum_scores import Strengths, SumScores

JOB = "combine"
_COARSE = (0.5, 1.0)
_FINE = 0.25
# Of those that are named: the search goes no higher than an adapter was trained.
_STRONGEST = 2.0
_DEV_FILE = "dev.jsonl"


@dataclass(frozen=True)
class CombineRequest:
    """What to combine.

    Attributes:
        adapters: run or adapter folders.
        dev: manifests of all domains; none for the dev sets of the runs.
        canary: general speech; None for that of the runs.
        model: the base; None for the one that the adapters name.
        canary_bound: points of WER that the canary may lose; None for the default of training.
        strengths: of each adapter; none to choose them.
    """

    adapters: tuple[Path, ...]
    dev: tuple[Path, ...] = ()
    canary: Path | None = None
    model: str | None = None
    device: str = "auto"
    normalizer: str | None = None
    canary_bound: float | None = None
    strengths: tuple[float, ...] = ()


class CombineResult(RunResultRecord):
    """What was tried, and what was chosen; its figures are `result` in run.json.

    Attributes:
        combined: the adapters with their strengths.
        tried: all sums that were scored.
        verdict: `better`, `no better than one of the adapters alone`, `no better than the base` or
            `canary bound broken`.
    """

    run: Path = Field(exclude=True)
    adapter: Path = Field(exclude=True)
    remarks: tuple[str, ...] = Field(exclude=True)
    voices: VoicesRecord | None = Field(default=None, exclude=True)
    baseline: Candidate
    best: Candidate
    combined: tuple[CombinedRecord, ...]
    tried: tuple[Candidate, ...]
    canary_held: bool
    verdict: str


@holds_out(lambda request, out, progress: out)
def combine(request: CombineRequest, out: Path, progress: Progress) -> CombineResult:
    """Choose the strengths of some adapters and write their sum, complete or not at all.

    The sum with the best choice is written even where it is no better than one of the adapters
    alone: the verdict says so.

    Args:
        out: a new folder, which is like that of a training run: an `adapter/` and a record.

    Raises:
        RequestError: adapters that cannot be summed, of different bases, or trained on dev; no dev
            set; or `out` exists.
        MachineError: no such device, or the disk is full.
    """
    start_time = time.monotonic()
    refuse_existing(out)
    settings = _settings(request)
    parts = read_parts(request.adapters)
    _check_strengths(request)
    sets, remarks = dev_sets(parts, request.dev, settings.select.max_dev_utterances)
    voices = check_unlearned(parts, sets)
    canary = canary_of(parts, request.canary)
    remarks += _remarks(parts, sets, canary, voices)
    opened = _open(request, parts, progress)
    with TemporaryDirectory() as scratch:
        adapters = [part.origin.path for part in parts]
        scores = SumScores(opened, adapters, sets, canary, settings, Path(scratch), progress)
        remarks += scores.remarks
        for remark in remarks:
            progress.say(remark)
        search = _StrengthSearch(scores, parts, settings.select.canary_bound, progress)
        best = search.run(request.strengths)
    result = CombineResult(
        run=out,
        adapter=RunFolder(out).adapter_dir,
        remarks=tuple(remarks),
        voices=voices,
        baseline=search.base,
        best=best,
        canary_held=search.rule.allows(best),
        verdict=search.verdict_on(best),
        combined=tuple(
            CombinedRecord(
                name=part.name,
                adapter_sha256=part.origin.adapter_sha256,
                strength=strength,
                alone=alone,
            )
            for part, strength, alone in zip(parts, best.strengths, search.alone, strict=True)
        ),
        tried=tuple(scores.candidates.values())[1:],
        seconds=round(time.monotonic() - start_time, 1),
        peak_memory_mb=memory_mb(opened.model.device).peak_resident_mb,
    )
    _write(result, parts, scores, opened, settings, canary)
    return result


def _check_strengths(request: CombineRequest) -> None:
    given, count = request.strengths, len(request.adapters)
    if given and (len(given) != count or not all(0 < item <= _STRONGEST for item in given)):
        raise RequestError(
            f"strengths {', '.join(f'{item:g}' for item in given)} for {count} adapters",
            hint=f"name one for each, above 0 and at most {_STRONGEST:g}, such as: --strengths "
            + ",".join(["1"] * count),
        )


def _settings(request: CombineRequest) -> RunSettings:
    """Settings of a training run, as far as scores and the choice need them."""
    given = {
        "device.name": request.device,
        "data.normalizer": request.normalizer,
        "select.canary_bound": request.canary_bound,
    }
    content = {name: value for name, value in given.items() if value is not None}
    return resolve_settings([("combine", unflatten(content))]).settings


def _remarks(
    parts: Sequence[Part],
    sets: Sequence[DevSet],
    canary: Manifest | None,
    voices: VoicesRecord | None,
) -> list[str]:
    """What the scores cannot say."""
    remarks = remarks_on(parts)
    if len(sets) < len(parts):
        remarks.append(
            f"dev: fewer sets than adapters ({len(sets)} of {len(parts)}): what is learned for "
            "another domain may get lost unseen"
        )
    if canary is None:
        remarks.append("no canary: nothing bounds what general speech loses")
    if voices is not None and voices.sentence:
        remarks.append(f"dev: {voices.sentence}")
    tiny = (tiny_set_remark(item.name, item.utterances) for item in sets)
    return [*remarks, *(text for text in tiny if text)]


def _open(request: CombineRequest, parts: Sequence[Part], progress: Progress) -> OpenedModel:
    """The base with no adapter in use, after every adapter was loaded into it once.

    Raises:
        RequestError: an adapter does not fit the base, is damaged, or names another base.
    """
    paths = [part.origin.path for part in parts]
    records = [read_base_record(path) for path in paths]
    known = [path for path, item in zip(paths, records, strict=True) if item.has_fingerprint]
    models = filter(None, (lookup_model(item.name or "") for item in records))
    names = sorted({model.name for model in models})
    if request.model is None and len(names) > 1:
        raise RequestError(
            f"the adapters name different base models: {', '.join(names)}",
            hint="if it is one model under two names, name it: --model " + names[0],
        )
    opened = open_model(
        request.model,
        base_of=(known or paths)[0],
        device=request.device,
        dtype="float32",
        progress=progress,
    )
    for part in parts:
        opened.load_adapter(part.name, part.origin.path)
    opened.use_adapter(None)
    return opened


class _StrengthSearch:
    """Looks for the strengths: some of all adapters together, then finer ones around the best.

    Attributes:
        base: scores of the base model.
        alone: scores of each adapter alone, at full strength.
        rule: which sum is the best.
    """

    def __init__(
        self, scores: SumScores, parts: Sequence[Part], canary_bound: float, progress: Progress
    ) -> None:
        self._scores, self._parts, self._progress = scores, parts, progress
        self.base = scores.score_base()
        progress.say(f"base: {self.base.summary}")
        self.rule = SelectionRule(self.base.canary_wer, canary_bound, dev_words=scores.dev_words)
        self.alone: list[Candidate] = []

    def run(self, given: Strengths) -> Candidate:
        """Score each adapter alone and the sums; returns the best sum.

        Args:
            given: strengths that are not chosen; none to look for them.
        """
        num_parts = len(self._parts)
        single = [tuple(float(i == j) for j in range(num_parts)) for i in range(num_parts)]
        self.alone = self._score_all("adapters alone", single)
        if given:
            return self._score_all("sum", [given])[0]
        tried = self._score_all("sums", list(product(_COARSE, repeat=num_parts)))
        tried += self._score_all("finer strengths", list(_around(self._best(tried).strengths)))
        best = self._best(tried)
        self._progress.say(f"chosen: {self._describe(best.strengths)}")
        return best

    def verdict_on(self, best: Candidate) -> str:
        """Whether the sum may be used, and is better than each adapter alone."""
        verdict = verdict_on(self.base, best, self.rule.allows(best))
        if verdict == BETTER and not all(self.rule.is_better(best, item) for item in self.alone):
            return NOT_BETTER_THAN_PART
        return verdict

    def _score_all(self, name: str, strengths: Sequence[Strengths]) -> list[Candidate]:
        scored = []
        with self._progress.stage(name, len(strengths)) as stage:
            for item in strengths:
                scored.append(self._scores.score(item))
                self._progress.say(f"{self._describe(item)}: {scored[-1].summary}")
                stage.advance()
        return scored

    def _best(self, tried: Sequence[Candidate]) -> Candidate:
        """By the rule; of equally strong ones the one with the lowest dev WER."""
        return self.rule.choose(sorted(tried, key=lambda item: item.judged_wer))

    def _describe(self, strengths: Sequence[float]) -> str:
        """`1 voice + 0.5 words`."""
        pairs = zip(strengths, self._parts, strict=True)
        return " + ".join(f"{strength:g} {part.name}" for strength, part in pairs if strength)


def _around(best: Sequence[float]) -> Iterator[Strengths]:
    """The strengths with one of them a step lower or higher; none above 1."""
    for index, strength in enumerate(best):
        for neighbor in (strength - _FINE, strength + _FINE):
            if _FINE <= neighbor <= 1.0:
                yield (*best[:index], neighbor, *best[index + 1 :])


def _write(
    result: CombineResult,
    parts: Sequence[Part],
    scores: SumScores,
    opened: OpenedModel,
    settings: RunSettings,
    canary: Manifest | None,
) -> None:
    """Write the folder of the combined adapter, which other commands read like that of a run."""
    out, strengths = result.run, result.best.strengths
    data = {"dev": str((out / _DEV_FILE).absolute()), "normalizer": settings.data.normalizer}
    if canary is not None:
        data["canary"] = str(canary.path.absolute())
    recorded = {
        "model": location_of(opened.resolved),
        "data": data,
        "select": {"canary_bound": settings.select.canary_bound},
    }
    with complete_folder(out) as scratch:
        run = RunFolder(scratch)
        for folder in (run.adapter_dir, run.eval_dir):
            folder.mkdir()
        save_sum(run.adapter_dir, scores.parts(strengths))
        best = write_selection(run.adapter_dir, result.best)
        result = result.model_copy(update={"best": best})
        write_manifest(scratch / _DEV_FILE, scores.utterances)
        details = scores.details(strengths)
        write_jsonl_atomic(run.dev_hypotheses_path, [item.to_record() for item in details])
        run.write_record(
            job=JOB,
            settings=recorded,
            relative_paths=relative_paths(out, recorded),
            base=opened.base_record,
            lineage=[item for part in parts for item in part.origin.lineage],
            device={"name": str(opened.device.device), "reason": opened.device.reason},
            dtype={"name": str(opened.dtype.dtype), "reason": opened.dtype.reason},
            normalizer=scores.normalizer,
            data={"dev": sha256_of(scratch / _DEV_FILE)}
            | ({} if canary is None else {"canary": canary.sha256}),
            **({"voices": result.voices} if result.voices else {}),
            remarks=result.remarks,
            status="finished",
            result=result.to_json(),
        )
