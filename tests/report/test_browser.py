"""The report in a real browser: no complaint, sound plays, tables sort, charts tell values.

Needs Selenium and the system's Chromium with its driver; skipped with the reason where they lack.
"""

import json
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import score_utterance
from moonshine_tune.report.page import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (_CHROMIUM and _DRIVER), reason="Chromium or its driver is not installed"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("report") / "run"
    (run / "eval").mkdir(parents=True)
    references = ["one two three four", "five six", "seven", "<b>eight</b> nine"]
    hypotheses = ["one too three", "five six", "eleven", "eight line <i>ten</i>"]
    lines, manifest = [], []
    with wave.open(str(run / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        tone = 9000 * np.sin(np.arange(16_000) * 0.17)
        file.writeframes(tone.astype("<i2").tobytes())
    for index, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        item = score_utterance(
            f"u{index}", reference, hypothesis, normalizer_for("spelled-1"), speaker=f"s{index % 3}"
        )
        lines.append(item.to_record())
        manifest.append({"id": item.id, "audio": "a.wav", "text": reference})
    _write(run / "eval" / "dev.jsonl", lines)
    _write(run / "dev.jsonl", manifest)
    steps = [{"step": step, "loss": 2 / step, "step_seconds": 1} for step in range(1, 41)]
    _write(run / "metrics.jsonl", [{"step": 0, "dev_wer": 50.0, "canary_wer": 4.0}, *steps])
    settings = {"model": "tiny", "data": {"train": "/" + "long-folder/" * 20}}
    (run / "run.json").write_text(json.dumps({"settings": settings, "command": ["m", "train"]}))
    result = write_report(run, None, SilentProgress(), manifest=run / "dev.jsonl")
    assert result.num_clips == 3
    return result.report


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = _CHROMIUM
    for word in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "autoplay-policy=no-user-gesture-required",
        "window-size=1280,900",
    ):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(_DRIVER))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def test_opens_without_complaint(browser: Any) -> None:
    assert browser.execute_script("return document.documentElement.dataset.ready") == "true"
    assert browser.get_log("browser") == []


def test_sound_plays(browser: Any) -> None:
    state = browser.execute_async_script(
        "const done = arguments[0], player = document.querySelector('audio');"
        "player.addEventListener('timeupdate', () => player.currentTime > 0.1"
        "  && done([player.duration, player.error]));"
        "player.play().catch((error) => done([0, String(error)]));"
    )
    assert state[1] is None
    assert state[0] == pytest.approx(1.0, abs=0.2)


def test_tables_sort_by_their_headers(browser: Any) -> None:
    read = (
        "return [...document.querySelectorAll('table.groups')[0].tBodies[0].rows]"
        ".map((row) => row.cells[0].textContent.trim())"
    )
    names = browser.execute_script(read)
    buttons = browser.find_elements("css selector", "table.groups .sort")
    buttons[3].send_keys("\n")
    by_wer = browser.execute_script(read)
    assert by_wer != names
    assert buttons[3].find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    buttons[3].send_keys("\n")
    assert browser.execute_script(read) == by_wer[::-1]
    buttons[0].send_keys("\n")
    assert browser.execute_script(read) == names


def test_arrow_keys_tell_the_values_of_a_chart(browser: Any) -> None:
    chart = next(
        item
        for item in browser.find_elements("css selector", "figure.plot")
        if "Training loss" in item.text
    )
    readout = chart.find_element("css selector", ".readout")
    assert readout.text.startswith("step 40: value 0.05")
    drawing = chart.find_element("css selector", "svg")
    drawing.send_keys(webdriver.Keys.HOME)
    assert readout.text.startswith("step 1: value 2")
    drawing.send_keys(webdriver.Keys.ARROW_RIGHT)
    assert readout.text.startswith("step 2: value 1")


def test_cards_can_be_filtered_and_texts_stay_texts(browser: Any) -> None:
    assert browser.find_elements("css selector", ".card b, .card i, h1 b") == []
    assert "<b>eight</b> nine" in browser.find_element("id", "heard").text


def test_theme_can_be_switched(browser: Any) -> None:
    read = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(read)
    browser.find_element("css selector", ".theme").click()
    after = browser.execute_script(read)
    assert after != before
    browser.find_element("css selector", ".theme").click()
    assert browser.execute_script(read) == before


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_nothing_is_wider_than_the_screen(browser: Any, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 700},
    )
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_search_opens_without_complaint_and_sorts(browser: Any, tmp_path: Path) -> None:
    """Its drawing has points without steps, which the arrow keys do not walk."""
    (tmp_path / "ablation.json").write_text("{}")
    trials = [
        {"number": number, "state": "finished", "params": {"adapter.rank": 2**number},
         "figures": {"dev_wer": 40.0 - number, "canary_loss": 0.5, "canary_held": True}}
        for number in (1, 2, 3)
    ]  # fmt: skip
    (tmp_path / "trials.json").write_text(json.dumps(trials))
    browser.get_log("browser")
    browser.get(write_report(tmp_path, None, SilentProgress()).report.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "true"
    assert browser.get_log("browser") == []
    read = (
        "return [...document.querySelector('table.trials').tBodies[0].rows]"
        ".map((row) => row.cells[0].firstChild.textContent.trim())"
    )
    by_wer = browser.find_elements("css selector", "table.trials .sort")[1]
    # At once: while the page scrolls to it, a click may land beside it.
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", by_wer
    )
    by_wer.click()
    assert browser.execute_script(read) == ["1", "2", "3"]  # the highest WER first
    by_wer.click()
    assert browser.execute_script(read) == ["3", "2", "1"]
    browser.back()
