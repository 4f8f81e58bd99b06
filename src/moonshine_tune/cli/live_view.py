"""What a terminal shows below the bar during training: curves, memory, the last transcripts."""

from collections.abc import Mapping, Sequence
from typing import Any

from moonshine_tune.core.text import printable

_BLOCKS = "▁▂▃▄▅▆▇█"
# Title, curve and the longest figures fit a terminal of 80 columns.
_WIDTH = 24
_SHOWN_TRANSCRIPTS = 3
# Name in the log, title, unit, decimals; `step_seconds` is shown as steps per second.
_CURVES = (
    ("loss", "loss", "", 3),
    ("dev_wer", "dev WER", " %", 2),
    ("dev_augmented_wer", "augmented", " %", 2),
    ("canary_wer", "canary WER", " %", 2),
    ("step_seconds", "speed", " steps/s", 2),
    ("memory_resident_mb", "memory", " MB", 0),
    ("memory_device_mb", "memory, device", " MB", 0),
)


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Values as block characters; with more values than `width`, neighbors are averaged."""
    if not values:
        return ""
    size = max(-(-len(values) // width), 1)
    means = [
        sum(values[start : start + size]) / len(values[start : start + size])
        for start in range(0, len(values), size)
    ]
    low, high = min(means), max(means)
    if high <= low:
        return _BLOCKS[0] * len(means)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((value - low) / (high - low) * top)] for value in means)


class LiveView:
    """Curves and transcripts so far, as a Rich renderable."""

    def __init__(self) -> None:
        self._curves: dict[str, list[float]] = {name: [] for name, *_ in _CURVES}
        self._transcripts: list[tuple[str, str]] = []

    def add(self, values: Mapping[str, float]) -> None:
        """Add the figures of a step or of a score to the curves."""
        for name, value in values.items():
            if name in self._curves:
                is_seconds = name == "step_seconds"
                self._curves[name].append(1 / max(value, 1e-9) if is_seconds else value)

    def show_transcripts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Replace the transcripts, each a reference and a hypothesis; the first few are shown."""
        self._transcripts = [
            (printable(first), printable(second)) for first, second in pairs[:_SHOWN_TRANSCRIPTS]
        ]

    def lines(self) -> list[tuple[str, str, str]]:
        """Rows: title, curve, last value with the best or highest one."""
        rows = []
        for name, title, unit, digits in _CURVES:
            values = self._curves[name]
            if not values or (name == "memory_device_mb" and not any(values)):
                continue
            figures = f"{values[-1]:,.{digits}f}{unit}"
            if name.endswith("_wer"):
                figures += f"  (first {values[0]:.{digits}f}, lowest {min(values):.{digits}f})"
            elif name.startswith("memory"):
                figures += f"  (highest {max(values):,.0f})"
            rows.append((title, sparkline(values), figures))
        return rows

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        # Two tables: a long transcript would push the figures to the far side of the screen.
        curves, texts = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2), expand=True)
        for title, curve, figures in self.lines():
            curves.add_row(Text(title, "dim"), Text(curve, "cyan"), Text(figures, no_wrap=True))
        texts.add_column(no_wrap=True, width=len("canary WER"))
        texts.add_column(no_wrap=True, ratio=1)
        for reference, hypothesis in self._transcripts:
            is_same = reference.strip().lower() == hypothesis.strip().lower()
            style = "green" if is_same else "yellow"
            texts.add_row(Text("reference", "dim"), Text(reference, overflow="ellipsis"))
            texts.add_row(
                Text("hypothesis", "dim"),
                Text(hypothesis or "(nothing)", style, overflow="ellipsis"),
            )
        return Group(*(part for part in (curves, texts) if part.row_count))
