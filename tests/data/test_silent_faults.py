"""Faults of manifests that are seen only where lines and splits are compared."""

from pathlib import Path
from typing import Any

from moonshine_tune.corpus.manifest import ManifestScan, Utterance
from moonshine_tune.corpus.speaker_names import similar_names
from moonshine_tune.data.checks.checked_manifest import CheckedManifest, CheckedSplits
from moonshine_tune.data.checks.rules.languages import other_language
from moonshine_tune.data.checks.rules.transcripts import file_name_text


def _manifest(name: str, *clips: tuple[str, str], **fields: Any) -> CheckedManifest:
    """A manifest with clips of a file and a text."""
    utterances = tuple(Utterance(file, Path(f"{file}.wav"), text, **fields) for file, text in clips)
    return CheckedManifest(name, ManifestScan(Path(name), utterances, (), ""), (), {})


def test_numbers_of_speakers_are_compared_as_numbers() -> None:
    assert similar_names(["1", "1.0", "01", "2", "10", "100"]) == [("01", "1", "1.0")]
    assert not similar_names(["0", "00a", "1.5", "15"])


def test_a_dev_set_of_another_language_is_named() -> None:
    train = _manifest("train", ("a", "one"), language="en-US")
    cases = (("de", True), ("deu", True), ("en", False), ("eng", False), ("English", False))
    for language, is_named in (*cases, ("German", False), (None, False)):
        splits = CheckedSplits.of([train, _manifest("dev", ("b", "eins"), language=language)])
        assert bool(list(other_language.in_splits(splits))) is is_named, language


def test_names_of_files_are_no_texts() -> None:
    named = _manifest("train", ("clip_1", "clip_1"), ("clip_2", "Clip_2"), ("clip_3", "yes"))
    assert [name for name, _ in file_name_text.in_manifest(named)] == ["clip_1", "clip_2"]
    words = _manifest("train", ("left", "left"), ("7", "7"), ("b7", "B seven"))
    assert not list(file_name_text.in_manifest(words))
