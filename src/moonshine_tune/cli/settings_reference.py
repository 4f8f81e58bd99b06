"""The settings page of the documentation, generated from the settings themselves.

`python -m moonshine_tune.cli.settings_reference > docs/settings.md` writes it; a test compares.
"""

import sys
from typing import Any

from pydantic import BaseModel

from moonshine_tune.config.resolve import preset_names, read_preset
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.nested import flatten

_HEAD = """# Settings

Given in a YAML file (`--config FILE`), by a preset (`--preset NAME`) or one at a time
(`--set train.learning_rate=3e-4`). Stronger wins: default, preset, file, flag, `--set`. `run.json`
records every value and, for each that is not a default, where it came from.
"""


def settings_reference() -> str:
    """Markdown tables of every setting with its default, meaning and the presets' values."""
    parts = [_HEAD]
    rows = [row for row in _rows(RunSettings, "") if "." not in row[0]]
    parts.append(_table("Model", rows))
    for name, field in RunSettings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            title = f"`{name}`: {(section.__doc__ or '').strip()}"
            parts.append(_table(title, _rows(section, f"{name}.")))
    parts.append(_presets())
    return "\n".join(parts)


def _rows(section: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default = "–" if field.default is None else f"`{_plain(field.default)}`"
        rows.append((f"{prefix}{name}", default, field.description or ""))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(title: str, rows: list[tuple[str, str, str]]) -> str:
    lines = [f"## {title}", "", "| setting | default | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in rows]
    return "\n".join(lines) + "\n"


def _presets() -> str:
    lines = ["## Presets", "", "| preset | sets |", "|---|---|"]
    for name in preset_names():
        content = ", ".join(f"`{key}={value}`" for key, value in flatten(read_preset(name)))
        lines.append(f"| `{name}` | {content} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(settings_reference())
