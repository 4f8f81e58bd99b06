"""The base of a run or an adapter: found from any folder, by its weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.messages import Messages

from moonshine_tune.cli.app import run as run_command
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.export.merged_checkpoint import merge
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, BASE_FILE
from moonshine_tune.models.lora import adapter_parameters, adapter_state, inject_lora, save_adapter
from moonshine_tune.registry import hub
from moonshine_tune.registry.base_model import base_identity, location_of, resolve_base
from moonshine_tune.registry.open import open_model
from moonshine_tune.registry.resolve import CACHE_RECORD, resolve_model

pytestmark = pytest.mark.usefixtures("one_thread")
_QUIET = SilentProgress()


class _Work:
    """A working folder: models/tiny-ft, and runs/a that was trained on it."""

    def __init__(self, root: Path, saved: Path) -> None:
        self.root = root / "work"
        self.model = self.root / "models" / "tiny-ft"
        self.run = self.root / "runs" / "a"
        shutil.copytree(saved, self.model)
        self.run.mkdir(parents=True)

    def train(self, typed: str = "models/tiny-ft") -> None:
        opened = open_model(str(self.model), progress=_QUIET)
        inject_lora(opened.model, rank=2)
        with torch.no_grad():
            for _, value in adapter_parameters(opened.model.module):
                value.add_(0.1)
        (self.run / "adapter").mkdir()
        save_adapter(
            self.run / "adapter", opened.model, adapter_state(opened.model), base=opened.base
        )
        self.write(settings={"model": typed}, base=opened.base_record)

    def write(self, **record: Any) -> None:
        (self.run / "run.json").write_text(json.dumps({"schema_version": 1, **record}))

    def forget(self, *keys: str) -> None:
        """Take keys out of both records, as earlier versions did not write them."""
        for path in (self.run / "run.json", self.run / "adapter" / BASE_FILE):
            content = json.loads(path.read_text())
            for key in keys:
                content.get("base", content).pop(key, None)
            path.write_text(json.dumps(content))


@pytest.fixture
def work(tmp_path: Path, saved_v1: Path) -> _Work:
    result = _Work(tmp_path, saved_v1)
    result.train()
    return result


def _change_weights(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state = {name: value.clone() * 1.01 for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


# --- found


def test_the_records_hold_the_fingerprint_and_only_the_runs_own_holds_the_path(
    work: _Work,
) -> None:
    base = json.loads((work.run / "run.json").read_text())["base"]
    assert base["path"] == str(work.model)
    assert base["sha256"] == sha256_of(work.model / "model.safetensors")
    assert len(base["content_sha256"]) == 64 and base["precision"] == "float32"
    assert str(work.root) not in (work.run / "adapter" / BASE_FILE).read_text()


@pytest.mark.parametrize("given", ["run", "adapter"])
def test_a_relative_base_is_found_from_any_folder(
    work: _Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    path = work.run if given == "run" else work.run / "adapter"
    for folder in (work.root, tmp_path, work.run):
        monkeypatch.chdir(folder)
        opened = open_model(adapter=path, progress=_QUIET)
        assert opened.resolved.checkpoint_dir == work.model
        assert location_of(opened.resolved) == str(work.model)


@pytest.mark.parametrize("name", ["tiny-ft", "models/tiny-ft"])
def test_the_bases_recorded_name_is_enough_with_its_adapter(
    work: _Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    opened = open_model(name, adapter=work.run, progress=_QUIET)
    assert opened.resolved.checkpoint_dir == work.model
    # Another folder of this name is taken as it is typed.
    other = Path(shutil.copytree(work.model, tmp_path / name))
    _change_weights(other)
    with pytest.raises(RequestError, match="another base model"):
        open_model(name, adapter=work.run, progress=_QUIET)


def test_a_moved_project_is_found_beside_its_run(
    work: _Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    work.root.rename(moved)
    monkeypatch.chdir(tmp_path)
    resolved = resolve_base(moved / "runs" / "a")
    assert resolved.checkpoint_dir == moved / "models" / "tiny-ft"


def test_a_base_in_other_files_is_the_same_base(work: _Work) -> None:
    """Sharded again, or saved with other metadata: only the content counts."""
    state = load_file(work.model / "model.safetensors")
    save_file(state, work.model / "part.safetensors", metadata={"saved": "again"})
    (work.model / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(state, "part.safetensors")}
    (work.model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert open_model(adapter=work.run, progress=_QUIET).base["content_sha256"]


def test_a_run_of_an_earlier_version_is_found_by_the_hash_of_its_file(
    work: _Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work.forget("content_sha256", "sign_sha256", "precision", "path")
    monkeypatch.chdir(tmp_path)
    assert resolve_base(work.run).checkpoint_dir == work.model
    monkeypatch.chdir(work.root)
    assert open_model("models/tiny-ft", adapter=work.run, progress=_QUIET)


def test_a_base_that_was_moved_is_named_with_its_path(work: _Work, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    work.model.rename(elsewhere)
    with pytest.raises(RequestError, match=r"'models/tiny-ft' .* is not on this disk") as caught:
        open_model(adapter=work.run, progress=_QUIET)
    assert str(work.model) in str(caught.value.hint)
    assert open_model(str(elsewhere), adapter=work.run, progress=_QUIET)


def test_a_base_that_was_changed_is_refused(work: _Work) -> None:
    _change_weights(work.model)
    with pytest.raises(RequestError, match="tiny-ft holds another base model now"):
        open_model(adapter=work.run, progress=_QUIET)
    with pytest.raises(RequestError, match="another base model") as caught:
        open_model(str(work.model), adapter=work.run, progress=_QUIET)
    assert "--model" in str(caught.value.hint)


def test_another_base_is_refused_with_a_command_that_works(
    work: _Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(work.model, tmp_path / "other"))
    _change_weights(other)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="another base model") as caught:
        open_model("other", adapter=work.run, progress=_QUIET)
    assert f"--model {work.model}" in str(caught.value.hint)


def test_a_copy_in_another_precision_is_named_as_one(work: _Work, tmp_path: Path) -> None:
    half = Path(shutil.copytree(work.model, tmp_path / "half"))
    state = load_file(half / "model.safetensors")
    save_file(
        {name: value.to(torch.bfloat16) for name, value in state.items()},
        half / "model.safetensors",
        metadata={"format": "pt"},
    )
    lines = Messages()
    open_model(str(half), adapter=work.run, progress=lines)
    assert any("a copy of tiny-ft in bfloat16" in line for line in lines.lines)
    # The exact one is taken where both are on this disk.
    assert resolve_base(work.run).checkpoint_dir == work.model


def test_merge_finds_the_base_from_another_folder(
    work: _Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["merge", "--run", "work/runs/a", "--out", "merged"]) == 0
    record = json.loads((tmp_path / "merged" / "merged.json").read_text())
    assert record["base"]["name"] == "tiny-ft"
    assert str(tmp_path) not in (tmp_path / "merged" / "merged.json").read_text()


def test_the_weights_in_use_are_said_first(work: _Work) -> None:
    lines = Messages()
    open_model(str(work.model), progress=lines)
    assert lines.lines[0].startswith("weights: tiny-ft, ") and str(work.model) in lines.lines[0]
    save_file({"a": torch.zeros(1)}, work.model / "before.safetensors")
    lines.lines.clear()
    open_model(str(work.model), progress=lines)
    assert any("not read: before.safetensors" in line for line in lines.lines)


# --- adapters of other tools


def _as_foreign(work: _Work, base: str | None) -> Path:
    """The adapter as PEFT alone leaves it: without this program's records."""
    folder = work.root / "foreign"
    shutil.copytree(work.run / "adapter", folder)
    (folder / BASE_FILE).unlink()
    path = folder / ADAPTER_CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    return folder


def test_a_foreign_adapter_is_applied_to_the_base_that_it_names(
    work: _Work, tmp_path: Path
) -> None:
    folder = _as_foreign(work, str(work.model))
    lines = Messages()
    opened = open_model(adapter=folder, progress=lines)
    assert opened.resolved.checkpoint_dir == work.model
    assert any(f"{work.model}, as the adapter names it" in line for line in lines.lines)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (None, "does not name its base"),
        ("", "does not name its base"),
        ("someone/whisper-small", "someone/whisper-small, which is not on this disk"),
        ("/home/her/models/my-model", "not on this disk"),
    ],
)
def test_a_foreign_adapter_without_a_known_base_asks_for_it(
    work: _Work, base: str | None, words: str
) -> None:
    folder = _as_foreign(work, base)
    with pytest.raises(RequestError, match=words) as caught:
        open_model(adapter=folder, progress=_QUIET)
    assert "--model tiny" in str(caught.value.hint)
    assert open_model(str(work.model), adapter=folder, progress=_QUIET)


@pytest.mark.parametrize(
    "base",
    ["tiny", "UsefulSensors/moonshine-tiny", "/their/cache/checkpoints/tiny-0d13194592f6",
     "models/moonshine-tiny"],
)  # fmt: skip
def test_a_name_of_the_catalog_is_recognized_in_each_form(
    work: _Work, catalog_tiny: Path, base: str
) -> None:
    resolved = resolve_base(_as_foreign(work, base))
    assert resolved.record is not None and resolved.record.name == "tiny"


# --- models of the catalog


@pytest.fixture
def catalog_tiny(tmp_path: Path, saved_v1: Path) -> Path:
    """A rebuilt `tiny` in this program's cache."""
    from moonshine_tune.core.hardware import cache_root

    folder = cache_root() / "checkpoints" / "tiny-0d13194592f6"
    shutil.copytree(saved_v1, folder)
    files = {path.name: sha256_of(path) for path in folder.iterdir()}
    record = {"model": "tiny", "source": "store", "runtime_dir": str(tmp_path / "gone"),
              "runtime_sha256": "0" * 64, "files": files}  # fmt: skip
    (folder / CACHE_RECORD).write_text(json.dumps(record))
    return folder


@pytest.fixture
def hub_tiny(
    tmp_path: Path,
    build_model: Callable[..., SpeechModel],
    save_model: Callable[[SpeechModel, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Other weights of `tiny` in the hub's local cache."""
    folder = save_model(build_model("v1", seed=1), tmp_path / "snapshots" / "c0ffee")
    monkeypatch.setattr(
        hub, "_local_snapshot", lambda repo: folder if repo.endswith("moonshine-tiny") else None
    )
    return folder


def test_the_hubs_own_weights_are_taken_before_rebuilt_ones(
    catalog_tiny: Path, hub_tiny: Path
) -> None:
    resolved = resolve_model("tiny")
    assert (resolved.source, resolved.checkpoint_dir) == ("hub", hub_tiny)
    assert "original weights" in resolved.reason
    lines = Messages()
    open_model("tiny", progress=lines)
    assert "original weights" in lines.lines[0] and str(hub_tiny) in lines.lines[0]


def test_without_the_hubs_weights_the_rebuilt_ones_say_so(catalog_tiny: Path) -> None:
    lines = Messages()
    open_model("tiny", progress=lines)
    assert "8-bit" in lines.lines[0] and str(catalog_tiny) in lines.lines[0]


@pytest.mark.parametrize("name", ["tiny", None])
def test_an_adapter_keeps_the_weights_it_was_trained_on(
    tmp_path: Path,
    saved_v1: Path,
    catalog_tiny: Path,
    hub_tiny: Path,
    name: str | None,
) -> None:
    """Trained on the rebuilt weights before the hub's were on this disk."""
    work = _Work(tmp_path, saved_v1)
    work.model = catalog_tiny
    work.train(typed="tiny")
    opened = open_model(name, adapter=work.run, progress=_QUIET)
    assert opened.resolved.checkpoint_dir == catalog_tiny
    assert opened.resolved.record is not None and opened.base["name"] == "tiny"


def test_a_checkpoint_of_the_cache_is_the_catalogs_model_by_its_path_too(
    catalog_tiny: Path,
) -> None:
    by_path, by_name = resolve_model(str(catalog_tiny)), resolve_model("tiny")
    assert by_path.record == by_name.record and by_path.record is not None
    assert base_identity(by_path) == base_identity(by_name)


# --- merging


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_merge_keeps_32_bits_whatever_the_base_has(
    tmp_path: Path, saved_v1: Path, stored: torch.dtype
) -> None:
    work = _Work(tmp_path, saved_v1)
    state = load_file(work.model / "model.safetensors")
    base = {name: value.to(stored) for name, value in state.items()}
    save_file(base, work.model / "model.safetensors", metadata={"format": "pt"})
    config = work.model / "config.json"
    name = str(stored).removeprefix("torch.")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": name}))
    work.train()
    result = merge(work.run, tmp_path / "m", progress=_QUIET)
    assert (result.dtype, result.relative_error) == ("float32", 0.0)
    merged = load_file(tmp_path / "m" / "model.safetensors")
    assert {value.dtype for value in merged.values()} == {torch.float32}
    changed = {key for key in base if not torch.equal(base[key].float(), merged[key])}
    assert len(changed) == result.changed
    # transformers loads the format that the configuration names.
    from transformers import MoonshineForConditionalGeneration

    loaded = MoonshineForConditionalGeneration.from_pretrained(tmp_path / "m")
    assert loaded.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_on_request_say_what_is_lost(
    work: _Work, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = merge(work.run, tmp_path / "exact", progress=_QUIET)
    words = ["merge", "--run", str(work.run), "--out", str(tmp_path / "m"), "--dtype", dtype]
    assert run_command(words) == 0
    assert f"rounding to {dtype} is an error of" in capsys.readouterr().out
    record = json.loads((tmp_path / "m" / "merged.json").read_text())
    base = load_file(work.model / "model.safetensors")
    full, half = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "m"))
    lost = effect = 0.0
    for name in full:
        if not torch.equal(full[name], base[name]):
            lost += float((half[name].float() - full[name]).square().sum())
            effect += float((full[name] - base[name]).square().sum())
    assert record["relative_error"] == pytest.approx((lost / effect) ** 0.5, rel=1e-4)
    assert record["dtype"] == dtype and exact.changed == record["changed"]
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == dtype


def test_stray_weights_are_not_merged(work: _Work, tmp_path: Path) -> None:
    clean = merge(work.run, tmp_path / "clean", progress=_QUIET)
    state = load_file(work.model / "model.safetensors")
    save_file(
        {name: torch.zeros_like(value) for name, value in state.items()},
        work.model / "zz_before.safetensors",
    )
    assert merge(work.run, tmp_path / "m", progress=_QUIET).sha256 == clean.sha256


def test_an_adapter_in_the_model_folder_is_refused_and_merged_on_request(
    work: _Work, tmp_path: Path
) -> None:
    clean = merge(work.run, tmp_path / "clean", progress=_QUIET)
    for path in (work.run / "adapter").iterdir():
        shutil.copy(path, work.model)
    for arguments in ({}, {"adapter": work.run}):
        with pytest.raises(RequestError, match="also holds an adapter"):
            open_model(str(work.model), progress=_QUIET, **arguments)  # type: ignore[arg-type]
    merged = merge(work.model, tmp_path / "m", progress=_QUIET, model=str(work.model))
    assert merged.sha256 == clean.sha256
    assert not (tmp_path / "m" / ADAPTER_CONFIG_FILE).exists()


def test_an_adapter_folder_as_the_model_is_refused(work: _Work) -> None:
    with pytest.raises(RequestError, match="an adapter, not a model") as caught:
        open_model(str(work.run / "adapter"), progress=_QUIET)
    assert f"--adapter {work.run / 'adapter'}" in str(caught.value.hint)
