"""Whose voices a score is for, and how little a few clips say."""

from pathlib import Path

import pytest

from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.voices import tiny_set_remark, voice_scope

Names = list[str | None]


def clips(prefix: str, names: Names) -> list[Utterance]:
    return [
        Utterance(f"{prefix}{n}", Path(f"/{prefix}{n}.wav"), "some words", name)
        for n, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("train", "scored", "by", "kind", "names"),
    [
        (["anna"], ["anna", "anna"], "", "one voice", ("anna",)),
        (["anna", "Anna"], ["ANNA"], "", "one voice", ("ANNA",)),
        (["anna", "ben"], ["anna", "ben"], "", "known voices", ("anna", "ben")),
        (["anna", "ben"], ["ben"], "speaker", "known voices", ("ben",)),
        (["anna", "ben"], ["ben", "cleo"], "", "some known voices", ("ben",)),
        (["anna", "ben"], ["cleo"], "", None, ()),
        (["anna"], ["ben"], "text", "unnamed voices", ()),
        ([None], [None], "session and text", "unnamed voices", ()),
        (["anna", None], ["anna", None], "text", "unnamed voices", ("anna",)),
        ([None], [None], "", None, ()),
        ([None], [None], "speaker", None, ()),
        (["anna"], [None], "", None, ()),
        ([], ["anna"], "", None, ()),
    ],
)
def test_the_content_decides(
    train: Names, scored: Names, by: str, kind: str | None, names: tuple[str, ...]
) -> None:
    scope = voice_scope(clips("t", train), clips("s", scored), by=by)
    assert (scope and scope.kind) == kind
    if scope is not None:
        assert scope.names == names
        assert "other voices" in scope.sentence


def test_labels_that_start_anew_are_no_common_voice() -> None:
    def recording(name: str) -> list[Utterance]:
        return [
            Utterance(f"{name}{n}", Path(f"/{name}.wav"), "a", f"SPEAKER_0{n}", start=n, end=n + 1)
            for n in range(2)
        ]

    train, test = [*recording("mon"), *recording("tue")], recording("wed")
    assert voice_scope(train, test) is None
    scope = voice_scope(train, test, by="session and text")
    assert scope is not None and scope.kind == "unnamed voices"


def test_a_few_clips_say_little() -> None:
    remark = tiny_set_remark("test", clips("s", ["anna"] * 3))
    assert remark is not None
    assert "3 clips with 6 words" in remark and "16.7 points" in remark and "39 %" in remark
    assert tiny_set_remark("test", clips("s", ["anna"] * 30)) is None
    assert tiny_set_remark("test", [Utterance("a", Path("/a.wav"))]) is None
    # Where a normalizer joins words, those count that are scored.
    assert "with 5 words" in (tiny_set_remark("test", clips("s", ["anna"] * 3), words=5) or "")
