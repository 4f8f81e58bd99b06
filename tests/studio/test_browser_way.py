"""The whole way in the browser, with the real tiny model and real speech.

Needs Selenium and the system's Chromium with its driver; skipped with the reason where they lack.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from benchmarks.studio_effort import drop, fewest_keys, press
from benchmarks.studio_page import open_browser, open_studio, show, visit, wait_for
from tests.studio.test_browser import add_prompts, correlation, record, rows, with_silence

pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
pytest.importorskip("starlette", reason="the extra `studio` is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_model,
    pytest.mark.shared_data,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="Chromium or its driver is not installed",
    ),
]

_RATE = 48_000


def utterances(shared_data: Path) -> list[tuple[Path, str]]:
    """Recordings of AN4 with their texts."""
    manifest = shared_data / "an4" / "test.jsonl"
    lines = map(json.loads, manifest.read_text("utf-8").splitlines())
    return [(manifest.parent / line["audio"], line["text"]) for line in lines]


def microphone(path: Path, recording: Path, fault: str = "") -> np.ndarray[Any, Any]:
    """Write what a microphone gets of a recording; its samples."""
    import soxr

    samples, rate = soundfile.read(recording)
    sound = soxr.resample(samples, rate, _RATE)
    sound *= 0.5 / np.abs(sound).max()
    if fault == "clipped":
        sound = np.clip(sound * 12, -0.999, 0.999)
    fed = with_silence(np.zeros(_RATE) if fault == "silent" else sound)
    soundfile.write(path, np.zeros_like(fed) if fault == "silent" else fed, _RATE, "PCM_16")
    return fed


def test_spoken_sentences_are_kept(tmp_path: Path, shared_data: Path) -> None:
    with open_studio(tmp_path / "project", "--model", "tiny") as (address, _):
        for number, (recording, text) in enumerate(utterances(shared_data)[:3]):
            fed = microphone(tmp_path / "voice.wav", recording)
            driver = open_browser(tmp_path / "voice.wav")
            try:
                visit(driver, address)
                add_prompts(driver, text)
                assert record(driver) == "accepted"
            finally:
                driver.quit()
            row = rows(tmp_path / "project")[number]
            assert row["text"] == text
            assert correlation(tmp_path / "project" / row["audio"], fed) >= 0.99


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ("silent", {"silent", "far_too_short", "too_quiet"}),
        ("clipped", {"clipped"}),
        ("another sentence", {"doubtful_text", "words_missing", "words_not_said"}),
    ],
)
def test_faults_are_refused_with_their_reason(
    tmp_path: Path, shared_data: Path, fault: str, names: set[str]
) -> None:
    (recording, text), (_, another), *_ = utterances(shared_data)
    microphone(tmp_path / "voice.wav", recording, fault)
    with open_studio(tmp_path / "project", "--model", "tiny") as (address, _):
        driver = open_browser(tmp_path / "voice.wav")
        try:
            visit(driver, address)
            add_prompts(driver, another if fault == "another sentence" else text)
            assert record(driver) == "refused"
            named = driver.execute_script(
                "return [...document.querySelectorAll('[data-finding]')]"
                ".map((item) => item.dataset.finding)"
            )
            assert set(named) & names, named
            assert rows(tmp_path / "project") == []
        finally:
            driver.quit()


def test_drop_label_train_see_try_and_export(tmp_path: Path, shared_data: Path) -> None:
    chosen = utterances(shared_data)[:12]
    folder = tmp_path / "project"
    texts = {path.stem: text for path, text in chosen}
    with open_studio(folder, "--model", "tiny") as (address, _):
        driver = open_browser()
        try:
            visit(driver, address)
            driver.execute_script("localStorage.setItem('studio-play-each', 'false')")
            show(driver, "label")
            drop(driver, [path for path, _ in chosen])
            _label(driver, texts, corrections=2)
            assert len(rows(folder)) == 12
            assert sum(row["text"] == texts[Path(row["audio"]).stem] for row in rows(folder)) >= 2
            _train(driver)
            _try_and_export(driver, chosen[0][0])
            severe = [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
            assert severe == []
        finally:
            driver.quit()
    assert (folder / "runs" / "run-1" / "adapter").is_dir()
    assert [path.name for path in (folder / "packages").iterdir()] == ["run-1.tar.gz"]


def _label(driver: Any, texts: dict[str, str], corrections: int) -> None:
    """Accept every clip, the first ones corrected to their text."""
    from selenium.webdriver import ActionChains, Keys

    for left in range(len(texts), 0, -1):
        wait_for(driver, f"document.querySelectorAll('.queue li').length === {left}")
        name, proposed = wait_for(
            driver,
            "return document.activeElement.id === 'text'"
            " && [document.querySelector('.editor .eyebrow').textContent,"
            " document.getElementById('text').value]",
        )
        if len(texts) - left < corrections:
            press(driver, fewest_keys(proposed, texts[Path(name).stem]))
        ActionChains(driver).send_keys(Keys.ENTER).perform()
    wait_for(driver, "!document.getElementById('text')")


def _train(driver: Any) -> None:
    """See the plan, train four steps, and see their curve."""
    show(driver, "train")
    wait_for(driver, "document.getElementById('start')", 600)
    started = driver.execute_async_script(
        "const done = arguments[0];"
        "fetch('/api/jobs', {method: 'POST', headers: {'Content-Type': 'application/json'},"
        " body: JSON.stringify({kind: 'train', max_steps: 4})})"
        ".then((answer) => done(answer.status))"
    )
    assert started == 200
    # A page that is opened later shows the training that runs.
    driver.execute_script("location.hash = '#/record'")
    driver.execute_script("location.hash = '#/train'")
    wait_for(driver, "document.querySelector('.job progress')")
    wait_for(driver, "document.getElementById('see-results')", 1800)
    assert driver.find_elements("css selector", ".live-view svg.chart")


def _try_and_export(driver: Any, recording: Path) -> None:
    driver.execute_script("document.getElementById('see-results').click()")
    wait_for(driver, "document.querySelectorAll('.side-by-side .card .words').length >= 2")
    driver.find_element("id", "try-file").send_keys(str(recording))
    wait_for(driver, "document.querySelectorAll('.try-result dd').length === 2", 300)
    driver.execute_script("document.getElementById('export').click()")
    # A dozen recordings may be too few to decide: the files can be taken along all the same.
    wait_for(driver, "document.querySelector('.exported .gate:not(.failed)')", 1800)
    driver.execute_script("document.getElementById('package').click()")
    wait_for(driver, "document.querySelector('.package a')", 600)
    sizes = driver.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...document.querySelectorAll('.exported a')].map((link) =>"
        " fetch(link.href).then((answer) => answer.blob()).then((blob) => blob.size))).then(done)"
    )
    assert min(sizes) > 1_000_000, sizes
