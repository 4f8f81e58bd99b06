"""What the tests of packages share: a made-up run with all inputs, and a package of it."""

from pathlib import Path

import pytest
from tests.release.made_up_run import FakeRuntime, MadeUpRun

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.release import verify as verify_job
from moonshine_tune.release.package import package
from moonshine_tune.runtime import transcriber as runtime_transcriber


@pytest.fixture
def fake_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model: for tests of everything around it."""
    monkeypatch.setattr(runtime_transcriber, "RuntimeTranscriber", FakeRuntime)
    monkeypatch.setattr(verify_job, "RuntimeTranscriber", FakeRuntime)


@pytest.fixture
def made(fake_runtime: None, tmp_path: Path) -> MadeUpRun:
    """Inputs that a test may change."""
    return MadeUpRun(tmp_path / "made")


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one package as folder and as model.tar.gz, and its inputs. Read only."""
    folder = tmp_path_factory.mktemp("packed")
    made = MadeUpRun(folder / "made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime_transcriber, "RuntimeTranscriber", FakeRuntime)
        for name in ("model", "model.tar.gz"):
            package(made.request(), folder / name, SilentProgress())
    return folder
