"""The picture of a report that the README shows: `python -m benchmarks.picture demo-out`.

Needs Selenium and the system's Chromium with its driver. The report is written anew, so that the
picture shows the page as it is now, and its top is taken at a desktop's width in light colors.
"""

import argparse
import base64
import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.report.page import write_report

WIDTH, HEIGHT = 1400, 1000
MAX_BYTES = 250_000
# The page has few colors: a palette of this size is a third of the bytes and looks the same.
_COLORS = 128


def take(page: Path, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """The top of a page in light colors, as PNG.

    Raises:
        RuntimeError: there is no Chromium, or the page complained in the console.
    """
    from selenium import webdriver

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        raise RuntimeError("no Chromium with its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    words = (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "hide-scrollbars",
    )
    for word in words:
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        light = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", light)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chrome.get(page.absolute().as_uri())
        told = chrome.get_log("browser")  # type: ignore[no-untyped-call]
        if told:
            raise RuntimeError(f"the page complains: {told}")
        shot = chrome.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        return base64.b64decode(shot["data"])
    finally:
        chrome.quit()


def main() -> int:
    """Take the picture and write it; 1 where it is larger than a README should carry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo-out"))
    parser.add_argument("--out", type=Path, default=Path("docs/assets/report.png"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report(asked.folder, page, SilentProgress())
        picture = Image.open(io.BytesIO(take(page))).convert("RGB").quantize(_COLORS)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(asked.out, optimize=True)
    size = asked.out.stat().st_size
    sys.stdout.write(f"{asked.out}: {picture.width}x{picture.height}, {size:,} bytes\n")
    return int(size > MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
