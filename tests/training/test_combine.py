"""Adapters of one base, combined into one with strengths chosen on dev."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.command_line import Answer

import moonshine_tune as mt
from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of, write_jsonl_atomic
from moonshine_tune.core.locks import one_writer
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.export.calibration import clips_of_run
from moonshine_tune.metrics.wer import score_utterance
from moonshine_tune.models.adapter_sum import WeightedAdapter, save_sum
from moonshine_tune.models.lora import adapter_parameters, adapter_state, inject_lora, save_adapter
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.parent import read_origin
from moonshine_tune.runs.records import BETTER, CANARY_LOST, NOT_BETTER, NOT_BETTER_THAN_PART
from moonshine_tune.runs.split_record import voices_of_run
from moonshine_tune.training import combine as combine_module
from moonshine_tune.training.combine import CombineRequest, _StrengthSearch
from moonshine_tune.training.combined_parts import (
    canary_of,
    check_unlearned,
    dev_sets,
    read_parts,
    remarks_on,
)
from moonshine_tune.training.earlier import earlier_recordings
from moonshine_tune.training.selection import Candidate
from moonshine_tune.training.sum_scores import Strengths, SumScores

pytestmark = pytest.mark.usefixtures("one_thread")

Ask = Callable[..., Answer]
_KINDS: dict[str, dict[str, Any]] = {
    "voice": {"rank": 2, "sites": "all"},
    "words": {"rank": 4, "sites": "decoder"},
    "dora": {"rank": 2, "dora": True},
}


@pytest.fixture(scope="module")
def adapters(saved_v1: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of one base without runs. `words` is in other layers than `voice`. Read only."""
    folder = tmp_path_factory.mktemp("adapters")
    base = mt.open_model(str(saved_v1), device="cpu").base
    paths = {}
    for seed, (name, options) in enumerate(_KINDS.items()):
        opened = mt.open_model(str(saved_v1), device="cpu")
        inject_lora(opened.model, seed=seed, **options)
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, value in adapter_parameters(opened.model.module):
                if ".lora_B" in key:
                    value.copy_(0.05 * torch.randn(value.shape, generator=rng))
        paths[name] = folder / name
        paths[name].mkdir()
        save_adapter(paths[name], opened.model, adapter_state(opened.model), base=base)
    return paths


@pytest.fixture
def runs(adapters: dict[str, Path], speech_folder: Path, tmp_path: Path) -> dict[str, Path]:
    """Run folders of `voice` and `words`: each learned four clips, and was scored on another."""
    clips = read_manifest(speech_folder / "train.jsonl").utterances
    paths = {}
    for index, name in enumerate(("voice", "words")):
        own = clips[4 * index : 4 * index + 4]
        data = {part: tmp_path / f"{name}-{part}.jsonl" for part in ("train", "dev")}
        write_manifest(data["train"], own)
        dev = read_manifest(speech_folder / "dev.jsonl").utterances[index : index + 1]
        write_manifest(data["dev"], dev)
        paths[name] = tmp_path / name
        folder = RunFolder.create(paths[name])
        shutil.copytree(adapters[name], folder.adapter_dir)
        folder.eval_dir.mkdir()
        scored = score_utterance(dev[0].id, dev[0].reference, "one", normalizer_for("basic-1"))
        write_jsonl_atomic(folder.dev_hypotheses_path, [scored.to_record()])
        folder.write_record(
            job="train",
            settings={"data": {part: str(path) for part, path in data.items()}},
            data={part: sha256_of(path) for part, path in data.items()},
        )
    return paths


# --- the command


def test_the_sum_that_is_chosen_is_written_and_read_like_a_run(
    saved_v1: Path, adapters: dict[str, Path], speech_folder: Path, tmp_path: Path, ask: Ask
) -> None:
    out, dev = tmp_path / "both", speech_folder / "dev.jsonl"
    parts = [adapters["voice"], adapters["words"]]
    code, document = ask(
        "combine", *parts, "--dev", dev, "--canary", speech_folder / "canary.jsonl",
        "--canary-bound", 1000, "--model", saved_v1, "--out", out,
    )  # fmt: skip
    assert code == (0 if document["verdict"] == BETTER else 1)
    strengths = document["best"]["strengths"]
    assert [item["strength"] for item in document["combined"]] == strengths
    save_sum(tmp_path, [WeightedAdapter(*pair) for pair in zip(parts, strengths, strict=True)])
    wanted = load_file(tmp_path / "adapter_model.safetensors")
    written = load_file(out / "adapter" / "adapter_model.safetensors")
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], value) for name, value in wanted.items())
    tried = [tuple(item["strengths"]) for item in document["tried"]]
    assert tried[:6] == [(1, 0), (0, 1), (0.5, 0.5), (0.5, 1), (1, 0.5), (1, 1)]
    assert len(set(tried)) == len(tried) > 6
    record = RunFolder(out).read_record()
    assert record.result.judged == document["verdict"]
    assert [item.path for item in record.lineage] == [str(path) for path in parts]
    # The scores of the choice are those that any other command gets.
    _, scored = ask("evaluate", "--adapter", out, "--model", saved_v1, "--manifest", dev)
    assert scored["wer"] == pytest.approx(document["best"]["dev_wer"])
    _, shown = ask("runs", "show", out)
    assert shown["summary"]["dev_wer"] == document["best"]["dev_wer"]
    assert shown["score"]["wer"] == pytest.approx(document["best"]["dev_wer"])
    assert run(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "is not there" not in page and "train --config" not in page
    assert "better than each adapter alone" in page


def test_named_strengths_are_not_chosen(
    saved_v1: Path, adapters: dict[str, Path], speech_folder: Path, tmp_path: Path, ask: Ask
) -> None:
    words = ["combine", adapters["voice"], adapters["words"], "--dev", speech_folder / "dev.jsonl",
             "--model", saved_v1, "--out", tmp_path / "both"]  # fmt: skip
    _, document = ask(*words, "--strengths", "0.3,1")
    assert document["best"]["strengths"] == [0.3, 1]
    assert len(document["tried"]) == 3
    assert any("no canary" in remark for remark in document["remarks"])
    for wrong in ("1", "1,x", "0,1", "1,nan", "1,3"):
        assert run([*map(str, words[:-1]), str(tmp_path / wrong), "--strengths", wrong]) == 2


# --- the search


class _KnownScores:
    """Scores by a formula instead of a model."""

    dev_words = 100_000

    def __init__(self, wer: Callable[[Strengths], float], canary: Callable[[Strengths], float]):
        self._wer, self._canary = wer, canary
        self.tried: list[Strengths] = []

    def score_base(self) -> Candidate:
        return self.score((0.0, 0.0))

    def score(self, strengths: Strengths) -> Candidate:
        self.tried.append(strengths)
        return Candidate(
            step=0, dev_wer=self._wer(strengths), canary_wer=self._canary(strengths),
            strength=sum(strengths) / 2, averaged=0, dev_augmented_wer=None, strengths=strengths,
        )  # fmt: skip


def _search(
    wer: Callable[[Strengths], float], canary: Callable[[Strengths], float] = lambda _: 10.0
) -> tuple[Strengths, str]:
    parts = [SimpleNamespace(name=name) for name in ("voice", "words")]
    scores = cast(SumScores, _KnownScores(wer, canary))
    search = _StrengthSearch(scores, cast(Any, parts), 2.0, SilentProgress())
    best = search.run(())
    return tuple(map(float, best.strengths)), search.verdict_on(best)


def test_the_search_finds_the_best_strengths_of_its_grid() -> None:
    def wer(strengths: Strengths) -> float:
        voice, words = strengths
        return 20 + 10 * ((voice - 0.75) ** 2 + (words - 1.0) ** 2)

    assert _search(wer) == ((0.75, 1.0), BETTER)


def test_differences_within_the_noise_choose_the_strongest() -> None:
    best, _ = _search(lambda strengths: 30 - 5 * min(sum(strengths), 1.0))
    assert best == (1.0, 1.0)


def test_a_sum_that_breaks_the_canary_bound_is_not_chosen() -> None:
    best, verdict = _search(
        lambda strengths: 30 - 5 * sum(strengths), lambda strengths: 10 + 1.5 * sum(strengths)
    )
    # 1.25 · 1.5 points are within the bound of 2.
    assert (sum(best), verdict) == (1.25, BETTER)
    _, verdict = _search(lambda strengths: 30 - 5 * sum(strengths), lambda item: 10 + 9 * sum(item))
    assert verdict == CANARY_LOST


def test_a_sum_is_compared_with_the_base_and_with_each_adapter() -> None:
    def wer(strengths: Strengths) -> float:
        voice, words = strengths
        return 30 - 10 * voice + (8 * words if voice else -5 * words)

    assert _search(wer)[1] == NOT_BETTER_THAN_PART
    assert _search(lambda strengths: 30 + sum(strengths))[1] == NOT_BETTER


# --- what the runs know


def test_dev_and_canary_are_those_of_the_runs(runs: dict[str, Path], speech_folder: Path) -> None:
    parts = read_parts([runs["voice"], runs["words"] / "adapter"])
    assert [part.name for part in parts] == ["voice", "words"]
    sets, remarks = dev_sets(parts, (), 200)
    assert [(item.name, [u.id for u in item.utterances]) for item in sets] == [
        ("dev of voice", ["dev-0"]),
        ("dev of words", ["dev-1"]),
    ]
    assert not remarks
    assert check_unlearned(parts, sets) is None
    assert canary_of(parts, None) is None
    canaries = [speech_folder / "canary.jsonl", speech_folder / "replay.jsonl"]
    for name, canary in zip(runs, canaries, strict=True):
        folder = RunFolder(runs[name])
        settings = folder.read_record().settings
        settings["data"]["canary"] = str(canary)
        folder.update_record(settings=settings)
    parts = read_parts(list(runs.values()))
    with pytest.raises(RequestError, match="different canaries"):
        canary_of(parts, None)
    assert (canary_of(parts[:1], None) or parts[0]).path == canaries[0]


def test_a_clip_counts_once_on_dev(runs: dict[str, Path], tmp_path: Path) -> None:
    parts = read_parts(list(runs.values()))
    first, second = tmp_path / "voice-dev.jsonl", tmp_path / "words-dev.jsonl"
    sets, remarks = dev_sets(parts, [first, first], 200)
    assert (len(sets), len(remarks)) == (1, 1)
    both = tmp_path / "both-dev.jsonl"
    write_manifest(both, [u for path in (first, second) for u in read_manifest(path).utterances])
    with pytest.raises(RequestError, match="several of the dev sets"):
        dev_sets(parts, [first, both], 200)


def test_clips_that_an_adapter_has_learned_are_no_dev_set(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    parts = read_parts(list(runs.values()))
    sets, _ = dev_sets(parts, [tmp_path / "words-train.jsonl"], 200)
    with pytest.raises(RequestError, match="words was trained on 4 of the 4 clips"):
        check_unlearned(parts, sets)
    # Copies under other names are the same clips, of an adapter and of another dev set.
    copies = []
    for item in read_manifest(tmp_path / "words-train.jsonl").utterances[:2]:
        path = tmp_path / f"copy-of-{item.id}{item.audio.suffix}"
        shutil.copyfile(item.audio, path)
        copies.append(replace(item, id=path.stem, audio=path))
    write_manifest(tmp_path / "copies.jsonl", copies)
    sets, _ = dev_sets(parts, [tmp_path / "copies.jsonl"], 200)
    with pytest.raises(RequestError, match="words was trained on 2 of the 2 clips, such as copy-"):
        check_unlearned(parts, sets)
    with pytest.raises(RequestError, match="2 clips are in several of the dev sets"):
        dev_sets(parts, [tmp_path / "words-train.jsonl", tmp_path / "copies.jsonl"], 200)


def test_a_sum_goes_back_to_the_recordings_of_its_parts(
    runs: dict[str, Path], speech_folder: Path, tmp_path: Path
) -> None:
    parts = read_parts(list(runs.values()))
    both = RunFolder.create(tmp_path / "both")
    both.adapter_dir.mkdir()
    save_sum(both.adapter_dir, [WeightedAdapter(path, 1.0) for path in runs.values()])
    combined = [
        {"name": part.name, "adapter_sha256": part.origin.adapter_sha256, "strength": 1.0,
         "alone": {}} for part in parts
    ]  # fmt: skip
    lineage = [item for part in parts for item in part.origin.lineage]
    both.write_record(job="combine", settings={}, lineage=lineage, result={"combined": combined})
    recordings, remarks = earlier_recordings(read_origin(both.path))
    assert (len(recordings), remarks) == (8, [])
    voices = voices_of_run(both.path, read_manifest(speech_folder / "train.jsonl"))
    assert voices is not None and voices.kind == "known voices"
    assert {item.id for item in clips_of_run(both.path)} == {
        f"{number}/train/{item.id}"
        for number, path in enumerate(("voice", "words"), start=1)
        for item in read_manifest(tmp_path / f"{path}-train.jsonl").utterances
    }
    with pytest.raises(RequestError, match="both was made from voice, and has what"):
        read_parts([runs["voice"], both.path])
    shutil.rmtree(runs["words"])
    recordings, remarks = earlier_recordings(read_origin(both.path))
    assert (len(recordings), len(remarks)) == (4, 1)
    assert voices_of_run(both.path, read_manifest(speech_folder / "train.jsonl")) is None


def test_what_the_runs_record_is_remarked(runs: dict[str, Path]) -> None:
    for path in runs.values():
        RunFolder(path).update_record(lineage=[{"adapter_sha256": "abc"}])
    RunFolder(runs["words"]).update_record(result={"verdict": NOT_BETTER})
    first, second = remarks_on(read_parts(list(runs.values())))
    assert first == "words is recorded as: no better than the base"
    assert "adapter abc" in second
    RunFolder(runs["words"]).update_record(status="running")
    with (
        one_writer(runs["words"]),
        pytest.raises(RequestError, match="words is still being trained"),
    ):
        read_parts(list(runs.values()))


# --- refusals


def _of_another_base(adapters: dict[str, Path], folder: Path) -> Path:
    shutil.copytree(adapters["words"], folder)
    base = json.loads((folder / "base_model.json").read_text(encoding="utf-8"))
    changed = base | {key: "0" * 64 for key in base if key.endswith("sha256")}
    (folder / "base_model.json").write_text(json.dumps(changed), encoding="utf-8")
    matrices = load_file(folder / "adapter_model.safetensors")
    first = next(iter(matrices))
    save_file(matrices | {first: matrices[first] + 1}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["voice"], "1 adapters are named; 2 to 4 can be combined"),
        (["voice", "copy"], "are the same adapter"),
        (["voice", "dora"], "cannot be summed with others: DoRA"),
        (["voice", "other"], "belongs to another base"),
        (["voice", "words"], "an adapter without its run: its dev set is not known"),
        (["voice", "gone"], "no such folder"),
    ],
)
def test_what_cannot_be_combined_is_refused_before_a_model_is_loaded(
    names: list[str],
    message: str,
    adapters: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(adapters["voice"], tmp_path / "copy")
    paths = adapters | {
        "copy": tmp_path / "copy",
        "other": _of_another_base(adapters, tmp_path / "other"),
        "gone": tmp_path / "gone",
    }
    monkeypatch.setattr(combine_module, "open_model", None)
    words = [str(paths[name]) for name in names]
    assert run(["combine", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_refused(adapters: dict[str, Path], tmp_path: Path) -> None:
    request = CombineRequest((adapters["voice"], adapters["words"]))
    with pytest.raises(RequestError, match="exists already"):
        combine_module.combine(request, tmp_path, SilentProgress())
