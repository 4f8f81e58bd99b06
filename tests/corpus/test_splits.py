"""Splits by speaker: no leakage, shares close to the request, remarks."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Utterance, seconds_of
from moonshine_tune.corpus.splits import Splits, evenly_chosen, find_leaks, split_by_speaker


def corpus(num_speakers: int = 20, each: int = 10, seed: int = 1) -> list[Utterance]:
    rng = random.Random(seed)
    return [
        Utterance(
            id=f"s{speaker}-{number}",
            audio=Path(f"/clips/s{speaker}-{number}.wav"),
            text=f"sentence number {number}",
            speaker=f"s{speaker}",
            duration=rng.uniform(1, 10),
        )
        for speaker in range(num_speakers)
        for number in range(each)
    ]


def ids(splits: Splits) -> dict[str, set[str]]:
    return {
        name: {utterance.id for utterance in getattr(splits, name)}
        for name in ("train", "dev", "test")
    }


def by_name(splits: Splits) -> dict[str, tuple[Utterance, ...]]:
    return {"train": splits.train, "dev": splits.dev, "test": splits.test}


def test_every_utterance_is_in_one_split_and_no_speaker_in_two() -> None:
    utterances = corpus()
    splits = split_by_speaker(utterances)
    assert sorted(u.id for members in by_name(splits).values() for u in members) == sorted(
        u.id for u in utterances
    )
    assert not find_leaks(by_name(splits)).speakers
    assert not find_leaks(by_name(splits)).recordings
    assert splits.remarks == ()


@pytest.mark.parametrize("seed", range(5))
def test_shares_of_duration_are_close_to_the_request(seed: int) -> None:
    utterances = corpus(40, 5, seed)
    splits = split_by_speaker(utterances, dev=0.1, test=0.2, seed=seed)
    total = seconds_of(utterances)
    assert seconds_of(splits.dev) / total == pytest.approx(0.1, abs=0.01)
    assert seconds_of(splits.test) / total == pytest.approx(0.2, abs=0.01)


def test_shares_are_close_where_a_few_speakers_dominate() -> None:
    utterances = [
        replace(u, duration=40.0 if u.speaker in ("s0", "s1") else 2.0) for u in corpus(22, 5)
    ]
    splits = split_by_speaker(utterances, dev=0.1, test=0.1, seed=3)
    total = seconds_of(utterances)
    assert seconds_of(splits.dev) / total == pytest.approx(0.1, abs=0.02)
    assert seconds_of(splits.test) / total == pytest.approx(0.1, abs=0.02)


def test_result_depends_on_the_seed_and_not_on_the_order() -> None:
    utterances = corpus()
    shuffled = utterances[:]
    random.Random(5).shuffle(shuffled)
    assert ids(split_by_speaker(utterances, seed=4)) == ids(split_by_speaker(shuffled, seed=4))
    assert ids(split_by_speaker(utterances, seed=4)) != ids(split_by_speaker(utterances, seed=5))


def test_splits_keep_the_order_of_the_manifest() -> None:
    utterances = corpus()
    train = split_by_speaker(utterances).train
    kept = {u.id for u in train}
    assert [u.id for u in train] == [u.id for u in utterances if u.id in kept]


def test_a_share_of_zero_gives_an_empty_split() -> None:
    splits = split_by_speaker(corpus(), dev=0.2, test=0.0)
    assert splits.test == ()
    assert splits.dev
    assert splits.train


def test_shares_are_by_count_if_a_duration_is_unknown() -> None:
    utterances = [replace(u, duration=None) if u.id == "s0-0" else u for u in corpus(20, 10)]
    splits = split_by_speaker(utterances)
    assert (len(splits.dev), len(splits.test)) == (20, 20)
    assert splits.remarks == ("1 of 200 durations are unknown: shares are by count",)


def test_two_speakers_of_equal_weight_still_give_a_dev_split() -> None:
    splits = split_by_speaker(corpus(2), dev=0.1, test=0.0)
    assert {u.speaker for u in splits.dev} != {u.speaker for u in splits.train}
    assert splits.dev
    assert splits.train


def test_one_speaker_cannot_be_split_and_remarks_say_so() -> None:
    splits = split_by_speaker(corpus(1), dev=0.1, test=0.1)
    assert len(splits.train) == 10
    assert splits.dev == splits.test == ()
    assert any("dev is empty" in remark for remark in splits.remarks)
    assert any("test is empty" in remark for remark in splits.remarks)


def test_without_speakers_sessions_and_recordings_stay_together() -> None:
    in_sessions = [
        Utterance(f"a{n}", Path(f"/a{n}.wav"), session=f"day{n % 5}", duration=1.0)
        for n in range(50)
    ]
    spans = [
        Utterance(f"b{n}", Path(f"/long{n % 4}.wav"), start=n * 1.0, end=n + 1.0) for n in range(40)
    ]
    splits = split_by_speaker([*in_sessions, *spans], dev=0.2, test=0.2)
    assert not find_leaks(by_name(splits))
    assert all(by_name(splits).values())
    assert splits.remarks == (
        "90 of 90 utterances have no speaker: grouped 50 by session, 40 by recording",
    )


def test_speakers_of_one_recording_stay_together() -> None:
    dialogue = [
        replace(u, audio=Path("/dialogue.wav"), start=1.0 * n, end=n + 1.0)
        for n, u in enumerate(corpus(2, 3))
    ]
    splits = split_by_speaker(
        [*dialogue, *[u for u in corpus(10) if u.speaker not in ("s0", "s1")]]
    )
    assert not find_leaks(by_name(splits)).recordings
    assert any("10 speakers form 9 groups" in remark for remark in splits.remarks)


def test_unnamed_speakers_of_a_session_stay_with_its_named_speakers() -> None:
    named = [replace(u, session=f"day of {u.speaker}") for u in corpus(6)]
    unnamed = [replace(u, id=f"x-{u.id}", speaker=None, audio=Path(f"/x/{u.id}")) for u in named]
    splits = split_by_speaker([*named, *unnamed], dev=0.2, test=0.2)
    for members in by_name(splits).values():
        named_sessions = {u.session for u in members if u.speaker}
        assert named_sessions == {u.session for u in members if not u.speaker}


def test_disjoint_texts_drop_the_copies_and_count_them() -> None:
    utterances = [replace(u, text=f"{u.text}!".upper() if u.speaker == "s0" else u.text)
                  for u in corpus(20, 3)]  # fmt: skip
    utterances += [
        replace(u, id=f"own-{u.id}", audio=Path(f"/own/{u.id}"), text=f"{u.speaker} alone {u.id}")
        for u in utterances
    ]
    splits = split_by_speaker(utterances, disjoint_texts=True)
    assert not find_leaks(by_name(splits)).texts
    assert all(by_name(splits).values())
    dropped = len(utterances) - sum(map(len, by_name(splits).values()))
    assert dropped > 0
    counts = [int(remark.split(": ")[2].split()[0]) for remark in splits.remarks]
    assert sum(counts) == dropped
    plain = split_by_speaker(utterances)
    assert splits.test == plain.test
    assert find_leaks({"train": plain.train, "test": plain.test}).texts


@pytest.mark.parametrize(("dev", "test"), [(0.5, 0.5), (-0.1, 0.1), (0.1, 1.0), (float("nan"), 0)])
def test_impossible_shares_are_refused(dev: float, test: float) -> None:
    with pytest.raises(RequestError, match="leave nothing for train") as caught:
        split_by_speaker(corpus(3), dev=dev, test=test)
    assert "--dev" in str(caught.value.hint)


def test_an_empty_manifest_gives_empty_splits() -> None:
    assert split_by_speaker([]) == Splits((), (), ())


def test_leaks_name_the_shared_value_and_its_splits() -> None:
    first, second, third = corpus(3, 1)
    leaks = find_leaks(
        {
            "train": [first, second],
            "test": [
                replace(third, text="SENTENCE, number 0?"),
                replace(second, id="again", audio=first.audio, text="new"),
            ],
        }
    )
    assert [(leak.value, leak.ids) for leak in leaks.speakers] == [
        ("s1", {"train": ("s1-0",), "test": ("again",)})
    ]
    assert [(leak.value, leak.ids) for leak in leaks.recordings] == [
        (str(first.audio), {"train": ("s0-0",), "test": ("again",)})
    ]
    assert [(leak.value, leak.ids) for leak in leaks.texts] == [
        ("sentence number 0", {"train": ("s0-0", "s1-0"), "test": ("s2-0",)})
    ]


def test_empty_texts_and_missing_speakers_do_not_leak() -> None:
    first = Utterance("a", Path("/a.wav"), text="")
    second = Utterance("b", Path("/b.wav"), text="...")
    third = Utterance("c", Path("/c.wav"))
    assert not find_leaks({"train": [first], "dev": [second], "test": [third]})


def test_a_session_shared_by_unnamed_speakers_is_a_leak() -> None:
    first = Utterance("a", Path("/a.wav"), session="monday")
    second = Utterance("b", Path("/b.wav"), session="monday")
    leaks = find_leaks({"train": [first], "test": [second]})
    assert [leak.value for leak in leaks.speakers] == ["session monday"]


@pytest.mark.parametrize(
    ("have", "count", "chosen"),
    [(10, 5, [0, 2, 4, 6, 8]), (9, 5, [0, 1, 3, 5, 7]), (3, 5, [0, 1, 2]), (4, 0, []), (0, 2, [])],
)
def test_evenly_chosen_items_start_at_the_first(have: int, count: int, chosen: list[int]) -> None:
    assert evenly_chosen(range(have), count) == chosen
