"""The pictures of the studio in guide and README: `python -m benchmarks.studio_pictures`.

Needs Selenium, the system's Chromium with its driver, and the recordings of AN4. Both pictures are
of a new project on the tiny model: a sentence that is being recorded, and recordings to label.
"""

import argparse
import base64
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from PIL import Image

from benchmarks.acceptance import SHARED
from benchmarks.picture import MAX_BYTES
from benchmarks.studio_effort import drop, fewest_keys, press
from benchmarks.studio_page import open_browser, open_studio, show, visit, wait_for

WIDTH = 1400
_CLIPS, _LABELED = 14, 5
_COLORS = 96
_PROMPTS = (
    "Cleared for takeoff, runway two seven left.",
    "Turn right heading zero niner zero.",
    "Descend and maintain flight level one eight zero.",
    "Hold short of runway three four.",
    "Contact tower on one one eight decimal seven.",
    "Say again your altitude.",
)


def take(browser: Any, height: int) -> Image.Image:
    """The top of the page as it is shown."""
    browser.execute_script("scrollTo(0, 0)")
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot",
        {"format": "png", "clip": {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}},
    )
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


def write_microphone(path: Path, recording: Path) -> None:
    """A WAV file with a recording after half a second of a quiet room."""
    samples, rate = soundfile.read(recording)
    sound = soxr.resample(samples, rate, 48_000)
    room = 1e-4 * np.random.default_rng(0).standard_normal(24_000)
    loud = 0.6 * sound / np.abs(sound).max()
    soundfile.write(path, np.concatenate([room, loud, loud, loud]), 48_000)


def recording_picture(browser: Any) -> Image.Image:
    """A sentence that is being spoken."""
    browser.execute_async_script(
        "const [text, done] = arguments;"
        "fetch('/api/prompts', {method: 'POST', headers: {'Content-Type': 'application/json'},"
        " body: JSON.stringify({source: 'list', text})}).then(() => done())",
        "\n".join(_PROMPTS),
    )
    show(browser, "record")
    browser.find_element("tag name", "body").send_keys(" ")
    wait_for(browser, "[...document.querySelectorAll('.meter rect')].filter("
                      "(bar) => bar.getAttribute('height') > 12).length > 18")  # fmt: skip
    return take(browser, 700)


def label_picture(browser: Any, files: list[Path], references: dict[str, str]) -> Image.Image:
    """Recordings to label, after some were corrected."""
    from selenium.webdriver import ActionChains, Keys

    show(browser, "label")
    drop(browser, files)
    for left in range(len(files), len(files) - _LABELED, -1):
        wait_for(browser, f"document.querySelectorAll('.queue li').length === {left}")
        name, text = browser.execute_script(
            "return [document.querySelector('.editor .eyebrow').textContent,"
            " document.getElementById('text').value]"
        )
        press(browser, fewest_keys(text, references[Path(name).stem]))
        ActionChains(browser).send_keys(Keys.ENTER).perform()
    left = len(files) - _LABELED
    wait_for(browser, f"document.querySelectorAll('.queue li').length === {left}")
    return take(browser, 760)


def main() -> int:
    """Take the pictures and write them; 1 where one is larger than a README should carry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/assets"))
    arguments = parser.parse_args()
    manifest = SHARED / "an4" / "test.jsonl"
    lines = list(map(json.loads, manifest.read_text("utf-8").splitlines()))[:_CLIPS]
    files = [manifest.parent / line["audio"] for line in lines]
    references = {path.stem: line["text"] for path, line in zip(files, lines, strict=True)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_microphone(folder / "voice.wav", files[0])
        with open_studio(folder / "my-voice", "--model", "tiny") as (address, _):
            browser = open_browser(folder / "voice.wav")
            try:
                light = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", light)
                size = {"width": WIDTH, "height": 800, "deviceScaleFactor": 1, "mobile": False}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                visit(browser, address)
                browser.execute_script("localStorage.setItem('studio-play-each', 'false')")
                pictures = {"studio-record.png": recording_picture(browser)}
                pictures["studio-label.png"] = label_picture(browser, files, references)
            finally:
                browser.quit()
    is_large = False
    for file, picture in pictures.items():
        path = arguments.out / file
        picture.quantize(_COLORS).save(path, optimize=True)
        sys.stdout.write(
            f"{path}: {picture.width}x{picture.height}, {path.stat().st_size:,} bytes\n"
        )
        is_large |= path.stat().st_size > MAX_BYTES
    return int(is_large)


if __name__ == "__main__":
    sys.exit(main())
