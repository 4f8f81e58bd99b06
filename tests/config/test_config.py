"""Settings: which source wins, what is refused, and how it is reported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import moonshine_tune
from moonshine_tune.cli.reference import settings_page
from moonshine_tune.config.resolve import (
    ResolvedSettings,
    parse_assignments,
    preset_names,
    read_preset,
    read_settings_file,
    resolve_settings,
    settings_layers,
)
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import ProblemsError, RequestError

_SRC = Path(moonshine_tune.__file__).parent


def _fields(section: type[BaseModel] = RunSettings) -> Iterator[tuple[str, FieldInfo]]:
    """Every setting that has a value of its own, with its dotted name."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from ((f"{name}.{key}", value) for key, value in _fields(inner))
        else:
            yield name, field


def _resolve(**layers: dict[str, Any]) -> ResolvedSettings:
    return resolve_settings(list(layers.items()))


# --- sources


def test_later_sources_win_and_each_value_says_where_it_came_from() -> None:
    resolved = _resolve(
        preset={"model": "base", "train": {"steps": 10, "seed": 1, "batch_size": 2}},
        file={"train": {"steps": 20, "seed": 2}},
        flag={"train": {"steps": 30}},
    )
    train = resolved.settings.train
    assert (train.steps, train.seed, train.batch_size) == (30, 2, 2)
    assert resolved.sources == {
        "model": "preset", "train.steps": "flag", "train.seed": "file", "train.batch_size": "preset"
    }  # fmt: skip


def test_without_any_source_everything_is_at_its_default() -> None:
    resolved = resolve_settings([])
    assert resolved.settings == RunSettings()
    assert resolved.sources == {}


def test_settings_are_never_changed() -> None:
    settings = resolve_settings([]).settings
    with pytest.raises(Exception, match="frozen"):
        settings.train.steps = 3


def test_settings_survive_a_run_record() -> None:
    """run.json is the first layer of a resumed run."""
    before = _resolve(
        flag={
            "data": {"train": "/a/train.jsonl"},
            "train": {"stages": [{"steps": 3, "max_clip_s": 8}], "learning_rate": 3e-4},
            "retain": {"strengths": [1.0, 0.5]},
        }
    ).settings
    again = resolve_settings([("run.json", before.model_dump(mode="json"))]).settings
    assert again == before


# --- one setting on the command line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.learning_rate=3e-4", 3e-4),
        ("train.learning_rate=0.0003", 3e-4),
        ("train.learning_rate=1E-3", 1e-3),
        ("train.steps=12", 12),
        ("train.steps = 12", 12),
        ("train.gradient_checkpointing=true", True),
        ("device.name=cuda:1", "cuda:1"),
        ("data.normalizer=spelled-1", "spelled-1"),
        ("data.train=a=b.jsonl", "a=b.jsonl"),
        ("data.dev=", None),
        ("retain.strengths=[1.0, 0.5]", [1.0, 0.5]),
    ],
)
def test_values_of_assignments_are_read_as_yaml_with_numbers(text: str, value: Any) -> None:
    key = text.partition("=")[0].strip()
    section, name = key.split(".")
    assert parse_assignments([text]) == {section: {name: value}}
    assert resolve_settings([("--set", parse_assignments([text]))]).sources == {key: "--set"}


def test_assignments_are_put_together_and_the_last_wins() -> None:
    parsed = parse_assignments(["train.steps=1", "adapter.rank=4", "train.seed=2", "train.steps=3"])
    assert parsed == {"train": {"steps": 3, "seed": 2}, "adapter": {"rank": 4}}


def test_an_assignment_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(RequestError, match="has no '='") as caught:
        parse_assignments(["train.steps"])
    assert caught.value.hint == "write: --set train.learning_rate=3e-4"


@pytest.mark.parametrize("text", ["train.stages=[", "train.steps={a", "train.seed=@x"])
def test_a_value_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=re.escape(text.partition("=")[0])):
        parse_assignments([text])


def test_a_section_and_a_value_of_it_cannot_both_be_set() -> None:
    with pytest.raises(RequestError, match="'train' is set to a value already"):
        parse_assignments(["train=5", "train.steps=3"])
    with pytest.raises(ProblemsError, match="no setting is called 'train'"):
        resolve_settings([("--set", parse_assignments(["train=5"]))])


def test_the_layers_of_a_command_leave_out_what_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("train: {steps: 7}\n")
    layers = settings_layers(
        "tiny",
        Path("run.yaml"),
        ["adapter.rank=4"],
        flags={"model": "base", "tracker": None},
        manifests={"train": Path("a.jsonl"), "dev": None},
    )
    assert [source for source, _ in layers] == ["preset tiny", "file run.yaml", "flag", "--set"]
    assert dict(layers)["flag"] == {"model": "base", "data": {"train": str(tmp_path / "a.jsonl")}}
    assert settings_layers(None, None, None, flags={"model": None}) == []


def test_keys_may_be_dotted_or_nested() -> None:
    dotted = resolve_settings([("settings", {"train.steps": 5, "adapter": {"rank": 4}})])
    assert (dotted.settings.train.steps, dotted.settings.adapter.rank) == (5, 4)
    assert dotted.sources == {"train.steps": "settings", "adapter.rank": "settings"}


# --- what is refused


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("train.learning_rat", "train.learning_rate"),
        ("train.lerning_rate", "train.learning_rate"),
        ("learning_rate", "train.learning_rate"),
        ("adapter.rnk", "adapter.rank"),
        ("lora.rank", "adapter.rank"),
        ("modle", "model"),
        ("data.train_manifest", "data.train"),
    ],
)
def test_a_typo_gets_the_nearest_name(typo: str, meant: str) -> None:
    with pytest.raises(ProblemsError) as caught:
        resolve_settings([("--set", parse_assignments([f"{typo}=1"]))])
    assert caught.value.problems == (
        f"--set: no setting is called {typo!r}; did you mean {meant!r}?",
    )


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(ProblemsError) as caught:
        _resolve(flag={"xyzzy": 1})
    assert caught.value.problems == ("flag: no setting is called 'xyzzy'",)


def test_all_problems_are_reported_at_once_with_their_sources() -> None:
    with pytest.raises(ProblemsError, match="4 settings are wrong") as caught:
        _resolve(
            preset={"train": {"steps": 0}},
            file={"adapter": {"rnk": 4, "dropout": 1.5}},
            flag={"device": {"dtype": "float64"}},
        )
    problems = caught.value.problems
    assert len(problems) == 4
    for start in ("file: no setting is called 'adapter.rnk'", "preset: train.steps = 0: ",
                  "file: adapter.dropout = 1.5: ", "flag: device.dtype = 'float64': "):  # fmt: skip
        assert any(problem.startswith(start) for problem in problems), start
    assert "moonshine-tune settings" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.steps", 0), ("train.steps", 2.5), ("train.steps", "many"), ("train.batch_size", -1),
        ("train.learning_rate", 0), ("train.learning_rate", float("nan")),
        ("train.learning_rate", float("inf")), ("train.clip_norm", 0), ("train.warmup_share", 1.0),
        ("train.seed", -1), ("adapter.rank", 0), ("adapter.rank", 257), ("adapter.dropout", 1.0),
        ("adapter.sites", "decoders"), ("data.dev_share", 0.5), ("data.max_clip_s", 0),
        ("data.max_clip_s", float("inf")), ("retain.weight", -0.1), ("retain.weight", float("nan")),
        ("retain.strengths", [1.0, 0.0]), ("retain.strengths", [1.5]),
        ("select.canary_bound", -1), ("select.patience", 0), ("device.dtype", "float64"),
        ("device.state_cache_mb", -1), ("train.stages", [{"steps": 1}]),
        ("train.stages", [{"steps": 1, "max_clip_s": 8, "rate": 2}]),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(key: str, value: Any) -> None:
    section, name = key.split(".")
    with pytest.raises(ProblemsError) as caught:
        _resolve(flag={section: {name: value}})
    assert len(caught.value.problems) == 1
    # The source and the name come first, also if a part of the value is wrong.
    assert caught.value.problems[0].startswith(f"flag: {key}"), caught.value.problems
    assert len(caught.value.problems[0]) < 200


# --- files


def test_paths_in_a_file_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mein Projekt"
    folder.mkdir()
    file = folder / "run.yaml"
    file.write_text(
        "data:\n  train: sets/train.jsonl\n  dev: ../dev.jsonl\n  canary: /far/canary.jsonl\n"
        "train:\n  learning_rate: 3e-4\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(folder)
    settings = resolve_settings([("file", read_settings_file(Path("run.yaml")))]).settings
    assert settings.data.train == folder / "sets" / "train.jsonl"
    assert settings.data.dev is not None
    assert settings.data.dev.resolve() == tmp_path / "dev.jsonl"
    assert settings.data.canary == Path("/far/canary.jsonl")
    assert settings.data.replay is None
    # YAML 1.1 reads 3e-4 as text.
    assert settings.train.learning_rate == pytest.approx(3e-4)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such settings file") as caught:
        read_settings_file(tmp_path / "run.yaml")
    assert caught.value.where == str(tmp_path / "run.yaml")


def test_a_file_that_is_not_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: tiny\ntrain: [1, 2\nadapter:\n  rank: 4\n")
    with pytest.raises(RequestError, match="not YAML") as caught:
        read_settings_file(file)
    assert re.fullmatch(rf"{re.escape(str(file))}:[34]", caught.value.where or "")


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"tiny", b"", b"\xff\xfe\x00bad"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read_settings_file(file)
    assert (caught.value.where or "").startswith(str(file))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(RequestError, match="not YAML"):
        read_settings_file(file)


# --- presets


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_loads_and_opens_with_the_command_that_uses_it(name: str) -> None:
    resolved = resolve_settings([(f"preset {name}", read_preset(name))])
    assert resolved.sources
    lines = (_SRC / "config" / "presets" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    opening = "\n".join(line for line in lines[:5] if line.startswith("#"))
    command = re.search(r"^#\s+moonshine-tune (\w+).*$", opening, re.MULTILINE)
    assert command, opening
    if command[1] == "train":
        assert f"--preset {name} " in command[0]


def test_the_promised_presets_are_there() -> None:
    assert {"tiny", "tiny-proof"} <= set(preset_names())
    proof = resolve_settings([("preset", read_preset("tiny-proof"))]).settings
    assert proof.train.batch_size == 1
    assert 8 <= proof.train.accumulation <= 16
    assert 50 <= proof.train.steps <= 200
    assert 4 <= proof.adapter.rank <= 8
    assert 1e-4 <= proof.train.learning_rate <= 5e-4


def test_an_unknown_preset_gets_the_nearest_name() -> None:
    with pytest.raises(RequestError, match=r"'tiny-prof'; did you mean 'tiny-proof'\?") as caught:
        read_preset("tiny-prof")
    assert "tiny" in (caught.value.hint or "")


# --- every setting means something


@pytest.mark.parametrize("name", [name for name, _ in _fields()])
def test_every_setting_is_explained_and_used(name: str) -> None:
    field = dict(_fields())[name]
    description = " ".join((field.description or "").split())
    # What it means, then when to change it.
    assert len(re.findall(r"[.)](?: |$)", description)) >= 2, description
    assert description.endswith((".", ")"))
    assert f"| `{name}` |" in settings_page()
    assert name.rpartition(".")[2] in _attributes_read(), f"nothing reads {name}"


def _attributes_read() -> set[str]:
    """Names of all attributes that the package reads anywhere outside of the settings module."""
    if not _READ:
        for path in _SRC.rglob("*.py"):
            if path.name != "settings.py":
                tree = ast.parse(path.read_text(encoding="utf-8"))
                _READ.update(n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute))
    return _READ


_READ: set[str] = set()
