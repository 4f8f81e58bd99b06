"""The figures of a run for any tracker that Accelerate knows, beside the run folder's own log.

A tracker watches: where it cannot be reached, the run goes on without it and says so once.
"""

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import Progress

PROJECT = "moonshine-tune"
_PACKAGES = {"comet_ml": "comet_ml", "tensorboard": "tensorboard"}


class Tracker:
    """One run at one tracker.

    Args:
        name: as Accelerate has it: wandb, mlflow, trackio, comet_ml, tensorboard, …
        folder: the run folder; trackers that write files write them below it.
        settings: shown beside the curves, by dotted name.

    Raises:
        RequestError: no tracker is called so.
        MachineError: its package is missing, or it does not start.
    """

    def __init__(
        self, name: str, folder: Path, settings: Mapping[str, Any], progress: Progress
    ) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        known = {
            str(getattr(key, "value", key)): kind for key, kind in LOGGER_TYPE_TO_CLASS.items()
        }
        if name not in known:
            raise RequestError(
                f"no tracker is called {name!r}", hint=f"one of: {', '.join(sorted(known))}"
            )
        package = _PACKAGES.get(name, name)
        if importlib.util.find_spec(package) is None:
            raise MachineError(
                f"the tracker {name} is not installed", hint=f"pip install {package}"
            )
        words = {"logging_dir": str(folder / "tracker")}
        taken = inspect.signature(known[name].__init__).parameters
        self._name, self._progress, self._broken = name, progress, False
        try:
            self._tracker = known[name](
                PROJECT, **{key: value for key, value in words.items() if key in taken}
            )
            if hasattr(self._tracker, "start"):
                self._tracker.start()
            self._tracker.store_init_configuration(
                {key: value if isinstance(value, bool | int | float) else str(value)
                 for key, value in settings.items()}
            )  # fmt: skip
        except Exception as error:
            # Accounts, addresses, networks: each tracker has errors of its own.
            raise MachineError(
                f"the tracker {name} does not start: {type(error).__name__}: {error}",
                hint=f"log in to {name}, or train without: --set tracker=null",
            ) from error

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Send one point of each curve."""
        if not self._broken:
            self._guarded("log", dict(values), step=step)

    def close(self) -> None:
        """Finish the run there."""
        if not self._broken:
            self._guarded("finish")

    def _guarded(self, what: str, *words: Any, **named: Any) -> None:
        try:
            getattr(self._tracker, what)(*words, **named)
        except Exception as error:
            self._broken = True
            self._progress.say(
                f"the tracker {self._name} is lost ({type(error).__name__}: {error}); the run goes "
                "on, and metrics.jsonl has everything"
            )
