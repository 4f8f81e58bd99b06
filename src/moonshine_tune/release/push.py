"""Publishing a package's adapter and model card on a model hub.

The adapter is sent as PEFT loads it, with the card; never runtime files, recordings, run records or
manifests.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from moonshine_tune.core.errors import NegativeAnswerError, RequestError, SourceUnreachableError
from moonshine_tune.core.files import read_json
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import first_line, quoted
from moonshine_tune.models.adapter_config import FULL
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE
from moonshine_tune.release.archive import unpack
from moonshine_tune.release.verify import verify

_FILES = (
    "README.md",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
)
_OPTIONAL_FILES = ("adapter/base_model.json",)


@dataclass(frozen=True)
class PushResult:
    """The files of a repository; the JSON document of `push`.

    Attributes:
        revision: the commit, where the hub names it.
    """

    repo: str
    files: tuple[str, ...]
    private: bool
    revision: str | None


def push(
    package: Path, repo: str, progress: Progress, *, private: bool = True, api: Any = None
) -> PushResult:
    """Send adapter and card of a complete package to `repo` (OWNER/NAME).

    Args:
        private: whether a repository that is created now is hidden from others.
        api: a `huggingface_hub.HfApi`; None takes the default one.

    Raises:
        RequestError: no package, or not a repository's name.
        NegativeAnswerError: the package is damaged.
        SourceUnreachableError: the hub refuses or cannot be reached.
    """
    owner, _, name = repo.partition("/")
    if not owner or not name or "/" in name:
        raise RequestError(f"{repo!r} is not a repository's name", hint="OWNER/NAME")
    result = verify(package, progress)
    if not result.passed:
        raise NegativeAnswerError(
            f"the package is not what was packed: {result.problems[0]}",
            where=package,
            hint=f"all problems: moonshine-tune verify {quoted(package)}",
        )
    with tempfile.TemporaryDirectory(prefix="moonshine-tune-") as scratch:
        folder = package if package.is_dir() else unpack(package, Path(scratch))
        optional = [name for name in _OPTIONAL_FILES if (folder / name).is_file()]
        # In the repository they lie beside each other, as PEFT wants them.
        sources = {Path(name).name: folder / name for name in (*_FILES, *optional)}
        if missing := [source for source in sources.values() if not source.is_file()]:
            raise RequestError("the package has no such file", where=missing[0])
        if read_json(sources[ADAPTER_CONFIG_FILE]).get("peft_type") == FULL:
            raise RequestError(
                "this package is fully fine-tuned: it has no adapter that PEFT could load",
                where=package,
                hint="write the complete model, and send that folder with `hf upload`: "
                "moonshine-tune merge --run RUN --out merged",
            )
        progress.say(f"sending {len(sources)} files to {repo}")
        try:
            hub = api or HfApi()
            hub.create_repo(repo, private=private, exist_ok=True)
            commit = hub.create_commit(
                repo_id=repo,
                operations=[CommitOperationAdd(name, source) for name, source in sources.items()],
                commit_message="Adapter and model card",
            )
        except Exception as error:
            # The library raises many kinds of errors, an HTTP client's among them.
            raise SourceUnreachableError(
                f"the hub did not take it ({type(error).__name__}: {first_line(error)})",
                hint="log in with: hf auth login, and check the name of the repository",
            ) from error
    return PushResult(repo, tuple(sources), private, getattr(commit, "oid", None))
