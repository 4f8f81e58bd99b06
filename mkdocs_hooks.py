"""Pages of the site that are not written in docs/: three from the root, and the list of decisions.

README, CONTRIBUTING and CHANGELOG lie where people and forges look for them; here they become
pages of the site, so that nothing is written twice.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md",
              "CHANGELOG.md": "changelog.md"}  # fmt: skip
_ROOT = Path(__file__).parent


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
