"""Reading the project's own documentation: pages, and the shell blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Their shell blocks are run with the wheel alone, by tests/docs/test_guides.py.
GUIDES = (
    "docs/guides/first-adapter.md",
    "docs/guides/your-own-recordings.md",
    "docs/guides/my-own-voice.md",
    "docs/guides/from-a-text.md",
)
RUN_PAGES = ("README.md", *GUIDES)
# Their shell blocks are read, not run: each command and option must exist.
READ_PAGES = {
    "docs/memory.md": "the medium model is not at hand, and takes hours",
    "docs/robust.md": "needs recordings of noise and hours of search",
    "docs/shipping.md": "its steps are run by tests of their own on the real model",
}
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `not_run` is the reason where it is marked so."""

    line: int
    language: str
    text: str
    not_run: str | None


def pages() -> list[Path]:
    """Every page that a reader meets, decisions too."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, m.start("text")), m["language"], m["text"], m["why"])
        for m in _BLOCK.finditer(text)
    ]


def commands_of(text: str) -> list[str]:
    """The calls of moonshine-tune in a block, continued lines joined."""
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    called = (re.sub(r"^(\$ |\.venv/bin/)+", "", line) for line in lines)
    return [line for line in called if line.startswith("moonshine-tune ")]


def runnable(page: Path) -> list[Block]:
    """The shell blocks that a test must run: those without a mark."""
    return [b for b in blocks_of(page) if b.language == "sh" and b.not_run is None]
