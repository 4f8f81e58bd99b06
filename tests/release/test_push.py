"""Publishing adapter and card: what is sent, what never is, and who is asked first."""

import json
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import NegativeAnswerError, RequestError, SourceUnreachableError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.release import push as push_job
from moonshine_tune.release import verify as verify_job
from moonshine_tune.release.archive import pack, write_sums
from moonshine_tune.release.push import push
from moonshine_tune.runtime.layout import V1_FILES

_QUIET = SilentProgress()


class _FakeRuntime:
    def __init__(self, runtime_dir: Path) -> None:
        assert (runtime_dir / "tokenizer.bin").is_file()

    def __enter__(self) -> "_FakeRuntime":
        return self

    def __exit__(self, *_: object) -> None:
        return None


class _FakeHub:
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        self.made: list[tuple[str, bool]] = []
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.made.append((repo_id, private))

    def create_commit(self, *, repo_id: str, operations: list[Any], commit_message: str) -> Any:
        assert repo_id == self.made[-1][0] and commit_message
        self.files = {
            each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations
        }

        class _Commit:
            oid = "c0ffee"

        return _Commit()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sealed package with everything that must stay at home."""
    monkeypatch.setattr(verify_job, "RuntimeTranscriber", _FakeRuntime)
    folder = tmp_path / "model"
    texts = {
        "README.md": "---\nlicense: mit\n---\n# a card\n",
        "adapter/adapter_config.json": "{}",
        "adapter/base_model.json": "{}",
        "run.json": "{}",
        "manifests.json": "[]",
        "sample/clip-1.wav": "sound",
        "package.json": '{"name": "model"}',
        **{f"runtime/{name}": "graph" for name in V1_FILES},
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    write_sums(folder)
    return folder


_SENT = {"README.md", "adapter_model.safetensors", "adapter_config.json", "base_model.json"}


@pytest.mark.parametrize("packed", [False, True])
def test_adapter_and_card_are_sent_and_nothing_else(
    package: Path, tmp_path: Path, packed: bool
) -> None:
    path = package
    if packed:
        path = tmp_path / "model.tar.gz"
        pack(package, "model", path)
    hub = _FakeHub()
    result = push(path, "me/model", _QUIET, api=hub)
    assert hub.made == [("me/model", True)]
    assert set(hub.files) == set(result.files) == _SENT
    assert hub.files["adapter_model.safetensors"] == b"weights"
    assert result.revision == "c0ffee"


def test_full_fine_tuning_is_not_sent_as_an_adapter(package: Path) -> None:
    (package / "adapter" / "adapter_config.json").write_text('{"peft_type": "FULL"}')
    write_sums(package)
    hub = _FakeHub()
    with pytest.raises(RequestError, match="no adapter that PEFT could load") as refused:
        push(package, "me/model", _QUIET, api=hub)
    assert "moonshine-tune merge" in str(refused.value.hint) and not hub.made


def test_a_damaged_package_is_not_sent(package: Path) -> None:
    (package / "README.md").write_text("another card")
    hub = _FakeHub()
    with pytest.raises(NegativeAnswerError, match="not the recorded content"):
        push(package, "me/model", _QUIET, api=hub)
    assert not hub.made


@pytest.mark.parametrize("name", ["model", "me/", "/model", "a/b/c"])
def test_a_name_without_an_owner_is_refused(package: Path, name: str) -> None:
    with pytest.raises(RequestError, match="not a repository's name"):
        push(package, name, _QUIET, api=_FakeHub())


def test_a_hub_that_refuses_is_one_plain_error(package: Path) -> None:
    class _Closed(_FakeHub):
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            raise OSError("401 for https://…\nmore lines")

    with pytest.raises(SourceUnreachableError, match="did not take it") as caught:
        push(package, "me/model", _QUIET, api=_Closed())
    assert "more lines" not in caught.value.message and "log in" in (caught.value.hint or "")


def test_the_command_sends_to_the_hub_that_the_library_is_set_up_for(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = _FakeHub()
    monkeypatch.setattr(push_job, "HfApi", lambda: hub)
    assert run(["push", str(package), "--to", "me/model", "--public", "--json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["repo"] == "me/model" and hub.made == [("me/model", False)]


def test_the_library_offers_what_is_used_of_it() -> None:
    import inspect

    from huggingface_hub import HfApi

    made = inspect.signature(HfApi.create_repo).parameters
    sent = inspect.signature(HfApi.create_commit).parameters
    assert {"repo_id", "private", "exist_ok"} <= set(made)
    assert {"repo_id", "operations", "commit_message"} <= set(sent)
