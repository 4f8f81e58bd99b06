"""Training from texts: the speech in the run folder, its dev, and what a second attempt does."""

import json
from pathlib import Path

import pytest

from moonshine_tune.audio.samples import Samples
from moonshine_tune.audio.speech_engine import EspeakEngine, Prosody
from moonshine_tune.config.settings import DataSettings, RunSettings
from moonshine_tune.core.errors import AudioError, NegativeAnswerError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.data.synthesis.corpus import synthesize_corpus
from moonshine_tune.data.synthesis.judgment import Judgment
from moonshine_tune.training.texts import TextsRequest, synthesize_for_run

pytest.importorskip("espeakng_loader", reason="the package espeakng-loader is missing")


def _speech(out: Path, settings: RunSettings, **request):
    given = TextsRequest(check=False, **request)
    source, layer = synthesize_for_run(given, settings, out, SilentProgress())
    assert source == "texts"
    return {
        name: read_manifest(Path(path)).utterances if name != "terms" else path
        for name, path in layer["data"].items()
    }


def _lines(path: Path, count: int = 6) -> Path:
    path.write_text("".join(f"line {n}\n" for n in range(count)), encoding="utf-8")
    return path


def test_few_texts_are_dev_in_other_voices_and_a_second_attempt_uses_the_speech(
    tmp_path: Path,
) -> None:
    texts, out = _lines(tmp_path / "few.txt"), tmp_path / "run"
    data = _speech(out, RunSettings(), texts=texts)
    assert {item.text for item in data["dev"]} == {item.text for item in data["train"]}
    assert not {item.speaker for item in data["dev"]} & {item.speaker for item in data["train"]}
    assert len(data["train"]) == 60 and all(item.is_synthetic for item in data["train"])
    audio = data["train"][0].audio
    before = audio.stat().st_mtime_ns
    _speech(out, RunSettings(), texts=texts)
    assert audio.stat().st_mtime_ns == before
    _lines(texts, 5)
    with pytest.raises(RequestError, match="another request"):
        _speech(out, RunSettings(), texts=texts)


def test_a_share_of_many_texts_is_held_out_and_a_sentence_of_each_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moonshine_tune.training.texts._CLIPS", 1)
    texts, terms = _lines(tmp_path / "texts.txt", 60), tmp_path / "terms.txt"
    terms.write_text("Wallasey\nTrent\n", encoding="utf-8")
    data = _speech(tmp_path / "run", RunSettings(), texts=texts, terms=terms)
    assert len(data["train"]) == 54 + 8 and len(data["dev"]) == 6 + 2
    assert not {item.text for item in data["dev"]} & {item.text for item in data["train"]}
    assert data["terms"] == str(terms)
    for term in ("Wallasey", "Trent"):
        assert sum(term in (item.text or "") for item in data["dev"]) == 1


def test_beside_real_clips_all_texts_train_and_dev_stays_real(tmp_path: Path) -> None:
    settings = RunSettings(data=DataSettings(train=tmp_path / "real.jsonl"))
    data = _speech(tmp_path / "run", settings, texts=_lines(tmp_path / "few.txt", 3))
    assert set(data) == {"synthetic"} and {item.text for item in data["synthetic"]} == {
        "line 0", "line 1", "line 2",
    }  # fmt: skip


def test_a_folder_with_a_run_is_refused_before_anything_is_spoken(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text("{}")
    with pytest.raises(RequestError, match="not empty"):
        _speech(out, RunSettings(), texts=_lines(tmp_path / "few.txt"))
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["run.json"]


def test_several_processes_are_told_to_synthesize_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="several train together"):
        _speech(tmp_path / "run", RunSettings(), texts=_lines(tmp_path / "few.txt"))


# --- corpora: what is not understood, and what a slow engine has spoken


def _judged(understood: bool):
    def check(utterances, terms, progress):
        return [
            Judgment(item.id, item.text, "huh", 0.1, fits=understood or n > 0)
            for n, item in enumerate(utterances)
        ]

    return check


def test_clips_that_are_not_understood_are_left_out_and_listed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = synthesize_corpus(
        ("one", "two"), out, voices=("en-us",), check=_judged(False), progress=SilentProgress()
    )
    assert (result.utterances, result.left_out) == (1, 1)
    (left_out,) = map(json.loads, (out / "left_out.jsonl").read_text().splitlines())
    assert left_out["text"] == "one" and left_out["hypothesis"] == "huh" and left_out["reason"]
    assert len(list((out / "audio").iterdir())) == 1
    assert json.loads((out / "synthesis.json").read_text())["left_out"] == 1
    with pytest.raises(NegativeAnswerError, match="none of 1 clips"):
        synthesize_corpus(
            ("one",), tmp_path / "none", voices=("en-us",), check=_judged(False),
            progress=SilentProgress(),
        )  # fmt: skip
    assert not (tmp_path / "none").exists()


def test_a_slow_engine_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EspeakEngine, "is_slow", True)
    spoken: list[str] = []
    speak = EspeakEngine.speak

    def counted(self: EspeakEngine, text: str, voice: str, prosody: Prosody) -> Samples:
        if text == "three" and "three" not in spoken:
            spoken.append(text)
            raise AudioError("stopped")
        spoken.append(text)
        return speak(self, text, voice, prosody)

    monkeypatch.setattr(EspeakEngine, "speak", counted)
    words, out = ("one", "two", "three"), tmp_path / "out"
    with pytest.raises(AudioError, match="stopped"):
        synthesize_corpus(words, out, voices=("en-us",), progress=SilentProgress())
    assert not out.exists()
    result = synthesize_corpus(words, out, voices=("en-us",), progress=SilentProgress())
    assert result.utterances == 3 and spoken == ["one", "two", "three", "three"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left beside it"
