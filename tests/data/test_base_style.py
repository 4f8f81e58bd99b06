"""`data fix --style base`, and what `data check` and `train` say of texts without style."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from moonshine_tune.cli.app import run
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.corpus.punctuation import WrittenText
from moonshine_tune.data import base_style
from moonshine_tune.inference.base_transcripts import base_transcripts
from moonshine_tune.inference.dataset import SpeechDataset, build_dataset
from moonshine_tune.registry.open import OpenedModel, open_model

# Text, what the base model writes, and the text in its style.
_TEXTS = {
    "bare": ("i'm in london is it far", "I'm in London. Is it far?", "I'm in London. Is it far?"),
    "start": ("We met lord hale there", "We met Lord Hail there.", "We met Lord hale there."),
    "shout": ("TURN LEFT AT BONN", "Turn left at Bonn.", "Turn left at Bonn."),
    "other": ("but how would they go about it", "Poha woda, zamur baja.",
              "But how would they go about it."),
    "own": ("He said: go, now.", "He said go now.", "He said: go, now."),
    "word": ("four", "Four.", "four"),
    "spelled": ("g m e f", "G, m, e, f.", "g m e f"),
}  # fmt: skip


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clip of noise for each text, and a base model that writes the transcripts above."""

    def transcripts(
        dataset: SpeechDataset, opened: OpenedModel, progress: Progress, name: str
    ) -> list[str]:
        return [_TEXTS[item.id][1] for item in dataset.utterances]

    monkeypatch.setattr(base_style, "base_transcripts", transcripts)
    return _manifest(tmp_path, {name: text for name, (text, *_) in _TEXTS.items()})


def _manifest(folder: Path, texts: dict[str, str]) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for name, text in texts.items():
        soundfile.write(folder / f"{name}.wav", rng.normal(0, 0.1, 16_000), 16_000)
        lines.append(json.dumps({"id": name, "audio": f"{name}.wav", "text": text, "note": 1}))
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _fix(
    source: Path, model: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, Any]:
    capsys.readouterr()
    command = ["data", "fix", str(source), "--style", "base", "--model", str(model), "--json"]
    assert run([*command, "--device", "cpu", *more]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


def test_texts_get_the_style_of_the_base(
    manifest: Path, saved_v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = manifest.parent / "styled.jsonl"
    planned = _fix(manifest, saved_v1, capsys)
    assert not out.exists()
    result = _fix(manifest, saved_v1, capsys, "--out", str(out), "--apply")
    written = read_manifest(out).utterances
    assert {item.id: item.text for item in written} == {n: t for n, (*_, t) in _TEXTS.items()}
    assert all(item.extra == {"note": 1} for item in written)
    assert result["mended"] == {"base_style": 3, "sentence_form": 1}
    assert result["style"] == {
        "model": saved_v1.name,
        "sentence_form": ["other"],
        "kept": {
            "written already": ["own"],
            "single words, letters or numbers": ["word", "spelled"],
        },
    }
    assert planned["changes"] == result["changes"] and planned["out"] is None
    for name, before, after in result["changes"]:
        assert before == _TEXTS[name][0]
        assert WrittenText.of(before).keys == WrittenText.of(after).keys


def test_the_style_comes_after_the_fixes_of_an_audit(
    manifest: Path, saved_v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[0]["text"] = f"[NOISE] {lines[0]['text']}"
    manifest.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    audit = manifest.parent / "audit"
    run(["data", "audit", str(manifest), "--no-model", "--out", str(audit)])
    out = manifest.parent / "styled.jsonl"
    result = _fix(audit, saved_v1, capsys, "--out", str(out), "--apply")
    assert read_manifest(out).utterances[0].text == _TEXTS["bare"][2]
    assert result["mended"]["strip_markup"] == 1
    assert "unlike_base_style" in {fix["kind"] for fix in _findings(audit)}


def _findings(audit: Path) -> Sequence[dict[str, Any]]:
    findings: list[dict[str, Any]] = json.loads((audit / "audit.json").read_text())["findings"]
    return findings


def test_what_is_left_alone_is_listed(
    manifest: Path, saved_v1: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "fix", str(manifest), "--style", "base", "--model", str(saved_v1)]
    assert run([*command, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "transcribes other words: 1 (other)" in text
    assert "single words, letters or numbers, left alone: 2 (word, spelled)" in text


def test_a_wrong_request_is_refused_before_the_model_is_opened(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fix = ["data", "fix", str(manifest)]
    assert run([*fix, "--style", "bass"]) == 2 and "--style base" in capsys.readouterr().err
    assert run(fix) == 2 and "data audit" in capsys.readouterr().err
    style = [*fix, "--style", "base", "--model", "no such model", "--apply"]
    assert run([*style, "--out", str(manifest), "--force"]) == 2
    assert "replace the old one" in capsys.readouterr().err
    assert run(["data", "fix", "absent.jsonl", "--style", "base"]) == 2
    assert "absent.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "details"),
    [
        (["turn left heading two seven zero"] * 4, "no punctuation and no capital letters"),
        (["Turn left at London"] * 3 + ["Turn left at Bonn."], "no punctuation"),
        (["turn left, at london."] * 4, "no capital letters"),
        (["TURN LEFT AT LONDON"] * 4, "no punctuation"),
        (["今日は天気がいい"] * 4, "no punctuation"),
        (["Turn left at London."] * 3 + ["turn left there"], None),
        (["Turn left at London."] * 4, None),
        (["four", "A", "g m e f", "six three seven nine", "turn left"], None),
        (["turn left at london"] * 3, None),
    ],
)
def test_data_check_names_sentences_without_style(
    texts: list[str], details: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _manifest(tmp_path, {str(number): text for number, text in enumerate(texts)})
    run(["data", "check", str(path), "--json"])
    findings = {item["kind"]: item for item in json.loads(capsys.readouterr().out)["findings"]}
    finding = findings.get("unlike_base_style")
    if details is None:
        assert finding is None
        return
    assert finding is not None and finding["details"][0].startswith(f"{details}: ")
    assert f"data fix {path} --style base" in finding["action"]


def _unlearned(folder: Path, texts: list[str], base: list[str], saved: Path) -> tuple[str, ...]:
    manifest = _manifest(folder, {str(number): text for number, text in enumerate(texts)})
    opened = open_model(str(saved), device="cpu", dtype="float32", progress=SilentProgress())
    dataset = build_dataset(
        read_manifest(manifest).utterances, opened.model, name="train", max_clip_s=9,
        needs_text=True,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(base_style, "base_transcripts", lambda part, *_: base[: len(part)])
        return base_style.unlearned_style(dataset, opened, manifest, SilentProgress())


def test_train_says_what_the_adapter_unlearns(tmp_path: Path, saved_v1: Path) -> None:
    bare, full = ["turn left at london"] * 20, ["Turn left at London."] * 16
    (remark,) = _unlearned(tmp_path, bare, full, saved_v1)
    assert "0% have punctuation and 0% have capital letters" in remark
    assert "transcripts 100% and 100%" in remark
    folder = tmp_path
    assert f"data fix {folder}/train.jsonl --style base --model {saved_v1} " in remark
    assert f"--out {folder}/train-styled.jsonl --apply" in remark
    # The base itself writes neither; the texts have both; the texts are single words.
    assert not _unlearned(tmp_path, bare, bare, saved_v1)
    assert not _unlearned(tmp_path, full, full, saved_v1)
    assert not _unlearned(tmp_path, ["four", "six"] * 9, ["Four."] * 16, saved_v1)
    (remark,) = _unlearned(tmp_path, bare[:10] + full[:10], full, saved_v1)
    assert "50% have punctuation and 50% have capital letters" in remark


def test_transcripts_of_the_base_are_kept(tmp_path: Path, saved_v1: Path) -> None:
    manifest = _manifest(tmp_path, {"a": "one two", "b": "two"})
    opened = open_model(str(saved_v1), device="cpu", dtype="float32", progress=SilentProgress())
    dataset = build_dataset(
        read_manifest(manifest).utterances, opened.model, name="train", max_clip_s=9,
        needs_text=True,
    )  # fmt: skip
    stages: list[str] = []

    class Stages(SilentProgress):
        def stage(self, name: str, total: int) -> Any:
            stages.append(name)
            return super().stage(name, total)

    first = base_transcripts(dataset, opened, Stages(), "first")
    assert base_transcripts(dataset, opened, Stages(), "second") == first
    assert stages == ["first"] and len(first) == 2
    assert base_transcripts(dataset.part([1]), opened, Stages(), "third") == first[1:]


@pytest.mark.real_model
@pytest.mark.shared_data
def test_real_speech_gets_its_punctuation_back(
    real_cache: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The three shortest sentences of the cased and punctuated set, without both."""
    utterances = read_manifest(shared_data / "ljspeech" / "manifest.jsonl").utterances
    shortest = sorted(utterances, key=lambda item: item.duration or 0.0)[:3]
    lines = [
        {"id": item.id, "audio": str(item.audio), "text": item.reference.rstrip(".,;").lower()}
        for item in shortest
    ]
    manifest = tmp_path / "bare.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    command = ["data", "fix", str(manifest), "--style", "base", "--out", str(tmp_path / "s.jsonl")]
    assert run([*command, "--apply", "--device", "cpu"]) == 0
    styled = [item.reference for item in read_manifest(tmp_path / "s.jsonl").utterances]
    assert all(text.endswith(".") and text[0].isupper() for text in styled), styled
    for line, text in zip(lines, styled, strict=True):
        assert WrittenText.of(line["text"]).keys == WrittenText.of(text).keys
