"""The studio's page in a real Chromium, for benchmarks, pictures and tests.

Needs Selenium and the system's Chromium with its driver.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_READY = "return document.documentElement.dataset.ready"
_POLL_S = 0.03


@contextmanager
def open_studio(folder: Path, *arguments: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A studio on a project folder in a process of its own: the address of its page, the process.

    Raises:
        RuntimeError: it ended before it listened.
    """
    command = [sys.executable, "-m", "moonshine_tune", "studio", str(folder), "--no-browser"]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address.startswith("http"):
            raise RuntimeError(f"the studio ended with {process.wait()}: {address}")
        yield address, process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def open_browser(microphone: Path | None = None, profile: Path | None = None) -> Any:
    """A headless Chromium, whose microphone is a WAV file that starts when it is opened.

    Args:
        microphone: WAV file; it is repeated.
        profile: folder that the browser keeps its storage in.

    Raises:
        RuntimeError: there is no Chromium.
    """
    from selenium import webdriver

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        raise RuntimeError("no Chromium with its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    words = [
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "hide-scrollbars",
        "autoplay-policy=no-user-gesture-required",
        "window-size=1280,1000",
        "use-fake-ui-for-media-stream",
        "use-fake-device-for-media-stream",
    ]
    if microphone is not None:
        words.append(f"use-file-for-fake-audio-capture={microphone}")
    if profile is not None:
        words.append(f"user-data-dir={profile}")
    for word in words:
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_script_timeout(30)
    return chrome


def visit(browser: Any, address: str, view: str = "") -> None:
    """Open the page, or another view of it, and wait until it is there."""
    browser.get(f"{address}#/{view}" if view else address)
    wait_for(browser, f"{_READY} === 'true'")


def show(browser: Any, view: str) -> None:
    """Go to another view of the open page."""
    browser.execute_script(
        "document.documentElement.dataset.ready = 'false'; location.hash = arguments[0]",
        f"#/{view}",
    )
    wait_for(browser, f"{_READY} === 'true'")


def wait_for(browser: Any, script: str, seconds: float = 180.0) -> Any:
    """The value of a script once it is true.

    Raises:
        TimeoutError: it did not become true; with what the console says.
    """
    end = time.monotonic() + seconds
    while True:
        value = browser.execute_script(script if "return" in script else f"return {script}")
        if value:
            return value
        if time.monotonic() > end:
            notices = browser.execute_script("return document.getElementById('notices')?.innerText")
            raise TimeoutError(f"{script}: {notices} {browser.get_log('browser')}")
        time.sleep(_POLL_S)
