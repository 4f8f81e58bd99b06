"""The studio in a real browser whose microphone is a file.

Needs Selenium and the system's Chromium with its driver; skipped with the reason where they lack.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from benchmarks.studio_effort import fewest_keys
from benchmarks.studio_page import open_browser, open_studio, show, visit, wait_for

pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
pytest.importorskip("starlette", reason="the extra `studio` is not installed")
pytest.importorskip("uvicorn", reason="the extra `studio` is not installed")
pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="Chromium or its driver is not installed",
)

_RATE = 48_000
# Of the sentence whose samples are compared.
_TAKES = 4
_ATTACK = '<img src=x onerror="window.attacked=1">'


def spoken(seconds: float = 1.6, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Noise with the rhythm of syllables, mono 48 kHz."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * _RATE)) / _RATE
    rhythm = np.clip(np.sin(2 * np.pi * 3.1 * time), 0.02, None)
    smooth = np.convolve(rng.standard_normal(time.size), np.ones(24) / 24, "same")
    return 0.25 * rhythm * smooth / np.abs(smooth).max()


def with_silence(sound: np.ndarray[Any, Any], before: float = 1.0, after: float = 4.0) -> Any:
    """A sound in a quiet room."""
    room = 1e-4 * np.random.default_rng(9).standard_normal(round((before + after) * _RATE))
    split = round(before * _RATE)
    return np.concatenate([room[:split], sound, room[split:]])


def correlation(stored: Path, fed: np.ndarray[Any, Any]) -> float:
    """Of a stored recording with the same part of what was fed to the microphone."""
    import soxr

    samples, rate = soundfile.read(stored)
    assert (rate, samples.ndim) == (16_000, 1)
    # Where a sample of 16 kHz lies between two of the microphone, they are compared at its rate.
    samples = soxr.resample(samples, rate, _RATE)
    fed = soxr.resample(soxr.resample(fed, _RATE, rate), rate, _RATE)
    reference = np.concatenate([np.zeros(samples.size), fed, np.zeros(samples.size)])
    size = 1 << (reference.size + samples.size).bit_length()
    product = np.fft.rfft(reference, size) * np.conj(np.fft.rfft(samples, size))
    start = int(np.argmax(np.fft.irfft(product, size)[: reference.size - samples.size]))
    return float(np.corrcoef(samples, reference[start : start + samples.size])[0, 1])


def rows(folder: Path, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    """The lines of a manifest of the project."""
    path = folder / name
    return list(map(json.loads, path.read_text("utf-8").splitlines())) if path.exists() else []


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio") / "project"


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("microphone") / "voice.wav"
    soundfile.write(path, with_silence(spoken()), _RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def address(project: Path, saved_v1: Path) -> Iterator[str]:
    with open_studio(project, "--model", str(saved_v1)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser(address: str, microphone: Path) -> Iterator[Any]:
    driver = open_browser(microphone)
    visit(driver, address)
    driver.execute_script("localStorage.setItem('studio-play-each', 'false')")
    yield driver
    driver.quit()


def add_prompts(browser: Any, *texts: str) -> None:
    show(browser, "record")
    form = "[data-form=list]"
    shown = "[...document.querySelectorAll('.prompt-forms')].find((box) => box.checkVisibility())"
    browser.execute_script(
        "document.querySelector('.more-prompts').open = true;"
        f"{shown}.querySelector('{form} textarea').value = arguments[0];"
        f"{shown}.querySelector('{form}').requestSubmit();",
        "\n".join(texts),
    )
    # A page whose sentences are all recorded shows its stage already.
    wait_for(
        browser,
        "!document.querySelector('.stage').hidden"
        " && document.querySelector('.stage').dataset.state !== 'complete'",
    )


def record(browser: Any) -> str:
    """Press the space bar and wait for the verdict: accepted or refused."""
    browser.find_element("tag name", "body").send_keys(" ")
    wait_for(browser, "document.querySelector('.stage').dataset.state === 'recording'")
    return str(
        wait_for(
            browser,
            "return document.querySelector('.stage').dataset.state !== 'recording'"
            " && document.querySelector('.stage').dataset.state !== 'judging'"
            " && document.querySelector('.verdict-line')?.classList[1]",
        )
    )


def record_again(browser: Any, project: Path) -> dict[str, Any]:
    """Replace the only recording of the project, that of the sentence before `Turn right`."""
    (first,) = rows(project)
    browser.find_element("tag name", "body").send_keys("r")
    wait_for(browser, "document.querySelector('.stage').dataset.state === 'recording'")
    assert rows(project) == [first]
    wait_for(browser, "document.querySelector('.verdict-line.accepted')")
    wait_for(browser, "document.getElementById('prompt').textContent === 'Turn right'")
    (second,) = rows(project)
    return second


def test_a_recording_is_kept_as_it_was_spoken(
    browser: Any, project: Path, microphone: Path
) -> None:
    add_prompts(browser, f"Turn left {_ATTACK}", "Turn right")
    assert browser.find_element("id", "prompt").text == f"Turn left {_ATTACK}"
    assert record(browser) == "accepted"
    (row,) = rows(project)
    assert row["text"] == f"Turn left {_ATTACK}"
    fed, _ = soundfile.read(microphone)
    # Chromium leaves out parts of the file that it plays where the machine has no time for it.
    for _ in range(_TAKES - 1):
        if correlation(project / row["audio"], fed) >= 0.99:
            break
        row = record_again(browser, project)
    assert correlation(project / row["audio"], fed) >= 0.99
    # Silence before and after is cut, and speech is not.
    assert 1.5 < soundfile.info(project / row["audio"]).duration < 4
    assert browser.find_element("id", "prompt").text == "Turn right"


def test_a_recording_made_again_replaces_the_first_one(browser: Any, project: Path) -> None:
    (first,) = rows(project)
    second = record_again(browser, project)
    assert (second["text"], second["id"] != first["id"]) == (first["text"], True)


def test_a_clip_is_labeled_by_keys_alone(browser: Any, project: Path, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    path = tmp_path / f"{_ATTACK}.wav"
    soundfile.write(path, with_silence(spoken(1.2, 1), 0.2, 0.2), _RATE)
    show(browser, "label")
    browser.find_element("id", "files").send_keys(str(path))
    wait_for(browser, "!document.querySelector('.uploads li') && document.getElementById('text')")
    keys = ActionChains(browser)
    keys.key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL)
    keys.send_keys("hold short", Keys.ENTER).perform()
    wait_for(browser, "!document.getElementById('text')")
    labeled = next(row for row in rows(project) if row["text"] == "hold short")
    assert labeled["keystrokes"] == len("hold short") + 2
    undo = ActionChains(browser)
    undo.key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    wait_for(browser, "document.activeElement.id === 'text'")
    assert [row["text"] for row in rows(project)] == [f"Turn left {_ATTACK}"]


_HOLD_LIST = """
const ask = window.fetch;
window.fetch = async (path, ...rest) => {
  const answer = await ask(path, ...rest);
  if (window.held || !String(path).includes("state=unlabelled")) return answer;
  await new Promise((resolve) => { window.held = resolve; });
  window.fetch = ask;
  return answer;
};
"""


def test_an_accepted_clip_is_not_back_when_more_arrive(
    browser: Any, project: Path, tmp_path: Path
) -> None:
    from selenium.webdriver import Keys

    def drop(seed: int) -> None:
        path = tmp_path / f"arrives-{seed}.wav"
        soundfile.write(path, with_silence(spoken(1.2, seed), 0.2, 0.2), _RATE)
        browser.find_element("id", "files").send_keys(str(path))

    def waits(number: int) -> str:
        count = "document.querySelector('[data-state=unlabelled] .count').textContent"
        return f"!document.querySelector('.uploads li') && {count} === '{number}'"

    drop(2)
    wait_for(browser, waits(2))
    browser.execute_script(_HOLD_LIST)
    drop(3)
    wait_for(browser, "typeof window.held === 'function'")
    name = browser.find_element("css selector", ".editor .eyebrow").text
    browser.find_element("id", "text").send_keys("cleared to land", Keys.ENTER)
    eyebrow = "document.querySelector('.editor .eyebrow').textContent"
    wait_for(browser, f"{eyebrow} !== '{name}'")
    browser.execute_script("window.held()")
    wait_for(browser, waits(2))
    assert len(browser.find_elements("css selector", ".queue-item")) == 2
    # As it was for the tests that follow.
    browser.execute_script("document.getElementById('undo').click()")
    wait_for(browser, waits(3))


@pytest.mark.parametrize(
    ("accepted", "transcript", "proposed"),
    [
        ([], "M-c-k, 1 2.", "M-c-k, 1 2."),
        ([("M-c-k-1-2.", "M C K one two"), ("Stop.", "Stop")], "G-o, 50.", "G O five zero"),
        # What is mostly wrong says nothing about spelling, and nothing else is learned from it.
        ([("I SAY NO", "what a lovely day"), ("It is.", "It is.")], "We GO.", "We GO."),
        ([("a robout now", "a rubout now"), ("robout it", "rubout it")], "robout", "rubout"),
    ],
)
def test_a_text_is_proposed_as_the_accepted_ones_are_spelled(
    browser: Any, accepted: list[tuple[str, str]], transcript: str, proposed: str
) -> None:
    script = (
        "const [pairs, transcript, done] = arguments;"
        "import('/static/spelling.js').then(({Spelling}) =>"
        " done(new Spelling(pairs).apply(transcript)))"
    )
    assert browser.execute_async_script(script, accepted, transcript) == proposed


def test_texts_and_file_names_stay_texts(browser: Any) -> None:
    for view in ("record", "label", "train", "results"):
        show(browser, view)
        assert browser.find_elements("css selector", "img, main script") == []
    assert browser.execute_script("return window.attacked") is None
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(browser: Any, scheme: str) -> None:
    """The contrast of every text with what is behind it is at least 4.5."""
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for view in ("record", "label", "train", "results"):
        show(browser, view)
        assert browser.execute_script(_LOW_CONTRAST) == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_is_wider_than_a_phone(browser: Any) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for view in ("record", "label", "train", "results"):
        show(browser, view)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        unnamed = browser.execute_script(
            "return [...document.querySelectorAll('button, a, input, select, textarea')].filter("
            "(item) => item.checkVisibility() && !(item.textContent.trim() || item.ariaLabel ||"
            " item.labels?.length)).map((item) => item.outerHTML)"
        )
        assert unnamed == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_recordings_wait_in_the_browser_for_a_studio_that_is_gone(
    project: Path, microphone: Path, saved_v1: Path, tmp_path: Path
) -> None:
    """The studio dies, then the browser is killed; nothing that was spoken is lost."""
    folder, profile = tmp_path / "project", tmp_path / "profile"
    with open_studio(folder, "--model", str(saved_v1)) as (address, process):
        driver = open_browser(microphone, profile)
        visit(driver, address)
        add_prompts(driver, "Hold short", "Line up")
        process.kill()
        process.wait()
        driver.find_element("tag name", "body").send_keys(" ")
        wait_for(driver, "!document.querySelector('.kept').hidden")
        assert driver.find_element("id", "prompt").text == "Line up"
        kill(driver)
    assert rows(folder) == []
    with open_studio(folder, "--model", str(saved_v1)) as (again, _):
        assert again.split("?")[0] == address.split("?")[0]
        driver = open_browser(microphone, profile)
        try:
            visit(driver, again)
            # Before the page has looked for what waits, it shows neither.
            end = time.monotonic() + 60
            while not rows(folder) and time.monotonic() < end:
                time.sleep(0.1)
            wait_for(driver, "document.querySelector('.kept').hidden")
            wait_for(driver, "document.getElementById('prompt').textContent === 'Line up'")
            assert [row["text"] for row in rows(folder)] == ["Hold short"]
        finally:
            driver.quit()


@pytest.mark.slow
def test_a_browser_that_is_killed_ten_times_loses_nothing_that_it_called_kept(
    microphone: Path, saved_v1: Path, tmp_path: Path
) -> None:
    folder, profile = tmp_path / "project", tmp_path / "profile"
    moments = np.random.default_rng(5).uniform(0.2, 9, 10)
    shown = "return document.querySelector('.verdict-line.accepted [dir=auto]')?.textContent"
    kept: set[str] = set()
    with open_studio(folder, "--model", str(saved_v1)) as (address, _):
        for number, moment in enumerate(moments):
            driver = open_browser(microphone, profile)
            visit(driver, address)
            if number == 0:
                add_prompts(driver, *(f"Sentence {n}" for n in range(40)))
                driver.execute_script("localStorage.setItem('studio-hands-free', 'true')")
            driver.find_element("tag name", "body").send_keys(" ")
            end = time.monotonic() + moment
            while time.monotonic() < end:
                kept |= {driver.execute_script(shown)} - {None}
            kill(driver)
        driver = open_browser(microphone, profile)
        try:
            visit(driver, address)
            wait_for(driver, "document.querySelector('.kept').hidden")
        finally:
            driver.quit()
    texts = [row["text"] for row in rows(folder)]
    assert len(texts) == len(set(texts)) > 0
    assert kept <= set(texts)


def kill(driver: Any) -> None:
    """Kill a browser as a crash would."""
    import os
    import signal

    import psutil

    service = driver.service.process.pid
    for process in [*psutil.Process(service).children(recursive=True), psutil.Process(service)]:
        os.kill(process.pid, signal.SIGKILL)
    driver.service.process.wait()


@pytest.mark.parametrize(
    ("text", "wanted", "number"),
    [
        ("Go.", "Go", 2),
        ("Go", "Go", 0),
        ("", "Go", 2),
        ("one o four", "one oh four", 3),
        ("K A U F M A M", "K A U F M A N", 3),
    ],
)
def test_the_fewest_keys_of_a_correction(text: str, wanted: str, number: int) -> None:
    assert len(fewest_keys(text, wanted)) == number


# Colors of the texts that are shown, on the nearest background that is not transparent.
_LOW_CONTRAST = """
const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
const context = canvas.getContext('2d', {willReadFrequently: true});
const mix = (colors) => {
  context.clearRect(0, 0, 1, 1);
  for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (rgb) => rgb.map((value) => value / 255)
  .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const low = [];
for (const element of document.querySelectorAll('body *')) {
  const texts = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
  if (!texts.length || !element.checkVisibility()) continue;
  if (element.closest(':disabled, .visually-hidden')) continue;
  const behind = [];
  for (let box = element; box; box = box.parentElement) {
    behind.unshift(getComputedStyle(box).backgroundColor);
  }
  const ground = ['Canvas', ...behind];
  const [a, b] = [light(mix(ground)), light(mix([...ground, getComputedStyle(element).color]))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${element.className} ${texts[0].data}`);
}
return low;
"""
