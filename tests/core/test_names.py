"""Names that become folders."""

from pathlib import Path

import pytest

from moonshine_tune.core.names import home_expanded, name_problem, short_label


@pytest.mark.parametrize("name", ["pilot", "proof-2", "v1.5_a", "größe", "试验", "हिन्दी", "a" * 80])
def test_names_of_any_script_are_allowed(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../../victim", "has '/'"),
        ("..", "dot"),
        (".hidden", "dot"),
        ("a.", "dot"),
        ("", "empty"),
        ("/etc", "has '/'"),
        ("a\\b", "has '\\\\'"),
        ("a b", "has ' '"),
        ("a\0b", "has '\\x00'"),
        ("a\nb", "has '\\n'"),
        ("c:", "has ':'"),
        ("~", "has '~'"),
        ("a\u202eb", "has '\\u202e'"),
        ("u\u0308ber", "NFC"),
        ("é" * 41, "80 bytes"),
        ("NUL", "reserved"),
        ("com1.txt", "reserved"),
    ],
)
def test_names_that_leave_a_folder_or_trouble_a_file_system_are_refused(
    name: str, problem: str
) -> None:
    assert problem in (name_problem(name) or "")


def test_a_label_is_short_and_safe() -> None:
    assert short_label("local-my model/v1", "model") == "local-my-model-v1"
    assert short_label("///", "model") == "model"
    assert len(short_label("ü" * 300, "model").encode()) <= 80


def test_home_of_nobody_stays_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert home_expanded("~/a.wav") == Path("/home/anna/a.wav")
    assert home_expanded("~no-such-user-here/a.wav") == Path("~no-such-user-here/a.wav")
    assert home_expanded(Path("b~/a.wav")) == Path("b~/a.wav")
