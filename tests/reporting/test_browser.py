"""Reports in a real browser: no errors, nothing loaded, every picture decoded, every control at work, on any screen.

Needs Chromium and its driver (Debian: ``apt-get install chromium chromium-driver``) and selenium; skipped without.
"""

import chromium
import pytest
from synthetic import DOSE_INFO, Networks, dose_table, lesion_tables, prune_table, report_data

from llmbrain.geometry import NeuronGeometry

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install selenium)")
pytestmark = chromium.MARKS


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A whole report, as a file."""
    data = report_data(NeuronGeometry.from_sizes([384] * 12), 8, 300)
    data.absent, data.warnings = ["One station is absent."], ["One thing needs care."]
    path = tmp_path_factory.mktemp("browser") / "report.html"
    data.page().save(path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium with a fresh profile; its own network is off, so that anything loaded fails loudly."""
    driver = chromium.start(tmp_path_factory.mktemp("profile"), "--disable-gpu", logs=("browser", "performance"))
    yield driver
    driver.quit()


def show(browser, report, width=1280, theme="light", fragment=""):
    chromium.show(browser, report.as_uri() + fragment, width, theme)


def test_no_errors_and_nothing_loaded(browser, report):
    import json

    browser.get_log("browser"), browser.get_log("performance")
    show(browser, report)
    assert browser.get_log("browser") == []
    requested = [
        message["params"]["request"]["url"]
        for message in (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requested if not url.startswith(("data:", "about:", report.as_uri()))] == []


def _single_results(folder):
    """One of each kind of result that has a report of its own: name -> object."""
    from tiny import tiny_model, tiny_tokenizer

    import llmbrain as lb
    from llmbrain.lesions import DoseResponse, LesionResult

    geometry = NeuronGeometry.from_sizes([96] * 6)
    corpus = lb.load_corpus("demo")
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    recording = lb.record(model, tokenizer, corpus, out=folder / "study", max_tokens=200, progress=False)
    table, controls = lesion_tables(4)
    return {
        "recording": recording,
        "decomposition": Networks(geometry, 4, 120),
        "lesions": LesionResult(table, controls, None, {}),
        "dose": DoseResponse(dose_table(), None, DOSE_INFO),
        "pruned": lb.prune(
            model, tokenizer, corpus[:1], 0.2, recipe="fast", options={"max_tokens": 256, "context": 64}
        ),
        "grid": prune_table(),
    }


@pytest.mark.filterwarnings("ignore")
def test_the_reports_of_single_results_open_too(browser, tmp_path):
    """A recording, a decomposition, lesions, dose and response, a pruned model, a pruning table."""
    from llmbrain.reporting import generate_report

    for name, result in _single_results(tmp_path).items():
        path = tmp_path / f"{name}.html"
        generate_report(result, output_file=path)
        for width, theme in ((1280, "light"), (390, "dark")):
            browser.get_log("browser")
            show(browser, path, width, theme)
            assert browser.get_log("browser") == [], name
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, name
            assert browser.execute_script(CONTRAST) == [], name
            assert browser.execute_script("return document.querySelectorAll('main section').length") >= 2, name


def test_every_picture_is_decoded(browser, report):
    show(browser, report)
    failed = browser.execute_async_script(
        """const done = arguments[0], images = [...document.querySelectorAll("img")];
        Promise.all(images.map(i => i.decode().then(() => i.naturalWidth > 0 && i.alt, () => false)))
          .then(r => done([images.length, r.filter(x => !x).length]));"""
    )
    assert failed == [9, 0]  # eight networks and a localizer
    inline = browser.execute_async_script(
        """const done = arguments[0];
        const urls = [...document.querySelectorAll("svg image")].map(i => i.getAttribute("href"));
        Promise.all(urls.map(u => { const i = new Image(); i.src = u; return i.decode().then(() => 1, () => 0); }))
          .then(r => done([urls.length, r.filter(x => !x).length]));"""
    )
    assert inline[0] >= 5 and inline[1] == 0


def test_every_link_leads_somewhere(browser, report):
    show(browser, report)
    dead = browser.execute_script(
        """return [...document.querySelectorAll("a[href]")].filter(a => !a.closest("#files"))
           .map(a => a.getAttribute("href"))
           .filter(h => !h.startsWith("#") || !document.getElementById(h.slice(1)));"""
    )
    assert dead == []


@pytest.mark.parametrize("width", [1280, 820, 390, 320])
def test_no_screen_scrolls_sideways(browser, report, width):
    show(browser, report, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = browser.execute_script(
        """return [...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll, pre, svg, .map"))
           .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80));"""
    )
    assert wide == []


def test_one_network_is_shown_and_the_reader_can_turn_pages(browser, report):
    show(browser, report)

    def shown():
        return browser.execute_script(
            "return [...document.querySelectorAll('.network')].filter(e => e.offsetParent !== null).map(e => e.id)"
        )

    def click(selector):
        browser.execute_script("document.querySelector(arguments[0]).click()", selector)

    assert shown() == ["network-00"]
    click(".network.shown .next")
    assert shown() == ["network-01"]
    click(".chips a[href='#network-06']")
    assert shown() == ["network-06"]
    current = browser.execute_script("return document.querySelector('.chips a[aria-current]').textContent")
    assert current.split()[0] == "6"
    click(".network.shown .next"), click(".network.shown .next")
    assert shown() == ["network-00"]
    browser.execute_script(
        """document.querySelector('.network.shown')
           .dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true}));"""
    )
    assert shown() == ["network-07"]
    show(browser, report, fragment="#network-05")
    assert shown() == ["network-05"]


def test_a_link_from_a_table_opens_the_network(browser, report):
    show(browser, report)
    browser.execute_script("document.querySelector('#networks td a[href=\"#network-04\"]').click()")
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 5).until(lambda b: b.execute_script("return document.activeElement.id") == "network-04")
    top = "return Math.abs(document.getElementById('network-04').getBoundingClientRect().top)"
    WebDriverWait(browser, 5).until(lambda b: b.execute_script(top) < 100)


def test_tables_sort_both_ways_by_value(browser, report):
    show(browser, report)
    column = """const t = document.querySelector('#lesions table'), heads = [...t.tHead.rows[0].cells],
        i = heads.findIndex(h => h.textContent === 'effect');
        if (arguments[0]) heads[i].querySelector('button').click();
        const values = [...t.tBodies[0].rows].map(r => parseFloat(r.cells[i].dataset.v));
        return [heads[i].getAttribute('aria-sort'), values];"""
    _, before = browser.execute_script(column, False)
    direction, down = browser.execute_script(column, True)
    assert direction == "descending" and down == sorted(before, reverse=True)
    direction, up = browser.execute_script(column, True)
    assert direction == "ascending" and up == sorted(before)


def test_light_and_dark_follow_the_system_and_the_button(browser, report):
    background = "return getComputedStyle(document.body).backgroundColor"
    show(browser, report, theme="light")
    light = browser.execute_script(background)
    browser.execute_script("document.getElementById('theme').click()")
    dark = browser.execute_script(background)
    assert light != dark and browser.execute_script("return document.getElementById('theme').textContent") == "Light"
    show(browser, report, theme="dark")
    assert browser.execute_script(background) == dark
    browser.execute_script("document.getElementById('theme').click()")
    assert browser.execute_script(background) == light


CONTRAST = """
const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3])).concat(1);
const linear = v => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
const lum = c => { const f = c.slice(0, 3).map(linear);
  return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = c => { if (c.startsWith("rgb")) return parse(c);
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
  const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
const behind = e => { const stack = [];
  for (let n = e; n; n = n.parentElement) stack.push(rgba(getComputedStyle(n).backgroundColor));
  return stack.reverse().reduce((a, b) => over(b, a), [255, 255, 255, 1]); };
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), poor = [];
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !e.offsetParent || e.closest("svg, script, style")) continue;
  const style = getComputedStyle(e), under = behind(e), a = lum(over(rgba(style.color), under)), b = lum(under);
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push([ratio.toFixed(2), e.outerHTML.slice(0, 90)]);
}
return poor;
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_has_the_contrast_of_wcag_aa(browser, report, theme):
    show(browser, report, theme=theme)
    assert browser.execute_script(CONTRAST) == []


def test_it_can_be_read_without_scripts(browser, report):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, report)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.network')].filter(e => e.offsetParent).length"
    )
    assert shown == 8


def test_figure_words_do_not_overlap_or_leave_their_picture(browser, report):
    show(browser, report)
    outside = browser.execute_script(
        """return [...document.querySelectorAll("svg.figure")].flatMap(svg => { const b = svg.getBoundingClientRect();
           return [...svg.querySelectorAll("text")].map(t => [t.getBoundingClientRect(), t.textContent])
           .filter(([r]) => r.left < b.left - 2 || r.right > b.right + 2
                            || r.top < b.top - 2 || r.bottom > b.bottom + 2)
           .map(([r, text]) => svg.closest("figure").id + ": " + text); });"""
    )
    assert outside == []


# Share of the map's canvas that is not background, and the words beside it.
DRAWN = """const canvas = document.querySelector(".network.shown canvas");
if (!canvas) return 0;
const p = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
let coloured = 0;
for (let i = 0; i < p.length; i += 4) {
  const [r, g, b] = p.slice(i, i + 3);
  coloured += Math.max(r, g, b) - Math.min(r, g, b) > 40;
}
return coloured / (p.length / 4);"""
TIP = "return document.querySelector('.network.shown .map-tip').textContent"


@pytest.fixture
def canvas(browser, report):
    """The live map of network 1, scrolled into view."""
    show(browser, report, fragment="#network-01")
    browser.execute_script("document.querySelector('#network-01 .map').scrollIntoView({behavior: 'instant'})")
    wait_for(browser, DRAWN, lambda share: share > 0)
    return browser.find_element("css selector", "#network-01 canvas")


def test_the_threshold_of_the_maps_moves(browser, canvas):
    output = "return document.querySelector('.network.shown .map-tools output').textContent"
    before, shown = browser.execute_script(output), browser.execute_script(DRAWN)
    browser.execute_script(
        """const slider = document.querySelector('.network.shown .map-tools input');
        slider.value = 0.5; slider.dispatchEvent(new Event('input'));"""
    )
    assert browser.execute_script(output).startswith("0.5: ") and before.startswith("3.0: ")
    assert browser.execute_script(DRAWN) > shown
    show_next = "document.querySelector('.network.shown .next').click()"
    browser.execute_script(show_next)  # the threshold is that of all maps
    wait_for(browser, output, lambda text: text.startswith("0.5: "))


def test_the_pointer_and_the_keys_name_neurons(browser, canvas):
    from selenium.webdriver import ActionChains, Keys

    assert browser.execute_script(TIP).startswith("Point at a neuron")
    inside = -canvas.size["width"] // 7, -canvas.size["height"] // 4  # of a sheet, not between two
    ActionChains(browser).move_to_element_with_offset(canvas, *inside).perform()
    first = wait_for(browser, TIP, lambda text: text.startswith("Layer "))
    assert "unit" in first and "z = " in first
    canvas.send_keys(Keys.ARROW_RIGHT)  # beside the strongest neuron
    second = wait_for(browser, TIP, lambda text: text.startswith("Layer ") and text != first)
    canvas.send_keys(Keys.ARROW_DOWN)
    wait_for(browser, TIP, lambda text: text.startswith("Layer ") and text != second)
    browser.find_element("css selector", "#network-01 .map-tools input").send_keys(Keys.ARROW_LEFT)
    assert browser.execute_script("return document.querySelector('.network.shown').id") == "network-01"


def test_the_maps_zoom_and_change_their_view(browser, canvas):
    click = "document.querySelector('.network.shown .map-tools [data-do=' + arguments[0] + ']').click()"
    pixels = "return document.querySelector('.network.shown canvas').toDataURL()"
    states = [browser.execute_script(pixels)]
    for button in ("in", "out", "view", "order"):
        browser.execute_script(click, button)
        states.append(wait_for(browser, pixels, lambda now: now != states[-1]))
    browser.execute_script(click, "in")
    browser.execute_script(click, "all")
    wait_for(browser, pixels, lambda now: now == states[-1])


def wait_for(browser, script, condition):
    """Wait until the value of a script meets a condition, and return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 5).until(lambda b: condition(b.execute_script(script)))
    return browser.execute_script(script)
