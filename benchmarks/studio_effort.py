"""Keys and clicks of labeling in the studio: `python -m benchmarks.studio_effort`.

Recordings of AN4 are dropped on the page in a real Chromium; the model transcribes them, and each
text is corrected to the reference exactly as the reference spells it, with real keys.

The person of this measurement knows at once what to press, and presses the fewest keys: each
character is a key, and so are →, Delete, Backspace, End, Ctrl → (to the end of a word), Ctrl Delete
(the rest of a word) and Ctrl A; a combination counts once. Typing everything is each character of
the reference and Enter. The page counts, not this script.
"""

import argparse
import heapq
import json
import random
import re
import sys
import tempfile
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from benchmarks.acceptance import SHARED
from benchmarks.studio_page import open_browser, open_studio, show, visit, wait_for

COUNT = 50
LIMIT_PERCENT = 40.0
# How far Ctrl → goes, and Ctrl Delete deletes.
_WORD = re.compile(r"\s*(?:\w+|[^\w\s]+)|\s+")


@dataclass(frozen=True)
class Effort:
    """What the labels of some clips took.

    Attributes:
        keys: keys and clicks that the page counted.
        typing_everything: characters of all texts, and an Enter each.
        wrong: texts that the model did not write as the reference has them.
    """

    clips: int
    keys: int
    typing_everything: int
    wrong: int

    @property
    def percent(self) -> float:
        """Of typing everything."""
        return 100.0 * self.keys / self.typing_everything


def fewest_keys(text: str, wanted: str) -> list[str]:
    """The keys that turn a text into another one, with the cursor at its start.

    Returns:
        Characters to type, and `right`, `delete`, `backspace`, `end`, `word right`, `word delete`,
        `select all`.
    """
    anew = [] if text == wanted else ["select all", *wanted]
    best: dict[tuple[int, int], int] = {(0, 0): 0}
    came: dict[tuple[int, int], tuple[tuple[int, int], list[str]]] = {}
    queue = [(0, (0, 0))]
    while queue:
        cost, state = heapq.heappop(queue)
        if cost > best[state]:
            continue
        at, done = state
        if text[at:] == wanted[done:]:
            keys: list[str] = []
            while state in came:
                state, pressed = came[state]
                keys = [*pressed, *keys]
            return keys if len(keys) < len(anew) or not anew else anew
        for pressed, following in _moves(text, wanted, at, done):
            total = cost + len(pressed)
            if following not in best or total < best[following]:
                best[following] = total
                came[following] = (state, pressed)
                heapq.heappush(queue, (total, following))
    return anew


def _moves(text: str, wanted: str, at: int, done: int) -> list[tuple[list[str], tuple[int, int]]]:
    """Keys and where they lead: how much of the text is behind the cursor, and of the goal."""
    moves = []
    if done < len(wanted):
        moves.append(([wanted[done]], (at, done + 1)))
    if at < len(text):
        match = _WORD.match(text, at)
        end = match.end() if match else at + 1
        moves += [(["delete"], (at + 1, done)), (["word delete"], (end, done))]
        if text[at] == wanted[done : done + 1]:
            moves.append((["right"], (at + 1, done + 1)))
        if text[at:end] == wanted[done : done + end - at]:
            moves.append((["word right"], (end, done + end - at)))
        pairs = zip(text[at:], wanted[done:], strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        rest = ["backspace"] * (len(text) - at - same)
        moves.append((["end", *rest, *wanted[done + same :]], (len(text), len(wanted))))
    return moves


def press(browser: Any, keys: list[str]) -> None:
    """Press some keys of `fewest_keys`, then Enter."""
    from selenium.webdriver import ActionChains, Keys

    named = {"right": Keys.ARROW_RIGHT, "delete": Keys.DELETE, "backspace": Keys.BACKSPACE,
             "end": Keys.END}  # fmt: skip
    with_control = {
        "word right": Keys.ARROW_RIGHT,
        "word delete": Keys.DELETE,
        "select all": "a",
    }
    chain = ActionChains(browser, duration=0)
    for key in keys:
        if key in with_control:
            chain.key_down(Keys.CONTROL).send_keys(with_control[key]).key_up(Keys.CONTROL)
        else:
            chain.send_keys(named.get(key, key))
    chain.perform()


def label_all(browser: Any, references: dict[str, str]) -> int:
    """Correct and accept every clip of the page; how many texts had to be corrected.

    Raises:
        RuntimeError: the keys did not make the text.
    """
    from selenium.webdriver import ActionChains, Keys

    corrected = 0
    for left in range(len(references), 0, -1):
        name, proposed = wait_for(
            browser,
            "const clips = document.querySelector('[data-state=unlabelled] .count').textContent;"
            "const text = document.getElementById('text');"
            f"return (clips === '{left}' && text === document.activeElement && !text.readOnly)"
            " ? [document.querySelector('.editor .eyebrow').textContent, text.value] : null",
        )
        wanted = references[Path(name).stem]
        keys = fewest_keys(proposed, wanted)
        corrected += bool(keys)
        press(browser, keys)
        written = browser.execute_script("return document.getElementById('text').value")
        if written != wanted:
            raise RuntimeError(f"{proposed!r} became {written!r}, not {wanted!r}: {keys}")
        ActionChains(browser).send_keys(Keys.ENTER).perform()
    wait_for(browser, "!document.getElementById('text')")
    return corrected


def drop(browser: Any, files: list[Path]) -> None:
    """Choose files under Label, and wait until all are transcribed."""
    browser.find_element("id", "files").send_keys("\n".join(map(str, files)))
    wait_for(
        browser,
        "!document.querySelector('.uploads li') && "
        f"document.querySelector('[data-state=unlabelled] .count').textContent === '{len(files)}'",
        600,
    )


def measure(references: dict[str, str], files: list[Path], folder: Path) -> Effort:
    """Label some recordings in a new project."""
    with open_studio(folder) as (address, _):
        browser = open_browser()
        try:
            visit(browser, address)
            # Playing is no work, and a machine without sound would wait for it.
            browser.execute_script("localStorage.setItem('studio-play-each', 'false')")
            show(browser, "label")
            drop(browser, files)
            corrected = label_all(browser, references)
            effort = browser.execute_async_script(
                "const done = arguments[0];"
                "fetch('/api/effort').then((answer) => answer.json()).then(done)"
            )
        finally:
            browser.quit()
    return Effort(effort["clips"], effort["keystrokes"], effort["typing_everything"], corrected)


def main() -> int:
    """Measure, and write one line of JSON; 1 where it is more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=SHARED / "an4" / "test.jsonl")
    parser.add_argument("--seed", type=int, default=0, help="which recordings")
    parser.add_argument("--count", type=int, default=COUNT)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.manifest.read_text("utf-8").splitlines()]
    chosen = random.Random(arguments.seed).sample(lines, min(arguments.count, len(lines)))
    files = [arguments.manifest.parent / line["audio"] for line in chosen]
    references = {path.stem: line["text"] for path, line in zip(files, chosen, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        effort = measure(references, files, Path(folder) / "project")
    result = {
        "clips": effort.clips,
        "keys_and_clicks": effort.keys,
        "typing_everything": effort.typing_everything,
        "percent": round(effort.percent, 1),
        "per_clip": round(effort.keys / effort.clips, 1),
        "typing_everything_per_clip": round(effort.typing_everything / effort.clips, 1),
        "corrected_clips": effort.wrong,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return int(effort.percent > LIMIT_PERCENT)


if __name__ == "__main__":
    sys.exit(main())
