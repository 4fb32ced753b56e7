"""Take the two pictures of the page of docs/viewer.md, in a headless Chromium.

llmbrain run --out demo-study && python benchmarks/viewer_figures.py demo-study
"""

import argparse
import base64
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import chromium  # noqa: E402

WIDTH, SHOWN = 1280, 1000  # pixels of the screen, and of the pictures
TEXT = (
    "The lighthouse keeper counted 12 ships before midnight. “Three more,” she said, and wrote the number down. "
    "In 1987 there had been 40, and the year after that only 7.\n\nThe harbour was quiet. Nobody asked why the lamp "
    "had gone out twice, or who had lit it again."
)
TYPE = """const e = document.getElementById(arguments[0]); e.value = arguments[1];
e.dispatchEvent(new Event('input', {bubbles: true}));"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("study", help="folder of a finished study of the demo model")
parser.add_argument("--out", default=ROOT / "docs" / "images", help="folder of the pictures")
arguments = parser.parse_args()


def wait(driver, script):
    """Wait until a script returns something true."""
    WebDriverWait(driver, 120, 0.1).until(lambda d: d.execute_script(f"return {script}"))


def take(driver, name):
    """Save the whole page as a picture."""
    height = driver.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    picture = picture.resize((SHOWN, round(height * SHOWN / WIDTH)), Image.LANCZOS)
    picture.save(Path(arguments.out) / f"viewer-{name}.webp", quality=85)


command = [sys.executable, "-u", "-m", "llmbrain", "view", arguments.study, "--no-browser"]
with (
    tempfile.TemporaryDirectory() as profile,
    subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
):
    driver = chromium.start(profile)
    try:
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        chromium.show(driver, address, WIDTH)
        wait(driver, "document.body.dataset.ready && document.getElementById('state').className.includes('ready')")
        driver.execute_script(TYPE, "text", TEXT)
        wait(driver, "document.getElementById('words').textContent.includes('lit it again')")
        driver.execute_script(TYPE, "token", "31")
        take(driver, "read")
        driver.execute_script("document.getElementById('tab-lesions').click()")
        driver.execute_script(TYPE, "lesion-text", TEXT)
        driver.execute_script("document.getElementById('silence').click()")
        wait(driver, "document.getElementById('silence').textContent.trim() === 'Lesion' && "
             "document.querySelectorAll('#written p').length === 3")  # fmt: skip
        take(driver, "lesions")
    finally:
        driver.quit()
        server.terminate()
