"""Names of speakers as people mean them, and labels that start anew in each recording."""

import unicodedata
from pathlib import Path

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.speaker_labels import (
    count_speakers,
    joined_to_recordings,
    local_labels,
)
from moonshine_tune.corpus.speaker_names import clean_name, mean_nobody, similar_names
from moonshine_tune.corpus.splits import Splits, find_leaks, split_by_speaker


def utterances(voices: dict[str, list[str]], sessions: bool = False) -> list[Utterance]:
    """Spans of recordings: recording → speaker of each span."""
    return [
        Utterance(f"{name}-{number}", Path(f"/clips/{name}.wav"), "text", speaker,
                  start=float(number), end=number + 1.0, session=name if sessions else None)
        for name, speakers in voices.items()
        for number, speaker in enumerate(speakers)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("  Anna  Smith ", "Anna Smith"),
        (unicodedata.normalize("NFD", "Zoë"), "Zoë"),
        ("Nan", "Nan"),
        ("unknown", None),
        ("N/A", None),
        ("none", None),
        ("-", None),
        ("   ", None),
        ("nan", None),
        ("Unbekannt", None),
        ("неизвестно", None),
        ("Unknown Speaker", None),
        ("speaker unknown", None),
        ("(blank)", None),
        ("not specified", None),
        ("n.a.", None),
        ("#NAME?", None),
        ("N.A.", "N.A."),
        ("Anon Ymous", "Anon Ymous"),
        ("speaker", "speaker"),
    ],
)
def test_names_are_read_as_they_are_meant(written: str, name: str | None) -> None:
    assert clean_name(written) == name


def test_na_is_a_name_among_initials() -> None:
    assert mean_nobody(["NA", "anna", "ben"]) == {"NA"}
    assert mean_nobody(["NA", "AB", "CD"]) == frozenset()
    assert mean_nobody(["N.A.", "anna"]) == {"N.A."} and not mean_nobody(["N.A.", "J.S."])


def test_names_that_differ_in_case_or_accents_are_similar() -> None:
    names = ["Anna", "anna", "Zoë", "Zoe", "Işıl", "isil", "Weiß", "WEISS", "Ben", "Ina"]
    assert similar_names(names) == [
        ("Anna", "anna"), ("Işıl", "isil"), ("WEISS", "Weiß"), ("Zoe", "Zoë")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "labels",
    [("SPEAKER_00", "SPEAKER_01"), ("spk0", "spk1"), ("S1", "S2"), ("Speaker 1", "Speaker 2"),
     ("A", "B"), ("spk_0", "spk_1"), ("Guest-1", "Guest-2"), ("화자 1", "화자 2"), ("1", "2"),
     ("Person 1", "Person 2"), ("speaker#1", "speaker#2"),
     ("Unknown Speaker 1", "Unknown Speaker 2")],
)  # fmt: skip
def test_labels_that_start_anew_in_each_recording(labels: tuple[str, str]) -> None:
    first, second = labels
    items = utterances({name: [first, second] for name in ("mon", "tue", "wed", "thu")})
    (result,) = local_labels(items)
    assert (result.labels, result.recordings, result.is_certain) == (labels, 4, True)
    assert count_speakers(items) == 8
    assert not find_leaks({"train": items[:4], "test": items[4:]}).speakers
    splits = split_by_speaker(items, dev=0.25, test=0.25)
    assert splits.train and splits.dev and splits.test
    assert f"mon/{first}" in {item.speaker for part in _parts(splits) for item in part}
    assert any("--global-speakers" in remark for remark in splits.remarks)
    kept = split_by_speaker(items, dev=0.25, test=0.25, local_speakers=False)
    assert not kept.dev and not kept.test


def _parts(splits: Splits) -> tuple[tuple[Utterance, ...], ...]:
    return splits.train, splits.dev, splits.test


def test_a_recording_with_one_voice_starts_at_the_first_label() -> None:
    items = utterances({"mon": ["A", "B"], "tue": ["A"], "wed": ["A", "B", "C"]})
    assert [result.is_certain for result in local_labels(items)] == [True]


@pytest.mark.parametrize(
    "voices",
    [
        {f"clip{number}": [f"S{number % 5 + 1}"] for number in range(20)},
        {"mon": ["SPEAKER_00", "SPEAKER_01"]},
        {"one": ["anna", "ben"], "two": ["anna", "ben"]},
        {"one": ["1688", "2033"], "two": ["1688", "2609"]},
        {"one": ["s1"], "two": ["s1"], "three": ["s1"]},
        {f"r{number}": [f"SPEAKER_{number:02d}", f"SPEAKER_{number + 1:02d}"]
         for number in range(10, 30)},
    ],
)  # fmt: skip
def test_names_that_mean_one_person_everywhere(voices: dict[str, list[str]]) -> None:
    items = utterances(voices)
    assert local_labels(items) == []


def test_clips_of_diarized_recordings_are_joined_by_their_names() -> None:
    voices = {f"{day}_{number:03d}": [f"SPEAKER_0{number % 2}"] for day in ("mon", "tue")
              for number in range(4)}  # fmt: skip
    assert count_speakers(utterances(voices)) == 4


@pytest.mark.parametrize(
    "voices",
    [
        {"mon": ["A", "B"], "tue": ["A", "B"], "wed": ["A", "B"], "thu": ["B"]},
        {"mon": ["agent", "customer"], "tue": ["agent", "customer"]},
        {"mon": ["male", "female"], "tue": ["male", "female"]},
        {"mon": ["P1", "P2"], "tue": ["P1", "P2"]},
        {"x": ["SPEAKER_00"], "y": ["SPEAKER_01"], "z": ["SPEAKER_01"]},
    ],
)
def test_what_can_be_either_is_asked(voices: dict[str, list[str]]) -> None:
    items = utterances(voices)
    assert [result.is_certain for result in local_labels(items)] == [False]
    with pytest.raises(RequestError) as caught:
        split_by_speaker(items)
    assert "--local-speakers" in str(caught.value.hint) and "--global" in str(caught.value.hint)
    assert split_by_speaker(items, dev=0.3, test=0.0, local_speakers=True).dev


def test_sessions_are_recordings_and_equal_names_of_files_are_told_apart() -> None:
    in_sessions = utterances({name: ["A", "B"] for name in ("mon", "tue")}, sessions=True)
    assert count_speakers(in_sessions) == 4
    same = [
        Utterance(f"{folder}{label}", Path(f"/{folder}/a.wav"), "text", label)
        for folder in ("mon", "tue") for label in ("A", "B")
    ]  # fmt: skip
    assert count_speakers(same) == 4
    assert "mon/a/A" in {item.speaker for item in joined_to_recordings(same, local_labels(same))}


def test_clips_that_people_cut_by_speaker_are_asked() -> None:
    clips = [
        Utterance(f"{day}{label}", Path(f"/c/{day}{label}.wav"), "text", label, session=day)
        for day in ("mon", "tue") for label in ("A", "B")
    ]  # fmt: skip
    assert [result.is_certain for result in local_labels(clips)] == [False]


def test_similar_names_stay_in_one_split_with_a_remark() -> None:
    names = ["Anna", "anna", "Zoë", "Zoe", "Ben", "Carl", "Dora", "Emil"]
    items = [Utterance(f"u{n}", Path(f"/c/{n}.wav"), "text", name) for n, name in enumerate(names)]
    for seed in range(5):
        splits = split_by_speaker(items, dev=0.2, test=0.2, seed=seed)
        for pair in ({"Anna", "anna"}, {"Zoë", "Zoe"}):
            shared = [pair & {item.speaker for item in part} for part in _parts(splits)]
            assert sum(map(bool, shared)) == 1
        assert any("Anna = anna; Zoe = Zoë" in remark for remark in splits.remarks)
        assert not any("share a recording" in remark for remark in splits.remarks)
