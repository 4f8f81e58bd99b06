"""What a model writes in place of terms, and which of it may stand for them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.english_words import is_english_word
from moonshine_tune.data.aliases.choose import (
    WordFrequencies,
    Written,
    alias_table,
    choose_aliases,
)
from moonshine_tune.data.aliases.takes import carriers, planned_takes
from moonshine_tune.data.aliases.written import SpokenTerm, spoken_terms, written_for
from moonshine_tune.models.base import TextTokenizer
from moonshine_tune.runs.records import AliasesRecord

_SPOKEN = SpokenTerm("Helstone", ("tell", "me", "about"), ("when", "you", "can"))


@pytest.mark.parametrize(
    ("hypothesis", "written"),
    [
        ("Tell me about Hilston when you can.", "hilston"),
        ("Please tell me about hell-stone, when you can", "hell stone"),
        ("Tell me about Helstone when you can.", "helstone"),
        # A neighbor is wrong, so where the term ends is unknown.
        ("Tell me about Hilst on then you can.", None),
        ("Tell me above Hilston when you can.", None),
        ("Tell me about when you can.", None),
        ("Tell me about all of the things of the world when you can.", None),
        ("", None),
    ],
)
def test_the_place_of_a_term_is_between_its_neighbors(hypothesis: str, written: str | None) -> None:
    assert written_for(hypothesis, _SPOKEN) == written


def test_a_term_at_the_edge_of_a_recording_has_one_neighbor() -> None:
    (spoken,) = spoken_terms("Ceph pool is full", ["ceph pool"])
    assert spoken == SpokenTerm("ceph pool", (), ("is", "full"))
    assert written_for("Seth pool is full.", spoken) == "seth pool"
    assert written_for("Kef pool.", SpokenTerm("ceph pool", (), ())) == "kef pool"
    assert [item.before for item in spoken_terms("go, Go on", ["go"])] == [(), ("go",)]


def _frequencies(*words: str, language: str = "en") -> WordFrequencies:
    vocabulary = {f"▁{word}": number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary | {"<unk>": len(words)}, unk_token="<unk>"))
    return WordFrequencies(TextTokenizer(tokenizer), language)


def _chosen(term: str, *texts: str, own: tuple[str, ...] = ()) -> tuple[list[str], dict[str, str]]:
    written = {term: Written(9, 0, 0, Counter(texts))}
    frequencies = _frequencies("the", "new", "google", "brick")
    (result, *_) = choose_aliases(written, frequencies, own)
    reasons = {item.text: item.reason for item in result.left_out}
    return [item.text for item in result.aliases], reasons


def test_what_people_say_is_no_alias() -> None:
    aliases, reasons = _chosen(
        "Newberg", "nuberg", "the nuberg", "new brick", "google", "drag", "nbe", "hubble",
        "newburg", "newberg hall", "zzyzx",
        own=("We met at Newburg.",),
    )  # fmt: skip
    assert aliases == ["nuberg"]
    assert reasons == {
        "new brick": "is a sequence of common words",
        "google": "is a common word",
        "drag": "is a common word",
        "hubble": "is a common word",
        "nbe": "is short",
        "newburg": "is in your own texts",
        "newberg hall": "has the term in it",
        "zzyzx": "is too different",
    }


def test_an_alias_stands_for_one_term() -> None:
    written = {
        "Merck": Written(9, 0, 0, Counter({"mirk ah": 1, "mirck": 8, "merk's": 1})),
        "Mirka": Written(9, 0, 0, Counter({"mirk ah": 1, "mirck": 1})),
    }
    first, second = choose_aliases(written, _frequencies(), ())
    assert [item.text for item in first.aliases] == ["mirck", "merk's"]
    assert [item.reason for item in first.left_out] == ["is written for 'Mirka' too"]
    assert not second.aliases
    assert alias_table([first, second]) == {"merk's": "Merck", "mirck": "Merck"}
    written = {"pool": Written(), "Ceph": Written(3, 0, 0, Counter({"kef pool": 3}))}
    assert choose_aliases(written, _frequencies(), ())[1].left_out[0].reason == (
        "has the term 'pool' in it"
    )


def test_the_list_knows_words_and_their_forms() -> None:
    known = ("stitches", "Danes", "Margaret's", "don't", "colour", "color", "they'll")
    assert all(map(is_english_word, known))
    assert not any(map(is_english_word, ("craiffish", "hilston", "kubernetes", "'", "")))
    assert not _frequencies(language="de").is_word("stitches")
    assert _frequencies().is_word("4711")


def test_takes_alternate_voices_and_have_the_sentences_of_the_user() -> None:
    planned = planned_takes("Ceph", ["Ceph is slow.", "ceph " + 30 * "long "], ["a", "b"], "en")
    assert len(planned) == 2 * (1 + len(carriers("en")))
    assert {item.voice for item in planned} == {"a", "b"}
    assert planned[0].text == "Ceph is slow."
    assert all("Ceph" in item.text and "{" not in item.text for item in planned)
    assert [item.text for item in planned_takes("Ceph", [], ["de"], "de")] == ["Ceph."]


def test_the_command_writes_a_table(
    saved_v1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terms, out = tmp_path / "terms.txt", tmp_path / "aliases.json"
    terms.write_text("crayfish\n")
    command = ["data", "aliases", str(terms), "--model", str(saved_v1), "--out", str(out)]
    assert run([*command, "--voices", "1", "--json"]) == 0
    record = json.loads(out.read_text())
    assert record["schema_version"] == 1
    assert record["terms"][0]["takes"] == len(carriers("en"))
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["aliases"] == record["aliases"]

    def error(*words: str) -> str:
        assert run([*command, *words]) == 2
        return capsys.readouterr().err

    assert "exists already" in error()
    assert "no voice speaks the terms" in error("--force", "--voices", "0")
    assert "from 0 to 10" in error("--force", "--voices", "11")
    terms.write_text("Ceph pool\nceph-pool\n")
    assert "differ in their spelling only" in error("--force")
    terms.write_text("...\n")
    assert "has no word in it" in error("--force")


def test_an_edited_table_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "aliases.json"
    path.write_text('{"aliases": {"hell stone": "Helstone", "a, b": "Helstone", "x": "Y"}}')
    assert AliasesRecord.read(path).of(["Helstone"]) == ("hell stone",)
    path.write_text('{"aliases": {"Hell stone": "Helstone"}}')
    with pytest.raises(RequestError, match="match nothing"):
        AliasesRecord.read(path)
    path.write_text('{"wer": 3.0}')
    with pytest.raises(RequestError, match="no aliases are in it"):
        AliasesRecord.read(path)
