"""The page in a real browser: paste a text, move the threshold, silence a network, save a label and reload.

Needs Chromium and its driver (Debian: ``apt-get install chromium chromium-driver``) and selenium; skipped without.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import chromium
import pytest
from recorded import HERON

from llmbrain.networks import NetworkSet
from llmbrain.networks.labels import HandLabels

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install selenium)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (pip install uvicorn)")
pytestmark = chromium.MARKS


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    return shutil.copytree(made[0], tmp_path_factory.mktemp("browser") / "study")


@pytest.fixture(scope="module")
def address(folder, tiny, tmp_path_factory):
    """The command ``llmbrain view`` as a user starts it, in a process of its own."""
    model = tmp_path_factory.mktemp("model")
    for part in tiny:
        part.save_pretrained(model)
    with served(folder, tmp_path_factory.mktemp("log") / "view.txt", "--model", str(model)) as found:
        yield found


@contextlib.contextmanager
def served(folder, log, *options):
    command = [sys.executable, "-m", "llmbrain", "view", str(folder), *options, "--no-browser"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w+") as said, subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=env) as server:
        try:
            yield _printed_address(server, said)
        finally:  # Popen would wait for it without end
            server.send_signal(signal.SIGINT)
            server.wait(30)


def _printed_address(server, log, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        log.seek(0)
        if found := re.search(r"http://\S+/", log.read()):
            return found[0]
        time.sleep(0.1)
    log.seek(0)
    server.kill()
    raise AssertionError(f"The page did not open:\n{log.read()}")


@pytest.fixture
def driver(tmp_path):
    """A fresh browser for each test: one that hangs must not take the others along."""
    found = chromium.start(tmp_path / "profile", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    yield found
    found.quit()


@pytest.fixture
def page(driver, address):
    """The page, opened afresh; it must not have written to the console when the test ends."""
    open_page(driver, address)
    yield driver
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def open_page(driver, address, width=1280, theme="light"):
    chromium.show(driver, address, width, theme)
    wait(driver, "return document.body.dataset.ready && document.getElementById('state').className.includes('ready')")
    wait(driver, "return document.querySelectorAll('#words span[data-i]').length > 5")


def wait(driver, script, *arguments, seconds=30):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds, 0.05).until(lambda d: d.execute_script(script, *arguments))


def type_into(driver, element, value, event="input"):
    driver.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(arguments[2], {bubbles: true}));",
        element, value, event,
    )  # fmt: skip


def tab(driver, name):
    driver.execute_script("document.getElementById('tab-' + arguments[0]).click()", name)


SHADED = "return [...document.querySelectorAll('#words span')].filter(s => s.style.background).length"
PIXELS = """const c = document.getElementById(arguments[0]), p = new Uint32Array(
    c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer), n = {};
    for (const v of p) n[v] = (n[v] || 0) + 1; return Object.keys(n).length;"""


def test_a_pasted_text_is_read_shaded_and_followed(page):
    type_into(page, "text", HERON)
    wait(page, "return document.getElementById('words').textContent.includes('river')")
    n = page.execute_script("return document.querySelectorAll('#words span').length")
    assert n > 30 and page.execute_script(SHADED) > 5
    page.execute_script("document.getElementById('words').focus()")
    from selenium.webdriver.common.keys import Keys

    words = page.switch_to.active_element
    words.send_keys(Keys.HOME), words.send_keys(Keys.ARROW_RIGHT)
    assert page.execute_script("return document.querySelector('#words .at').dataset.i") == "1"
    assert page.execute_script("return document.getElementById('token').value") == "1"
    wait(page, "return document.getElementById('token-note').textContent === arguments[0]", f"2 of {n}")
    assert "surprisal" in page.execute_script("return document.getElementById('moment-title').textContent")
    wait(page, PIXELS.replace("length;", "length > 20;"), "moment")  # the map of the moment is drawn
    assert page.execute_script(PIXELS, "courses") > 20
    before = page.execute_script(SHADED)
    page.execute_script("let box; while (box = document.querySelector('#networks input:checked')) box.click()")
    assert page.execute_script(SHADED) == 0 < before


def test_z_is_under_the_pointer(page):
    from selenium.webdriver import ActionChains

    span = page.find_element("css selector", "#words span[data-i='3']")
    ActionChains(page).move_to_element(span).perform()
    wait(page, "return !document.getElementById('tip').hidden")
    said = page.execute_script("return document.getElementById('tip').textContent")
    assert "surprisal" in said and "z " in said and "network 0" in said or "0 ·" in said


def test_recorded_runs_can_be_scrolled(page):
    page.execute_script("document.getElementById('source-run').click()")
    wait(page, "return document.getElementById('read-note').textContent.includes('recorded tokens')")
    type_into(page, "token", "7")
    assert page.execute_script("return document.querySelector('#words .at').dataset.i") == "7"
    page.execute_script("document.getElementById('play').click()")
    wait(page, "return Number(document.getElementById('token').value) > 8")


def test_the_threshold_moves_and_maps_are_compared(page):
    tab(page, "maps")
    count = "return document.querySelector('#facts dd')?.textContent"
    wait(page, "return document.querySelectorAll('#facts dd').length > 3")
    first = page.execute_script(count)
    page.execute_script(
        "const s = document.querySelector('#map-tools .threshold'); s.value = 0.5; s.dispatchEvent(new Event('input'))"
    )
    wait(page, count.replace("textContent", "textContent !== arguments[0]"), first)
    assert int(page.execute_script(count)) > int(first)
    type_into(page, "map-b", "1", "change")
    wait(page, "return document.getElementById('facts-title').textContent.includes('against')")
    assert "Dice" in page.execute_script("return document.getElementById('facts').textContent")
    page.execute_script(
        "[...document.querySelectorAll('#map-tools button')].find(b => b.textContent === 'sheets').click()"
    )
    page.execute_script("[...document.querySelectorAll('#map-tools button')].find(b => b.textContent === '+').click()")
    wait(page, PIXELS.replace("length;", "length >= 3;"), "map")


def test_a_neuron_is_named_by_pointer_and_by_keys(page):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    tab(page, "maps")
    wait(page, "return document.querySelectorAll('#facts dd').length > 3")
    wait(page, PIXELS.replace("length;", "length > 1;"), "map")  # it is drawn
    canvas = page.find_element("id", "map")
    ActionChains(page).move_to_element(canvas).move_by_offset(7, 5).perform()
    wait(page, r"return /layer \d+, unit \d+/.test(document.getElementById('tip').textContent)")
    wait(page, "return document.getElementById('tip').textContent.includes('network')")
    canvas.click()
    page.execute_script("arguments[0].focus()", canvas)
    canvas.send_keys(Keys.ARROW_RIGHT)
    wait(page, "return document.getElementById('tip').textContent.includes('unit')")


def test_a_network_is_silenced_beside_a_control(page):
    tab(page, "lesions")
    type_into(page, "lesion-text", HERON)
    type_into(page, "lesion-threshold", "1")
    type_into(page, "new-tokens", "4")
    page.execute_script("document.getElementById('silence').click()")
    wait(page, "return !document.getElementById('lesion-result').hidden")
    wait(page, "return [...document.querySelectorAll('#written p')].every(p => !p.className) && "
         "document.querySelectorAll('#written p').length === 3")  # fmt: skip
    said = page.execute_script("return document.getElementById('lesion-lead').textContent")
    assert "Silencing" in said and "matched by layer" in said
    assert page.execute_script("return document.querySelectorAll('#next tbody tr').length") == 10
    shaded = "return [...document.querySelectorAll('#words-lesion span')].filter(s => s.style.background).length"
    assert page.execute_script(shaded) > 5


def test_without_a_model_the_page_says_what_cannot_be_done(driver, folder, tmp_path):
    with served(folder, tmp_path / "view.txt", "--no-model") as address:
        chromium.show(driver, address)
        wait(driver, "return document.body.dataset.ready")
        tab(driver, "lesions")
        said = wait(driver, "return document.getElementById('lesion-empty').textContent")
        assert "Without a model, nothing can be lesioned" in said
        assert driver.execute_script("return document.getElementById('silence').disabled")


def test_errors_are_sentences_in_the_page(page):
    tab(page, "lesions")
    type_into(page, "target", "typed")
    type_into(page, "typed", "somewhere")
    page.execute_script("document.getElementById('silence').click()")
    wait(page, "return document.getElementById('lesion-error').textContent.includes('layer:unit')")
    assert "422" in page.get_log("browser")[0]["message"]  # the browser notes the answer's status
    tab(page, "read")
    type_into(page, "text", " ")
    wait(page, "return document.getElementById('words').textContent.includes('Type or paste')")


def test_a_label_is_saved_by_keys_and_survives_a_reload(page, address, folder):
    from selenium.webdriver.common.keys import Keys

    tab(page, "labels")
    wait(page, "return document.querySelectorAll('#label-facts dd').length > 3")
    body = page.find_element("tag name", "body")
    title = "return document.getElementById('label-title').textContent"
    first = page.execute_script(title)
    body.send_keys(Keys.ARROW_DOWN)
    wait(page, f"{title} !== arguments[0]", first)
    k = int(page.execute_script(title).split()[1])
    body.send_keys("a")
    wait(page, "return document.getElementById('label-saved').textContent.startsWith('Saved')")
    body.send_keys("n")
    page.switch_to.active_element.send_keys("herons" + Keys.ENTER)
    wait(page, "return document.querySelector('#networks .named')?.textContent === 'herons'")
    body.send_keys("r")  # the keys work again
    wait(page, "return document.querySelector('#networks .rejected')")
    body.send_keys("a")
    wait(page, "return document.querySelector('#networks .mark.accepted')?.textContent === '✓'")
    labels = HandLabels.load(folder, NetworkSet.load(folder))
    assert (labels.accepted, labels.names[k]) == ([k], "herons")
    open_page(page, address)
    assert page.execute_script("return document.querySelector('#networks .named').textContent") == "herons"
    assert page.execute_script("return document.querySelectorAll('#networks .mark.accepted').length") == 1


def test_volumes_open_in_niivue(page):
    tab(page, "volumes")
    wait(
        page,
        "return document.getElementById('niivue').dataset.loaded || !document.getElementById('volume-error').hidden",
    )
    assert page.execute_script("return document.getElementById('volume-error').textContent") == ""
    assert page.execute_script("return document.getElementById('frame').max") == "2"  # three networks
    type_into(page, "frame", "2")
    assert page.execute_script("return document.getElementById('frame-note').textContent") == "2 (0 to 2)"
    page.get_log("browser")  # WebGL without a GPU leaves remarks


@pytest.mark.parametrize(("width", "theme"), [(1280, "dark"), (390, "light"), (390, "dark")])
def test_no_screen_scrolls_sideways(driver, address, width, theme):
    open_page(driver, address, width, theme)
    for name in ("read", "maps", "lesions", "labels", "volumes"):
        tab(driver, name)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width, name
