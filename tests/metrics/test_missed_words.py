"""Words that a recognizer gets wrong, from corrections to their recall."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.command_line import Answer

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.alignment import missed_words

_PAIRS = [
    ("We use Kubernetes here.", "we use cooper netties here"),
    ("Kubernetes, again!", "kubernetes again"),
    ("Ask Anna about the 25 pods", "ask ana about the twenty five pods"),
    ("The end", "end"),
    ("the rest of the day", "the rest of the day"),
]


def test_words_that_are_mostly_missed_are_listed_in_their_spelling() -> None:
    missed = missed_words(_PAIRS, normalizer_for("english-1"))
    assert [(item.term, item.spoken, item.missed) for item in missed] == [
        ("Anna", 1, 1), ("Kubernetes", 2, 1),
    ]  # fmt: skip


def _manifest(path: Path, pairs: list[tuple[str, str]]) -> Path:
    lines = [
        {"audio": f"{number}.wav", "text": text, "hypothesis": hypothesis}
        for number, (text, hypothesis) in enumerate(pairs)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_command_writes_the_words_that_were_corrected(
    tmp_path: Path, ask: Callable[..., Answer]
) -> None:
    manifest, out = _manifest(tmp_path / "c.jsonl", _PAIRS), tmp_path / "terms.txt"
    code, result = ask("data", "keyterms", "--from-corrections", manifest, "--out", out)
    assert code == 0 and result["model"] is None
    assert [item["term"] for item in result["terms"]] == ["Anna", "Kubernetes"]
    assert out.read_text(encoding="utf-8").splitlines()[1:] == ["Anna", "Kubernetes"]
    code, result = ask("data", "keyterms", "--from-corrections", manifest, "--least", "2")
    assert code == 1 and "no word was corrected 2 times" in result["error"]["message"]
    code, result = ask("data", "keyterms", manifest, "--from-corrections", manifest)
    assert code == 2
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"audio": "a.wav", "text": "hello"}\n', encoding="utf-8")
    code, result = ask("data", "keyterms", "--from-corrections", plain)
    assert code == 2 and "--corrections LOG" in result["error"]["hint"]


@pytest.mark.usefixtures("one_thread")
def test_torch_counts_the_recall_of_terms(
    training: Any, tmp_path: Path, ask: Callable[..., Answer]
) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("cities\nwisdom\n", encoding="utf-8")
    words = ("evaluate", "--model", training.model, "--manifest", training.speech / "dev.jsonl",
             "--device", "cpu", "--keyterms", terms)  # fmt: skip
    code, result = ask(*words)
    assert code == 0 and result["keyterms"]["boost"] is None
    assert [arm["terms"] for arm in result["keyterms"]["arms"]] == [2]
    code, result = ask(*words, "--boost", "3")
    assert code == 2 and "only the runtime applies" in result["error"]["message"]
