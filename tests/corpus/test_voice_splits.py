"""Splits for one voice: texts and sessions stay whole, no clip is lost, sizes are as asked."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.grouping import plain_text, sessions_of
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.splits import Splits, split_utterances

Corpus = Callable[[random.Random], list[Utterance]]


def clip(number: int, text: str, **more: object) -> Utterance:
    made = Utterance(f"c{number}", Path(f"/c/{number}.wav"), text, "anna", duration=3.0)
    return replace(made, **more)  # type: ignore[arg-type]


def sentences(rng: random.Random) -> list[Utterance]:
    """Each sentence once, as of a dictation program."""
    return [clip(n, f"sentence {n}", duration=rng.uniform(1, 9)) for n in range(200)]


def prompts(rng: random.Random) -> list[Utterance]:
    """Thirty prompts, read some times each, in another case and punctuation."""
    texts = [rng.choice([f"prompt {n % 30}", f"Prompt, {n % 30}!"]) for n in range(160)]
    return [clip(n, text) for n, text in enumerate(texts)]


def days(rng: random.Random) -> list[Utterance]:
    """Twelve sessions of other sentences; nobody is named."""
    return [
        clip(n, f"sentence {n}", speaker=None, session=f"day {rng.randrange(12)}")
        for n in range(240)
    ]


def prompts_on_days(rng: random.Random) -> list[Utterance]:
    """The same fifty prompts in each of ten sessions: not both can stay whole."""
    return [clip(n, f"prompt {n % 50}", session=f"day {n // 50}") for n in range(500)]


def one_long_recording(rng: random.Random) -> list[Utterance]:
    """Segments of a recognizer, which overlap a little at their ends."""
    audio = Path("/c/talk.wav")
    return [
        clip(n, f"segment {n}", audio=audio, start=5.0 * n, end=5.0 * n + 5.2, duration=None)
        for n in range(90)
    ]


def three_commands(rng: random.Random) -> list[Utterance]:
    return [clip(n, ("yes", "no", "stop")[n % 3]) for n in range(60)]


def parts(splits: Splits) -> dict[str, tuple[Utterance, ...]]:
    return {"train": splits.train, "dev": splits.dev, "test": splits.test}


def shared(splits: Splits, key: Callable[[Utterance], object]) -> set[object]:
    """Values that are in more than one split."""
    values = [{key(item) for item in members} - {""} for members in parts(splits).values()]
    return (values[0] & values[1]) | (values[0] & values[2]) | (values[1] & values[2])


CORPORA: dict[Corpus, str] = {
    sentences: "text", prompts: "text", days: "session and text", prompts_on_days: "text",
    one_long_recording: "text", three_commands: "clip",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("corpus", CORPORA)
def test_a_voice_is_split_without_a_loss_near_the_shares(corpus: Corpus, seed: int) -> None:
    utterances = corpus(random.Random(seed))
    splits = split_utterances(utterances, seed=seed)
    assert splits.by == CORPORA[corpus]
    ids = [item.id for members in parts(splits).values() for item in members]
    assert sorted(ids) == sorted(item.id for item in utterances)
    for name in ("dev", "test"):
        assert 0.05 <= len(parts(splits)[name]) / len(utterances) <= 0.2
    if "text" in splits.by:
        assert shared(splits, plain_text) == set()
    if "session" in splits.by:
        assert shared(splits, lambda item: item.session) == set()
    shuffled = random.Random(seed + 1).sample(utterances, len(utterances))
    again = split_utterances(shuffled, seed=seed)
    assert {item.id for item in again.test} == {item.id for item in splits.test}
    assert {item.id for item in again.dev} == {item.id for item in splits.dev}
    assert [item.id for item in splits.train] == [i.id for i in utterances if i in splits.train]


def test_another_seed_gives_another_split() -> None:
    utterances = sentences(random.Random(0))
    tests = {tuple(i.id for i in split_utterances(utterances, seed=n).test) for n in range(4)}
    assert len(tests) == 4


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(2, (1, 1, 0)), (3, (1, 1, 1)), (5, (3, 1, 1)), (9, (5, 2, 2)), (10, (6, 2, 2)),
     (12, (8, 2, 2)),
     (20, (14, 3, 3)), (29, (23, 3, 3)), (30, (24, 3, 3))],
)  # fmt: skip
def test_sizes_of_very_small_sets(count: int, sizes: tuple[int, int, int]) -> None:
    rng = random.Random(count)
    utterances = [clip(n, f"sentence {n}", duration=rng.uniform(1, 15)) for n in range(count)]
    # From 30 clips on, shares are of the time.
    if count == 30:
        utterances = [replace(item, duration=4.0) for item in utterances]
    splits = split_utterances(utterances)
    assert tuple(map(len, parts(splits).values())) == sizes


def test_a_single_clip_stays_in_train() -> None:
    splits = split_utterances([clip(0, "alone")])
    assert (len(splits.train), splits.dev, splits.test) == (1, (), ())


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda n: {"session": f"s{n % 4}"}, "session"),
        (lambda n: {"audio": Path(f"/rec/2024-05-0{n % 4 + 1}_{n}.wav")}, "date"),
        (lambda n: {"audio": Path(f"/rec/Memo 2024050{n % 4 + 1}T1022{n:02d}.m4a")}, "date"),
        (lambda n: {"extra": {"created_at": 1_714_550_400 + 86_400 * (n % 4)}}, "date"),
        (lambda n: {"extra": {"timestamp": f"2024-05-0{n % 4 + 1}T10:00:00Z"}}, "date"),
        (lambda n: {"audio": Path(f"/rec/part{n % 4}/{n}.wav")}, "folder"),
        (lambda n: {"audio": Path(f"/rec/word{n % 4}/{n}.wav"), "text": f"w{n % 4}"}, "recording"),
        (lambda n: {"audio": Path(f"/rec/{n}/a.wav")}, "recording"),
        (lambda n: {"audio": Path(f"/rec/20240{n:03d}.wav")}, "recording"),
    ],
)
def test_what_was_recorded_together_is_read_from_what_there_is(
    change: Callable[[int], dict[str, object]], kind: str
) -> None:
    made = [clip(n, f"sentence {n}") for n in range(40)]
    utterances = [replace(item, **change(n)) for n, item in enumerate(made)]  # type: ignore[arg-type]
    sessions = sessions_of(utterances)
    assert sessions.kind == kind
    assert len(set(sessions.names)) == (40 if kind == "recording" else 4)


def test_remarks_say_what_was_kept_apart_and_what_was_not() -> None:
    rng = random.Random(0)
    assert split_utterances(sentences(rng)).remarks == (
        "one speaker is named (anna): split by text",
    )
    remarks = " ".join(split_utterances(prompts(rng)).remarks)
    assert "30 texts are read more than once" in remarks and "--by session" in remarks
    assert "none of 240 utterances has a speaker" in split_utterances(days(rng)).remarks[0]
    remarks = " ".join(split_utterances(prompts_on_days(rng)).remarks)
    assert "10 sessions are too few to keep whole" in remarks
    remarks = " ".join(split_utterances(three_commands(rng)).remarks)
    assert "3 different texts are too few to keep apart" in remarks


def test_each_way_does_what_it_says() -> None:
    utterances = prompts_on_days(random.Random(0))
    by_session = split_utterances(utterances, by="session")
    assert by_session.by == "session" and shared(by_session, lambda item: item.session) == set()
    by_text = split_utterances(utterances, by="text")
    assert by_text.by == "text" and shared(by_text, plain_text) == set()
    by_speaker = split_utterances(utterances, by="speaker")
    assert by_speaker.by == "speaker" and not by_speaker.dev and not by_speaker.test
    with pytest.raises(RequestError, match="split by 'sentence'"):
        split_utterances(utterances, by="sentence")


def test_enough_speakers_are_split_by_speaker_as_before() -> None:
    utterances = [clip(n, f"sentence {n}", speaker=f"s{n % 9}") for n in range(90)]
    splits = split_utterances(utterances)
    assert splits.by == "speaker" and shared(splits, lambda item: item.speaker) == set()
    pair = [replace(item, speaker=f"s{n % 2}") for n, item in enumerate(utterances)]
    two = split_utterances(pair)
    assert two.by == "text" and "2 speakers are too few" in two.remarks[0]
    assert len(two.test) == 9
    dev_alone = split_utterances(pair, test=0)
    assert dev_alone.by == "speaker"


@pytest.mark.parametrize(
    "labels", [("SPEAKER_00", "SPEAKER_01"), ("spk1", "spk2"), ("Speaker 1", "Speaker 2"),
               ("S1", "S2"), ("A", "B"), ("speaker_0", "speaker_1")],
)  # fmt: skip
def test_labels_that_start_anew_name_nobody(labels: tuple[str, str]) -> None:
    utterances = [
        clip(n, f"words {n}", audio=Path(f"/c/{n // 6}.wav"), start=n % 6 * 4.0,
             end=n % 6 * 4.0 + 3, speaker=labels[n % 2])
        for n in range(120)
    ]  # fmt: skip
    splits = split_utterances(utterances)
    assert splits.by == "session and text"
    assert shared(splits, lambda item: item.audio) == set()
    assert f"0/{labels[0]}" in {item.speaker for item in (*splits.train, *splits.dev, *splits.test)}


def test_a_list_of_speakers_for_all_recordings_is_no_label_of_a_recording() -> None:
    utterances = [clip(n, f"words {n}", speaker=f"speaker_{n % 10}") for n in range(100)]
    splits = split_utterances(utterances)
    assert splits.by == "speaker"
    assert {item.speaker for item in splits.train} <= {f"speaker_{n}" for n in range(10)}
