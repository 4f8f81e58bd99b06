"""The runtimes that load exported files, by the name of the format."""

from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.runtime.sherpa_transcriber import (
    SherpaTranscriber,
    check_sherpa_loads,
    require_sherpa,
)
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

MOONSHINE, SHERPA_ONNX = "moonshine", "sherpa-onnx"
FORMATS = (MOONSHINE, SHERPA_ONNX)


def open_runtime(format_name: str, folder: Path) -> RuntimeTranscriber | SherpaTranscriber:
    """Load a runtime folder with the runtime of a format.

    Raises:
        RequestError: the runtime refuses the files.
        MachineError: the runtime is not installed.
    """
    return SherpaTranscriber(folder) if format_name == SHERPA_ONNX else RuntimeTranscriber(folder)


def check_format(format_name: str, family: str | None = None) -> None:
    """Refuse a format before the work.

    Args:
        family: of the model, once it is known.

    Raises:
        RequestError: no such format, or its runtime does not load this family.
        MachineError: its runtime is not installed.
    """
    if format_name not in FORMATS:
        raise RequestError(
            f"no format is called {format_name!r}", hint=f"one of: {', '.join(FORMATS)}"
        )
    if format_name == SHERPA_ONNX:
        require_sherpa()
        if family is not None:
            check_sherpa_loads(family)
