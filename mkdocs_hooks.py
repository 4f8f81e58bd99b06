"""Pages of the site that are not written in docs/, and the end of its navigation.

README, CONTRIBUTING and CHANGELOG lie where people and forges look for them; here they become
pages of the site, so that nothing is written twice.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md",
              "CHANGELOG.md": "changelog.md"}  # fmt: skip
_ROOT = Path(__file__).parent


def on_config(config: Any) -> Any:
    """Complete the navigation before anything is read."""
    config.nav = complete_navigation(config.nav)
    return config


def complete_navigation(nav: list[Any]) -> list[Any]:
    """The navigation with guides that it does not name, at the end of Guides, by file name."""
    written = yaml.safe_dump(nav)
    unnamed = [p.name for p in sorted((_ROOT / "docs").glob("*.md")) if p.name not in written]
    return [
        {"Guides": [*entry["Guides"], *unnamed]} if "Guides" in entry else entry for entry in nav
    ]


def on_files(files: Files, *, config: Any) -> Files:
    """Add the generated pages before mkdocs reads the navigation."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=site_text(source)))
    files.append(File.generated(config, "decisions/index.md", content=decisions_page()))
    return files


def site_text(source: str) -> str:
    """A page of the root with its links as seen from docs/."""
    text = (_ROOT / source).read_text(encoding="utf-8")
    for name, page in ROOT_PAGES.items():
        text = text.replace(f"]({name}", f"]({page}")
    text = text.replace("](docs/decisions/)", "](decisions/index.md)")
    return re.sub(r"\]\(docs/", "](", text)


def decisions_page() -> str:
    """Links to all decision pages, titled by their first lines."""
    lines = [
        "# Decisions",
        "",
        "A page for each choice that was not obvious, with its price.",
        "",
    ]
    for path in sorted((_ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"
