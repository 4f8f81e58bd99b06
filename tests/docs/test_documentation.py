"""The documentation tells the truth: commands exist, links lead somewhere, reference is fresh."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.documentation import (
    DOCS,
    READ_PAGES,
    ROOT,
    RUN_PAGES,
    blocks_of,
    commands_of,
    pages,
    runnable,
)

from moonshine_tune.cli.reference import reference_pages, walk_commands
from moonshine_tune.corpus.manifest import RESERVED_KEYS

_LANGUAGES = {"sh", "text", "json", "yaml", "python", "swift", "kotlin", "c"}
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
# Pages of the site that are made from files of the root, or from the list of decisions.
_MADE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md",
         "changelog.md": "CHANGELOG.md", "decisions/index.md": None}  # fmt: skip


@pytest.mark.parametrize("page", sorted(reference_pages()))
def test_generated_pages_are_up_to_date(page: str) -> None:
    written = (DOCS / page).read_text(encoding="utf-8")
    assert written == reference_pages()[page], "run: python -m moonshine_tune.cli.reference docs"


def test_the_manifest_page_names_every_key() -> None:
    text = (DOCS / "reference" / "manifest.md").read_text(encoding="utf-8")
    assert {key for key in RESERVED_KEYS if f"`{key}`" not in text} == set()


def _known_options() -> dict[str, set[str]]:
    known = {}
    for name, command in walk_commands():
        options = {"--help", "--debug"}
        for parameter in command.params:
            options |= {*parameter.opts, *parameter.secondary_opts}
        known[name] = options
    return known


def command_line_faults(line: str, known: dict[str, set[str]]) -> list[str]:
    """What is wrong with one documented call of moonshine-tune: command or options unknown."""
    words = shlex.split(line, comments=True)[1:]
    if not words or words[0] in ("--help", "--version"):
        return []
    name = words[0] if words[0] in known else " ".join(words[:2])
    if name not in known:
        return [f"no command {name!r}: {line}"]
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    return [f"{name} has no {option}: {line}" for option in sorted(given - known[name])]


def test_every_documented_command_exists_with_its_options() -> None:
    known = _known_options()
    faults, seen = [], 0
    for page in pages():
        for block in blocks_of(page):
            for line in commands_of(block.text):
                seen += 1
                faults += [f"{page.name}: {fault}" for fault in command_line_faults(line, known)]
    assert faults == []
    assert seen > 15


def test_the_check_of_commands_finds_faults() -> None:
    known = _known_options()
    assert command_line_faults("moonshine-tune train --epochs 3 --out a", known)
    assert command_line_faults("moonshine-tune data polish x", known)
    assert not command_line_faults("moonshine-tune data check a.jsonl --json  # why", known)


def test_every_block_is_named_and_every_mark_has_a_reason() -> None:
    """A block without a language could hide commands from the tests that run them."""
    faults = []
    for page in pages():
        if str(page.relative_to(ROOT)) in READ_PAGES:
            continue
        for block in blocks_of(page):
            if block.language not in _LANGUAGES:
                faults.append(f"{page.name}:{block.line}: language {block.language!r}")
            if block.not_run is not None and len(block.not_run.split()) < 2:
                faults.append(f"{page.name}:{block.line}: why is it not run?")
    assert faults == []


def test_shell_blocks_are_run_or_say_why_not() -> None:
    for page in pages():
        name = str(page.relative_to(ROOT))
        assert name in RUN_PAGES or name in READ_PAGES or runnable(page) == [], (
            f"{name}: run it or mark it: not run"
        )


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ +(.+)$", _without_code_blocks(text), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", t.lower()).strip()) for t in titles}


def _without_code_blocks(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def link_faults(page: Path) -> Iterator[str]:
    """Relative links of a page whose file or heading is not there."""
    for target in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if goal.is_relative_to(DOCS):
            made = str(goal.relative_to(DOCS))
            if made in _MADE:
                goal = ROOT / (_MADE[made] or "docs/decisions")
        if not goal.exists():
            yield f"{page.name}: {target}"
        elif anchor and anchor not in _anchors(goal.read_text(encoding="utf-8")):
            yield f"{page.name}: {target} has no such heading"


def test_links_lead_somewhere() -> None:
    assert [fault for page in pages() for fault in link_faults(page)] == []


def test_the_check_of_links_finds_faults(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](gone.md) [b](#a-title) [c](#nothing) `[d](code.md)`\n")
    assert list(link_faults(page)) == ["page.md: gone.md", "page.md: #nothing has no such heading"]


def _nav_pages(entries: object) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    elif isinstance(entries, dict):
        for value in entries.values():
            yield from _nav_pages(value)
    elif isinstance(entries, list):
        for value in entries:
            yield from _nav_pages(value)


def test_the_navigation_holds_every_page() -> None:
    """That it names no page that is not there is told by `make docs`."""
    named = set(_nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    # Those at the top of docs/ are added to the guides by mkdocs_hooks.py.
    there = {name for name in there if "/" in name and not name.startswith("decisions/")}
    there |= set(_MADE)
    assert there - named == set()


def test_the_workflow_calls_what_exists() -> None:
    """Targets of the Makefile, and commands with their options."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    lines = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([\w-]+)", lines, re.MULTILINE)
    assert {"test", "coverage", "docs"} <= set(targets)
    assert [name for name in targets if f"\n{name}:" not in makefile] == []
    called = commands_of(lines)
    assert any(line.startswith("moonshine-tune doctor") for line in called)
    known = _known_options()
    assert [fault for line in called for fault in command_line_faults(line, known)] == []
