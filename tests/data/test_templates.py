"""Sentences from templates, terms in carrier sentences, and spoken forms."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.keyterms import read_key_terms, read_spoken_terms
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.spoken_lines import SpokenLine
from moonshine_tune.data.synthesis import intelligibility
from moonshine_tune.data.synthesis.carriers import carrier_sentences, carry_terms, read_carriers
from moonshine_tune.data.synthesis.intelligibility import agreement_of, check_with
from moonshine_tune.data.synthesis.prompts import Prompt
from moonshine_tune.data.synthesis.sentence_sources import (
    SentenceSources,
    choose_prompts,
    has_templates,
)
from moonshine_tune.data.synthesis.templates import Templates
from moonshine_tune.inference.dataset import SpeechDataset


def _templates(tmp_path: Path, text: str, **lists: tuple[str, ...]) -> Templates:
    path = tmp_path / "templates.txt"
    path.write_text(text, encoding="utf-8")
    return Templates(path, lists)


def _texts(templates: Templates, count: int = 1000, seed: int = 0) -> list[str]:
    return [prompt.text for prompt in templates.draw(count, seed)]


def test_all_sentences_of_small_templates_are_given_once(tmp_path: Path) -> None:
    templates = _templates(tmp_path, "turn {left|right} {now|}\n# a note\n\nturn {left|right}\n")
    assert templates.size == 6
    assert sorted(_texts(templates)) == [
        "turn left", "turn left now", "turn right", "turn right now",
    ]  # fmt: skip


def test_lists_of_the_file_and_of_the_command_hold_templates(tmp_path: Path) -> None:
    text = "line = Swiss | Air {France|Canada}\n{line} {call}, go\n"
    texts = _texts(_templates(tmp_path, text, call=("one", "two")))
    assert sorted(texts) == [
        f"{line} {call}, go"
        for line in ("Air Canada", "Air France", "Swiss")
        for call in ("one", "two")
    ]


def test_digits_are_words_or_figures_that_are_spoken_digit_by_digit(tmp_path: Path) -> None:
    (words,) = _templates(tmp_path, "{digits:4}\n").draw(1, 3)
    assert len(words.text.split()) == 4 and words.spoken == ""
    (figures,) = _templates(tmp_path, "QNH {digits:4 figures}, {number:7-7} {letters:2}\n").draw(
        1, 3
    )
    drawn = figures.text.split()[1].rstrip(",")
    assert len(drawn) == 4 and drawn.isdecimal() and " 7 " in figures.text
    assert len(figures.spoken.split(",")[0].split()) == 5


def test_drawing_is_even_seeded_and_a_prefix_of_more(tmp_path: Path) -> None:
    templates = _templates(tmp_path, "{a|b|c} {number:0-99999}\nturn {letters:4}\nstop\n")
    texts = _texts(templates, 601)
    assert len(set(texts)) == 601 and texts.count("stop") == 1
    assert Counter(text[0] for text in texts if text[0] in "abc") == {"a": 100, "b": 100, "c": 100}
    assert _texts(templates, 30) == texts[:30] and _texts(templates, 30, seed=1) != texts[:30]


def test_escaped_braces_and_bars_are_text(tmp_path: Path) -> None:
    assert _texts(_templates(tmp_path, r"a \{b\} \| {x\|y|z}" + "\n")) in (
        ["a {b} | x|y", "a {b} | z"], ["a {b} | z", "a {b} | x|y"],
    )  # fmt: skip


def test_every_fault_has_its_line(tmp_path: Path) -> None:
    text = (
        "a = {b}\nb = x | {a}\nc =\nturn {left|\nheading {digit}\nx } y\n{digits:99}\n{ }\n"
        "{number:9-1}\ndigits = 1\nb = again\n{c|{letters:x}}\n"
    )
    with pytest.raises(ProblemsError) as caught:
        _templates(tmp_path, text)
    problems = "\n".join(caught.value.problems)
    for line, words in (
        (1, "contains itself"), (3, "'c' is empty"), (4, "opening brace"),
        (5, "did you mean 'digits'"), (6, "closing brace"), (7, "from 1 to 12"),
        (8, "neither a list"), (9, "write a range"), (10, "cannot be a list"),
        (11, "defined twice"), (12, "from 1 to 12"),
    ):  # fmt: skip
        assert any(f":{line}: " in p and words in p for p in caught.value.problems), problems


def test_a_file_without_templates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no templates"):
        _templates(tmp_path, "a = b\n# only this\n")
    with pytest.raises(RequestError, match="no such file"):
        Templates(tmp_path / "missing.txt")
    plain = tmp_path / "plain.txt"
    plain.write_text("go left\n", encoding="utf-8")
    assert not has_templates(plain) and has_templates(tmp_path / "templates.txt") is False


# --- terms


def test_the_carrier_sentences_of_the_package_are_fit() -> None:
    carriers = carrier_sentences()
    assert len(set(carriers)) == len(carriers) >= 40
    assert all(sentence.count("{term}") == 1 for sentence in carriers)


def test_each_term_is_in_its_own_sentences_and_all_are_used() -> None:
    terms = [SpokenLine("Wallasey", "wolla see"), *(SpokenLine(f"T{n}") for n in range(7))]
    prompts = carry_terms(terms, carrier_sentences(), per_term=5, seed=1)
    assert len(prompts) == 40 and Counter(prompt.terms for prompt in prompts).total() == 40
    used = {prompt.text.replace(prompt.terms[0], "{term}") for prompt in prompts}
    assert used == set(carrier_sentences())
    assert "Wallasey" in prompts[0].text and "wolla see" in prompts[0].spoken
    with pytest.raises(RequestError, match="there are 40"):
        carry_terms(terms, carrier_sentences(), per_term=41, seed=1)


def test_carriers_of_a_file_have_the_term_once(tmp_path: Path) -> None:
    path = tmp_path / "carriers.txt"
    path.write_text("Where is {term}?\nno term\n", encoding="utf-8")
    with pytest.raises(ProblemsError, match=r"carriers.txt:2"):
        read_carriers(path)


def test_spoken_forms_are_spoken_in_all_sentences_and_not_written(tmp_path: Path) -> None:
    terms, sentences = tmp_path / "terms.txt", tmp_path / "sentences.txt"
    terms.write_text("# names\nPole Hill\tpoll hill\nTrent\n", encoding="utf-8")
    sentences.write_text("direct POLE HILL\ngo to X\tgo to ex\n", encoding="utf-8")
    assert read_key_terms(terms) == ("Pole Hill", "Trent")
    sources = SentenceSources(file=sentences, terms=terms, per_term=2)
    prompts = choose_prompts(sources, SilentProgress())
    assert prompts[:2] == (
        Prompt("direct POLE HILL", "direct poll hill"), Prompt("go to X", "go to ex"),
    )  # fmt: skip
    assert [prompt.terms for prompt in prompts[2:]] == [("Pole Hill",)] * 2 + [("Trent",)] * 2


def test_a_table_has_its_spoken_forms_in_a_column(tmp_path: Path) -> None:
    table = tmp_path / "terms.csv"
    table.write_text('id;Term;Spoken\n1;Trent;\n2;"Pole Hill";poll hill\n', encoding="utf-8")
    assert [(item.text, item.spoken, item.line) for item in read_spoken_terms(table)] == [
        ("Trent", "", 2), ("Pole Hill", "poll hill", 3),
    ]  # fmt: skip
    table.write_text("id;name\n1;x\n", encoding="utf-8")
    with pytest.raises(RequestError, match="no column of texts") as caught:
        read_spoken_terms(table)
    assert "`spoken`" in (caught.value.hint or "")


# --- what the base model understands


@pytest.mark.parametrize(
    ("text", "hypothesis", "terms", "kept"),
    [
        ("turn left heading two seven zero", "Turn left, heading 270.", (), True),
        ("turn left heading two seven zero", "I want to talk about it", (), False),
        ("where is Wallasey now", "Where is Wall I see now?", ("Wallasey",), True),
        ("where is Wallasey now", "Go to the bottom", ("Wallasey",), False),
        ("where is Wallasey now", "", ("Wallasey",), False),
    ],
)
def test_a_carrier_must_be_understood_and_its_term_need_not(
    text: str, hypothesis: str, terms: tuple[str, ...], kept: bool
) -> None:
    agreement = agreement_of(text, hypothesis, terms)
    assert agreement is not None and (agreement >= 0.5) is kept


def test_a_clip_is_left_out_only_if_its_text_fits_another_clip_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sixteen clips that the base does not know; the texts of two of them are exchanged."""
    said = list(range(16))
    written = [1, 0, *said[2:]]
    utterances = tuple(
        Utterance(str(n), Path(f"{n}.wav"), f"text number {written[n]}", duration=1.0 + n)
        for n in said
    )
    dataset = SpeechDataset(
        utterances, tuple(1.0 + n for n in said), tuple((word,) for word in written), ()
    )

    class Source:
        def __init__(self, model: object, part: SpeechDataset, budget_mb: int) -> None:
            self.sounds = [int(item.id) for item in part.utterances]

        def prepare(self, *_: object) -> None:
            pass

    def losses(opened: object, source: Source, tokens: list[tuple[int]], *_: object) -> list[float]:
        pairs = zip(source.sounds, tokens, strict=True)
        return [0.5 if sound == word else 3.0 for sound, (word,) in pairs]

    monkeypatch.setattr(intelligibility, "StateSource", Source)
    monkeypatch.setattr(intelligibility, "mean_token_losses", losses)
    monkeypatch.setattr(intelligibility, "build_dataset", lambda *_, **__: dataset)
    monkeypatch.setattr(intelligibility, "base_transcripts", lambda *_: ["Thank you."] * 16)
    opened: Any = SimpleNamespace(language="en", model=None)
    judgments = check_with(opened)(utterances, [()] * 16, SilentProgress())
    assert all(item.is_doubtful for item in judgments)
    assert [item.id for item in judgments if not item.is_understood] == ["0", "1"]


def test_a_text_of_a_few_letters_is_not_judged() -> None:
    assert agreement_of("B", "Be") is None and agreement_of("no", "") is None
