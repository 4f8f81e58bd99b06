"""Key terms: reading a list, proposing one, counting recall and false alarms."""

from pathlib import Path

import pytest

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.corpus.keyterms import propose_key_terms, read_key_terms, score_key_terms
from moonshine_tune.corpus.normalizers import normalizer_for

_NORMALIZER = normalizer_for("spelled-1")


def test_a_file_gives_each_term_once_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_text("\ufeff# a heading\nKubernetes\n\n  Ceph   pool \nKubernetes\n", "utf-8")
    assert read_key_terms(path) == ("Kubernetes", "Ceph pool")


def test_all_invalid_lines_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_text("one, two\nfine\na,b\n", "utf-8")
    with pytest.raises(ProblemsError) as caught:
        read_key_terms(path)
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["1", "3"]
    path.write_text("# nothing\n\n", "utf-8")
    with pytest.raises(RequestError, match="no key term"):
        read_key_terms(path)
    with pytest.raises(RequestError, match="no such file"):
        read_key_terms(tmp_path / "none.txt")
    path.write_bytes(b"\xff\xfe\x00caf\xe9")
    with pytest.raises(RequestError, match="cannot be read"):
        read_key_terms(path)


def _pieces(text: str) -> int:
    """A tokenizer with tokens for a few words, and for single letters."""
    return 1 if text in {"the", "The", "runs", "On", "on"} else len(text)


def test_words_of_several_tokens_are_proposed_by_frequency() -> None:
    texts = ["The Ceph runs on Kubernetes.", "On Kubernetes, the kubernetes runs", "4711 on 4.5"]
    terms = propose_key_terms(texts, _pieces)
    assert [(item.term, item.count) for item in terms] == [("Kubernetes", 3), ("Ceph", 1)]
    assert [item.term for item in propose_key_terms(texts, _pieces, at_most=1)] == ["Kubernetes"]
    assert [item.term for item in propose_key_terms(texts, _pieces, least=2)] == ["Kubernetes"]
    assert propose_key_terms(["the on"], _pieces) == ()


def test_recall_and_false_alarms_count_whole_words() -> None:
    terms = ["Ceph", "red hat", "never said"]
    references = ["Ceph and red hat, Ceph!", "a cephalopod", "hat red"]
    hypotheses = ["ceph and red hat", "a Ceph cephalopod", "red hat red hat"]
    score = score_key_terms(terms, references, hypotheses, _NORMALIZER)
    assert (score.spoken, score.recalled, score.false_alarms) == (3, 2, 3)
    assert score.recall == pytest.approx(100 * 2 / 3)
    assert score.hypothesis_words == 11
    assert score.false_alarms_per_1000 == pytest.approx(1000 * 3 / 11)


def test_without_a_spoken_term_there_is_no_recall() -> None:
    score = score_key_terms(["Ceph"], ["a"], ["b"], _NORMALIZER)
    assert score.recall is None and score.to_record()["recall"] is None
