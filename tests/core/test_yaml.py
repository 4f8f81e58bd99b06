"""YAML of unknown origin: the types of JSON within limits, and plain errors with the line."""

from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.ablation.space import read_space
from moonshine_tune.config.resolve import parse_assignments, read_settings_file
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.yaml import parse_yaml, read_yaml
from moonshine_tune.plan.schema import read_plan


def _bomb(depth: int, width: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(lines)


BAD = {
    "aliases that multiply": (_bomb(9, 9), "more than 5,000 values"),
    "many aliases": ("a: &a x\nb: [" + "*a, " * 200 + "]", "100 aliases"),
    "merges that multiply": ("a: &a {x: 1}\nb: {<<: [" + "*a, " * 150 + "]}", "100 aliases"),
    "an alias in itself": ("a: &a [*a]", "an alias to what it is part of"),
    "deep lists": ("[" * 3000, "more than 32 levels deep"),
    "deep mappings": ("{a: " * 3000, "more than 32 levels deep"),
    "deep blocks": ("".join(" " * n + "a:\n" for n in range(400)), "more than 32 levels deep"),
    "deep dashes": ("- " * 5000, "more than 32 levels deep"),
    "deep keys": ("? " * 5000, "more than 32 levels deep"),
    "many values": ("[" + "1, " * 20_000 + "]", "more than 5,000 values"),
    "a long file": ("# x\n" * 60_000, "100,000 characters"),
    "a long integer": ("a: " + "9" * 5000, "an integer of 5000 digits"),
    "a long number of base 60": ("a: 1" + ":59" * 250, "an integer of 751 digits"),
    "a float of base 60": ("a: 1" + ":59" * 250 + ".0", "is not of the type float"),
    "a timestamp": ("a: !!timestamp foo", "the type timestamp is not read"),
    "binary data": ("a: !!binary x", "the type binary is not read"),
    "a Python object": ("a: !!python/object/apply:os.system [id]", "is not read"),
    "a wrong integer": ("a: !!int foo", "'foo' is not of the type int"),
    "a wrong boolean": ("a: !!bool foo", "'foo' is not of the type bool"),
    "half of a character": (r'a: "\ud800"', "half of a character"),
    "a character past the last": (r'a: "\U00110000"', "not YAML"),
    "a character far past the last": (r'a: "\U80110000"', "not YAML"),
    "a control character": ("a: \x07", "not YAML"),
    "a repeated key": (
        "train: {steps: 1}\nseed: 1\ntrain: {seed: 2}",
        "'train' is there twice",
    ),
    "a list as a key": ("? [a]\n: b", "unhashable key"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_yaml(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250


def test_the_error_has_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: tiny\ntrain:\n  steps: !!int many\n")
    with pytest.raises(RequestError) as caught:
        read_yaml(path)
    assert caught.value.where == f"{path}:3"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2001-99-99", {"a": "2001-99-99"}),
        ("name: 2024-05-01", {"name": "2024-05-01"}),
        ("at: 2024-05-01 10:00:00", {"at": "2024-05-01 10:00:00"}),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("a: [1, 2.5, true, null, 'x', 1_000]", {"a": [1, 2.5, True, None, "x", 1000]}),
        ("\ufeffa: é😀", {"a": "é😀"}),
        ("", None),
    ],
)
def test_what_is_read(tmp_path: Path, text: str, value: Any) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_yaml(path) == value


@pytest.mark.parametrize("text", [_bomb(9, 9), "- " * 100, "a: !!timestamp foo"])
def test_every_kind_of_file_has_these_limits(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    for read in (read_settings_file, lambda p: read_plan(str(p)), lambda p: read_space(str(p))):
        with pytest.raises(RequestError, match="not YAML"):
            read(path)


@pytest.mark.parametrize("value", ["[" * 40, "!!timestamp x", "9" * 5000, "{a", "\x00"])
def test_a_setting_that_cannot_be_read_is_shown_short_with_a_command_to_paste(value: str) -> None:
    with pytest.raises(RequestError, match="--set") as caught:
        parse_assignments([f"train.steps={value}"])
    assert len(str(caught.value)) < 400
    assert (caught.value.hint or "").startswith("put a text into quotes: --set 'train.steps=\"")
