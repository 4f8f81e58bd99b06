"""Publishing a package's adapter and model card on a model hub.

What is sent is the adapter as PEFT loads it and the card; never runtime files, recordings, run
records or manifests.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moonshine_tune.core.errors import NegativeAnswerError, RequestError, SourceUnreachableError
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import first_line
from moonshine_tune.release.archive import unpack
from moonshine_tune.release.verify import verify

_FILES = {
    "README.md": "README.md",
    "adapter/adapter_model.safetensors": "adapter_model.safetensors",
    "adapter/adapter_config.json": "adapter_config.json",
    "adapter/base_model.json": "base_model.json",
}
_OPTIONAL = {"adapter/base_model.json"}


class HubApi(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make the repository where it is not there yet."""
        ...

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        """Send a folder's files as one commit."""
        ...


@dataclass(frozen=True)
class PushResult:
    """What was sent where; `revision` is the commit, where the hub names it."""

    repo: str
    files: tuple[str, ...]
    private: bool
    revision: str | None

    def to_record(self) -> dict[str, Any]:
        """The JSON document of `push`."""
        return {
            "repo": self.repo,
            "files": list(self.files),
            "private": self.private,
            "revision": self.revision,
        }


def push(
    package: Path,
    repo: str,
    progress: Progress,
    *,
    private: bool = True,
    api: HubApi | None = None,
) -> PushResult:
    """Send adapter and card of a whole package to `repo` (OWNER/NAME).

    Args:
        private: whether a repository that is made now is hidden from others.
        api: the hub; None takes the one that huggingface_hub is set up for.

    Raises:
        RequestError: no package, or not a repository's name.
        NegativeAnswerError: the package is damaged.
        SourceUnreachableError: the hub refuses or is out of reach.
    """
    owner, _, name = repo.partition("/")
    if not owner or not name or "/" in name:
        raise RequestError(f"{repo!r} is not a repository's name", hint="OWNER/NAME")
    found = verify(package, progress)
    if not found.passed:
        raise NegativeAnswerError(
            f"the package is not what was packed: {found.problems[0]}",
            where=package,
            hint=f"look closer with: moonshine-tune verify {package}",
        )
    with tempfile.TemporaryDirectory(prefix="moonshine-tune-") as place:
        unpacked, scratch = Path(place) / "package", Path(place) / "sent"
        unpacked.mkdir()
        scratch.mkdir()
        folder = package if package.is_dir() else unpacked / unpack(package, unpacked)
        sent = _gather(folder, scratch)
        progress.say(f"sending {len(sent)} files to {repo}")
        try:
            hub = api or _hub()
            hub.create_repo(repo, private=private, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=repo, folder_path=str(scratch), commit_message="Adapter and model card"
            )
        except Exception as error:
            # The library's errors are of many kinds, an HTTP client's among them.
            raise SourceUnreachableError(
                f"the hub did not take it ({type(error).__name__}: {first_line(error)})",
                hint="log in with: hf auth login, and check the name of the repository",
            ) from error
    return PushResult(repo, sent, private, getattr(commit, "oid", None))


def _gather(folder: Path, scratch: Path) -> tuple[str, ...]:
    sent = []
    for source, target in _FILES.items():
        if not (folder / source).is_file():
            if source in _OPTIONAL:
                continue
            raise RequestError("the package has no such file", where=folder / source)
        shutil.copyfile(folder / source, scratch / target)
        sent.append(target)
    return tuple(sent)


def _hub() -> HubApi:
    import huggingface_hub

    api: HubApi = huggingface_hub.HfApi()
    return api
