"""One bare installation, and one desk to copy, for all files of tests that follow the pages."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.bare_install import install, warm, write_desk, write_shim
from tests.shared_folder import once

if TYPE_CHECKING:
    from moonshine_tune.registry.wheel import WheelAssets

Shell = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="session")
def program(common: Path) -> Path:
    """`moonshine-tune` of a new environment that holds the wheel and its dependencies alone."""
    with once(common / "bare-install") as is_new:
        if is_new:
            install(common / "bare-install")
    return common / "bare-install" / "env" / "bin" / "moonshine-tune"


@pytest.fixture(scope="session")
def variables_of(program: Path, wheel_assets: "WheelAssets", real_cache: Path) -> Shell:
    """Variables for a user's shell with a home: the shim on PATH, nothing of this environment."""

    def variables(home: Path) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        return kept | {
            "PATH": os.pathsep.join([str(home / "bin"), str(program.parent), "/usr/bin", "/bin"]),
            "HOME": str(home),
            "MOONSHINE_TUNE_CACHE": str(real_cache),
            "OMP_NUM_THREADS": "1",
        }

    return variables


@pytest.fixture(scope="module")
def warm_program(
    program: Path, variables_of: Shell, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The program, started in a moment."""
    with warm(program, variables_of(tmp_path_factory.mktemp("home"))) as client:
        yield client


@pytest.fixture
def bare(program: Path, variables_of: Shell, tmp_path: Path) -> dict[str, str]:
    """Variables of a shell in which the shim starts the program as a user does."""
    write_shim(tmp_path / "bin", program)
    return variables_of(tmp_path)


@pytest.fixture
def warm_bare(warm_program: Path, variables_of: Shell, tmp_path: Path) -> dict[str, str]:
    """Variables of a shell in which the shim starts the program in a moment."""
    write_shim(tmp_path / "warm" / "bin", warm_program)
    return variables_of(tmp_path / "warm")


@pytest.fixture
def desk(common: Path, warm_bare: dict[str, str], tmp_path: Path) -> Path:
    """A folder with what the guides start from, synthesized once."""
    with once(common / "desk") as is_new:
        if is_new:
            write_desk(common / "desk", warm_bare)
    return Path(shutil.copytree(common / "desk", tmp_path / "my desk"))
