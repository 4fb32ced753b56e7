"""Reports: their structure, what is said where something is absent, and that nothing is loaded from elsewhere."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic import (
    DOSE_INFO,
    Networks,
    dose_table,
    events,
    lesion_tables,
    localizer,
    order_curve,
    prune_table,
    report_data,
)

from llmbrain.dataset import Study
from llmbrain.exceptions import DatasetError, LLMBrainError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.reporting import HTMLReport, display, generate_report, network_pages
from llmbrain.reporting import collect as collecting
from llmbrain.reporting.collect import Tables
from llmbrain.reporting.effects import main_lesions
from llmbrain.reporting.graphics import MapPainter, course_svg, effect_strip, figure_svg, png_bytes, profile_svg
from llmbrain.reporting.methods import bibtex, methods_text
from llmbrain.reporting.page import network_number, page_of
from llmbrain.reporting.references import CITED_AS, REFERENCES
from llmbrain.reporting.report import _renderer
from llmbrain.reporting.tables import html_table, number
from llmbrain.reporting.words import best_stretch, engagement_by_kind, peaks
from llmbrain.topography import fit_topography

GEOMETRY = NeuronGeometry.from_sizes([96] * 6)
VOID = {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """Ids, links, headings, images and the nesting of a page."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.headings, self.images, self.open, self.faults = [], [], [], [], [], []
        self.labelled, self.sources = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag in ("a", "use") and "href" in attrs:
            self.links.append(attrs["href"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img" or attrs.get("role") == "img":
            self.images.append(attrs)
        self.labelled += (attrs.get("aria-labelledby") or "").split()
        self.sources += [attrs[k] for k in ("src", "href", "xlink:href") if k in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def check_page(html):
    """What must hold for every report."""
    page = Page(html)
    assert not page.faults and not page.open, f"tags do not match: {page.faults or page.open}"
    doubled = {i for i in page.ids if page.ids.count(i) > 1}
    assert not doubled, f"ids used twice: {doubled}"
    dead = [link for link in page.links if not link.startswith("#") or link[1:] not in page.ids]
    assert not dead, f"dead links: {dead}"
    assert set(page.labelled) <= set(page.ids)
    assert all(i.get("alt") or i.get("aria-label") for i in page.images), "an image without a text in its place"
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:])), "a level of heading is left out"
    outside = [s for s in page.sources if not s.startswith(("#", "data:"))]
    assert not outside, f"loaded from elsewhere: {outside}"
    assert not re.search(r"@import|url\((?!#|[\"']?data:)|<script[^>]+src|<link[^>]+stylesheet", html)
    assert html.startswith("<!DOCTYPE html>") and '<html lang="en">' in html and 'name="viewport"' in html
    return page


def report_of(data, monkeypatch):
    monkeypatch.setattr(collecting, "from_object", lambda obj, topography: data)
    return generate_report(object())


@pytest.fixture(scope="module")
def data():
    return report_data(GEOMETRY, 6, 240)


# -- the whole report ---------------------------------------------------------------------------------------------
def test_a_whole_report_has_all_sections_in_order(data, monkeypatch):
    report = report_of(data, monkeypatch)
    page = check_page(report.html)
    expected = [
        "summary", "model", "recording", "order", "networks", "browse", "localizers", "lesions", "doses", "pruning",
        "methods", "files",
    ]  # fmt: skip
    assert report.sections == expected
    assert [link for link in page.links if link[1:] in expected] == [f"#{s}" for s in expected]
    assert {f"network-{k:02d}" for k in range(6)} <= set(page.ids)
    figures = {
        "fig-atlas",
        "fig-depth",
        "fig-maps",
        "fig-carpet",
        "fig-connectivity",
        "fig-lesion-0",
        "fig-selectivity",
    }
    assert figures | {"fig-pruning", "fig-stability", "fig-order-0", "fig-dose-0", "localizer-0"} <= set(page.ids)
    assert "Display order of neurons" in report.html and "SmolLM2-135M-Instruct" in report.html


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ({"networks": None}, {"networks", "browse"}),
        ({"lesion": None}, {"lesions"}),
        ({"pruning": None}, {"pruning"}),
        ({"courses": None, "course_events": None, "carpet": None}, set()),
        ({"topography": None, "stability": None}, set()),
        ({"events": None, "sidecar": {}, "runs": None, "carpet": None}, {"recording"}),
        ({"model": {}, "files": []}, {"model", "files"}),
        ({"orders": [], "doses": [], "localizers": []}, {"order", "doses", "localizers"}),
    ],
)
def test_what_is_absent_is_left_out_and_said(missing, gone, monkeypatch):
    data = report_data(GEOMETRY, 6, 240)
    for name, value in missing.items():
        setattr(data, name, value)
    data.absent = ["Something is not there yet."]
    report = report_of(data, monkeypatch)
    check_page(report.html)
    everything = {"summary", "model", "recording", "order", "networks", "browse", "localizers", "lesions", "doses"}
    everything |= {"pruning", "methods", "files"}
    assert set(report.sections) == everything - gone
    assert "Something is not there yet." in report.html


def test_what_p_and_q_can_reach_is_said(data, monkeypatch):
    html = report_of(data, monkeypatch).html
    assert "p cannot fall below 1 / (20 + 1) = 0.048" in html
    assert "its q cannot fall below 0.286" in html and "controls are few" in html
    assert "fall to 1 / (6 × 20 + 1) = 0.0083" in html and "have a pooled q" in html
    assert "q, pooled" in html and "with controls pooled" in html


def test_flagged_networks_are_marked_wherever_networks_stand(monkeypatch):
    data = report_data(GEOMETRY, 4, 240)
    data.networks.metrics["stability"] = [0.9, 0.3, 0.8, 0.95]
    data.networks.metrics["flagged"] = [False, True, False, True]
    assert network_pages.network_flags(data) == ["", "unstable", "", "unstable"]
    html = report_of(data, monkeypatch).html
    page = check_page(html)
    assert html.count('class="flagged"') == 2 and "2 of 4 networks are flagged" in html
    card = html[html.index('id="network-01"') : html.index('id="network-02"')]
    assert 'class="flag">unstable' in card and "do not agree on it (stability 0.30)" in card
    lesions = html[html.index('id="lesions"') : html.index('id="doses"')]
    assert lesions.count(">unstable<") == 4 * 2  # two networks: once in the task's table, three times among all tasks
    figures = html[html.index('id="fig-atlas"') : html.index('id="fig-carpet"')]
    assert ">1°<" in figures and ">3°<" in figures and ">0°<" not in figures and "flagged: empty or unstable" in figures
    assert "network-01" in page.ids


def test_the_strictest_controls_are_those_to_judge_by(monkeypatch):
    data = report_data(GEOMETRY, 4, 240)
    easy = data.lesion.table.assign(family="random", effect=9.0)
    hard = data.lesion.table.assign(family="layer+importance")
    data.lesion = Tables(pd.concat([easy, hard], ignore_index=True), None)
    assert set(main_lesions(data)["family"]) == {"layer+importance"}
    html = report_of(data, monkeypatch).html
    assert (
        "their controls matched by layer and importance (q" in html and "controls (matched by layer+importance)" in html
    )


def test_words_follow_the_heavier_tail(monkeypatch):
    """The sign of a component is arbitrary: a network that works by going down shows where it does."""
    data = report_data(GEOMETRY, 2, 240)
    data.courses[:, 0] = -0.1
    data.courses[[30, 90], 0] = [-6.0, -5.0]
    words = network_pages._words(data, 0)
    assert [e["z"] for e in words["excerpts"]][:2] == ["−6.0", "−5.0"]
    assert "neg peak" in words["excerpts"][0]["html"]


def test_a_localizer_is_set_beside_the_networks(data, monkeypatch):
    html = report_of(data, monkeypatch).html
    part = html[html.index('id="localizers"') : html.index('id="lesions"')]
    assert "code against prose" in part and "40 of code, 40 of prose" in part and "Overlap with the networks" in part
    first_row = part[part.index("<tbody>") :]
    assert first_row.index("#network-03") < first_row.index("#network-00"), "the network it was made of comes first"


def test_text_from_a_corpus_cannot_break_the_page(monkeypatch):
    data = report_data(GEOMETRY, 3, 120)
    evil = "</script><script>alert(1)</script>"
    data.course_events = data.course_events.assign(token=evil, kind='<i onload="x">', document="<b>")
    data.events = data.course_events
    data.title = data.model["id"] = "<img src=x>"
    html = report_of(data, monkeypatch).html
    check_page(html)
    assert evil not in html and "<img src=x>" not in html and '<i onload="x">' not in html


def test_many_networks_stay_small(monkeypatch):
    data = report_data(NeuronGeometry.from_sizes([2048] * 8), 64, 240)
    report = report_of(data, monkeypatch)
    page = check_page(report.html)
    assert "fig-maps" not in page.ids and len(report.html) < 6e6


def test_layers_of_unequal_width_and_few_networks(monkeypatch):
    for sizes, n in (([50, 97, 13], 2), ([20], 1)):
        check_page(report_of(report_data(NeuronGeometry.from_sizes(sizes), n, 120), monkeypatch).html)


# -- single results -----------------------------------------------------------------------------------------------
class Pruned:
    """Shaped like a pruned model."""

    summary = {"score": "flap", "ratio": 0.2, "n_parameters_after": 110000000, "perplexity": 20.5}
    kept = [np.arange(70 + i) for i in range(6)]
    geometry = GEOMETRY


@pytest.mark.parametrize("kind", ["networks", "estimator", "lesion", "lesion table", "dose", "order", "grid", "pruned"])
def test_every_single_result_has_its_report(kind):
    networks = Networks(GEOMETRY, 4, 120)
    estimator = type("Fitted", (), {"networks_": networks})()
    table, controls = lesion_tables(4)
    dose = SimpleNamespace(table=dose_table(), controls=None, info=DOSE_INFO)
    order = SimpleNamespace(curve=order_curve(), spectrum=None, n_components=15, parallel=300, info={})
    objects = {
        "dose": (dose, "doses"), "order": (order, "order"),
        "networks": (networks, "browse"), "estimator": (estimator, "networks"),
        "lesion": (Tables(table, controls), "lesions"), "lesion table": (table, "lesions"),
        "grid": (prune_table(), "pruning"), "pruned": (Pruned(), "pruned"),
    }  # fmt: skip
    obj, section = objects[kind]
    report = generate_report(obj, title="My title")
    check_page(report.html)
    assert section in report.sections and "<h1>My title</h1>" in report.html


def test_networks_sorted_by_themselves_say_so():
    html = generate_report(Networks(GEOMETRY, 4, 120)).html
    assert "sorted on the shown maps themselves" in html
    assert "Display order" not in generate_report(Networks(GEOMETRY, 4, 120), topography=None).html


def test_a_given_display_order_is_used_or_refused():
    networks = Networks(GEOMETRY, 4, 120)
    given = fit_topography(networks.maps, GEOMETRY, source="another text")
    assert "sorted on another text" in generate_report(networks, topography=given).html
    other = NeuronGeometry.from_sizes([96] * 5)
    with pytest.raises(LLMBrainError, match="different models"):
        generate_report(networks, topography=fit_topography(np.zeros((2, 480)), other))


def test_what_cannot_be_reported_is_named(tmp_path):
    with pytest.raises(ParameterError, match="No report is known for int"):
        generate_report(5)
    with pytest.raises(DatasetError, match="holds no study"):
        generate_report(tmp_path)


# -- the object ---------------------------------------------------------------------------------------------------
def test_a_report_saves_shows_and_frames_itself(tmp_path):
    report = generate_report(prune_table())
    path = report.save(tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == report.html == str(report) == report.get_standalone()
    report.save_as_html(tmp_path / "again.html")
    frame = report.resize(500, 300)._repr_html_()
    assert frame.startswith("<iframe srcdoc=") and 'width="500"' in frame and "<script" not in frame
    assert "pruning" in repr(report) and len(repr(report)) < 200
    with pytest.raises(ParameterError, match="say where"):
        HTMLReport("x").save()
    assert generate_report(prune_table(), output_file=tmp_path / "third.html").html
    assert (tmp_path / "third.html").is_file()


# -- a real study, tiny -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of a tiny random model that went through recording, networks and lesions."""
    from tiny import tiny_model, tiny_tokenizer

    import llmbrain as lb
    from llmbrain.lesions import LesionStudy

    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    corpus = lb.load_corpus("demo")
    root = tmp_path_factory.mktemp("report") / "study"
    recording = lb.record(model, tokenizer, corpus, out=root, max_tokens=1200, tokens_per_run=400, progress=False)
    networks = lb.CanICA(n_components=4, n_init=2, random_state=3).fit(recording).networks_
    networks.save(recording.study)
    task = lb.load_corpus("demo", split="heldout").sample(2, random_state=0)
    tested = LesionStudy(networks.masks(2.0), tasks=[task], n_controls=4, reference=recording, random_state=0)
    tested.run(model, tokenizer, progress=False).save(recording.study)
    return recording.study


@pytest.mark.filterwarnings("ignore")
def test_a_real_study_from_its_folder(study):
    report = generate_report(study.root)
    page = check_page(report.html)
    assert report.save() == study.path("report") and study.path("report").is_file()
    wanted = {"summary", "model", "recording", "networks", "browse", "lesions", "methods", "files"}
    assert set(report.sections) == wanted
    assert "No pruning has been compared yet" in report.html
    assert "network-03" in page.ids and "seed 3" in report.html
    assert study.info["model"]["weights_hash"] in report.html


@pytest.mark.filterwarnings("ignore")
def test_the_atlas_shows_the_half_that_the_order_has_not_seen(study):
    html = generate_report(study.root).html
    assert "estimated again on the even runs" in html and "comes from the odd runs" in html
    recording = study.recording()
    first, second = display.half_of(recording), display.half_of(recording, second=True)
    assert len(first) and len(second) and first.shape[1] == recording.geometry.n_neurons
    # cutting the budget thins the halves and never mixes them
    thin = display.half_of(recording, budget=4 * 60 * recording.geometry.n_neurons)
    assert len(thin) < len(first)
    one = recording[:1]
    halves = [display.half_of(one, second) for second in (False, True)]
    assert sum(map(len, halves)) == one.n_tokens
    assert display.half_name(one) != display.half_name(one, True)


@pytest.mark.filterwarnings("ignore")
def test_artefacts_are_said_aloud(study):
    """A network that follows the position in the text is marked on its page and named as an artefact."""
    from llmbrain.networks.result import NetworkSet

    networks = NetworkSet.load(study)
    recording = study.recording()
    for course, run in zip(networks.time_courses, recording):
        course[:, 2] = run.events["position"]
    data = collecting.from_study(study)
    data.networks = networks
    collecting.interpret_courses(data, networks.time_courses, [run.events for run in recording])
    assert data.interpretation.table["artefact"][2] == "position"
    html = network_pages.browser(data, _renderer()).html
    card = html[html.index('id="network-02"') : html.index('id="network-03"')]
    assert "as head motion would" in card and "artefact: position" in card


@pytest.mark.filterwarnings("ignore")
def test_the_display_order_is_kept_with_the_study_and_used_again(study):
    from llmbrain.topography import Topography

    generate_report(study)
    path = study.path("topography")
    first = path.read_bytes()
    assert "odd runs" in Topography.load(path).info["source"]
    generate_report(study)
    assert path.read_bytes() == first
    assert "odd runs" in generate_report(study).html


@pytest.mark.filterwarnings("ignore")
def test_a_recording_alone(study):
    report = generate_report(study.recording())
    check_page(report.html)
    assert report.sections == ["summary", "model", "recording", "methods"]
    assert "fig-carpet-layers" in report.html


@pytest.mark.filterwarnings("ignore")
def test_localizers_doses_and_order_are_read_from_the_study(study):
    """Written by the objects themselves, found again by the report."""
    from llmbrain.lesions import DoseResponse
    from llmbrain.networks.evidence.order import Order
    from llmbrain.networks.localizer.localize import Localization

    geometry = study.recording().geometry
    made = localizer(geometry, np.zeros(geometry.n_neurons))
    q = np.where(made.selected, 0.01, 0.9)
    items = pd.DataFrame({"item": list("abcd"), "condition": ["code", "code", "prose", "prose"]})
    found = Localization(made.z, made.z, q, q, ("code", "prose"), items, {"unit": "item"})
    written = found.save(study, geometry)
    written += DoseResponse(dose_table(2), dose_table(2)[["network", "strength", "effect"]], DOSE_INFO).save(study)
    written += Order(15, 310, 300, order_curve(), None, {"reproduced_at": 0.7}).save(study)
    try:
        assert DoseResponse.load(study).info["n_controls"] == 10
        data = collecting.from_study(study)
        np.testing.assert_allclose(data.localizers[0].z, made.z, rtol=1e-5)
        np.testing.assert_array_equal(data.localizers[0].selected, made.selected)
        assert data.localizers[0].contrast == ("code", "prose") and data.orders[0][2]["n_components"] == 15
        pd.testing.assert_frame_equal(data.doses[0].table, dose_table(2), check_exact=False)
        report = generate_report(study.root)
        check_page(report.html)
        assert {"order", "localizers", "doses"} <= set(report.sections)
        assert "AlKhamissi" in report.html and "over the strength of the lesion (0, 0.25, 0.5, 0.75, 1)" in report.html
    finally:
        for path in [*written, *study.root.rglob("*codeprose*")]:
            path.unlink(missing_ok=True)


@pytest.mark.filterwarnings("ignore")
def test_a_study_of_several_sites_shows_the_one_of_its_networks(tmp_path):
    from tiny import tiny_model, tiny_tokenizer

    import llmbrain as lb

    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    options = {"site": ["mlp", "attention"], "max_tokens": 240, "progress": False}
    recordings = lb.record(model, tokenizer, lb.load_corpus("demo"), out=tmp_path / "study", **options)
    assert "shows mlp" in generate_report(tmp_path / "study").html
    networks = lb.CanICA(n_components=2, n_init=1, random_state=0).fit(recordings["attention"]).networks_
    networks.save(tmp_path / "study")
    html = generate_report(tmp_path / "study").html
    check_page(html)
    assert "holds recordings of mlp; this report shows attention" in html and "site “attention”" in html
    assert collecting.from_study(Study.open(tmp_path / "study")).carpet[0].shape[1] == networks.geometry.n_neurons


# -- parts --------------------------------------------------------------------------------------------------------
def test_the_painter_puts_every_neuron_where_the_mosaic_has_it():
    from llmbrain.plotting.sheets import sheet_mosaic

    for geometry in (GEOMETRY, NeuronGeometry.from_sizes([50, 97, 13])):
        topography = fit_topography(np.random.default_rng(0).normal(size=(3, geometry.n_neurons)), geometry)
        for order in (None, topography):
            painter = MapPainter(geometry, order)
            mosaic, _ = sheet_mosaic(np.arange(geometry.n_neurons), geometry, order, aspect=2.4)
            np.testing.assert_array_equal(mosaic.ravel()[painter.pixel], np.arange(geometry.n_neurons))


def test_a_painted_map_decodes_to_the_thresholded_map():
    import base64
    import io

    import matplotlib.image

    painter = MapPainter(GEOMETRY, threshold=3.0)
    z = np.zeros(GEOMETRY.n_neurons)
    z[[5, 200]] = [9, -4]
    uri = painter.paint(z)
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(uri.split(",")[1])), format="png")
    assert picture.shape == (painter.height, painter.width, 4)
    flat = picture.reshape(-1, 4)
    red, blue = flat[painter.pixel[5]], flat[painter.pixel[200]]
    assert red[0] > red[2] and blue[2] > blue[0] and red[3] > blue[3]
    coloured = np.ptp(flat[:, :3], axis=1) > 0.2
    assert coloured.sum() == 2


def test_png_bytes_hold_palette_and_transparency():
    import io

    import matplotlib.image

    palette = [[0, 0, 0, 0], [255, 0, 0, 255], [0, 0, 255, 128]]
    png = png_bytes(np.array([[0, 1], [2, 1]]), palette)
    picture = (matplotlib.image.imread(io.BytesIO(png), format="png") * 255).round()
    np.testing.assert_array_equal(
        picture, np.array([[[0, 0, 0, 0], [255, 0, 0, 255]], [[0, 0, 255, 128], [255, 0, 0, 255]]])
    )


def test_figures_become_svg_in_the_pages_colours():
    from llmbrain import plotting
    from llmbrain.plotting import style

    fig = plotting.plot_stability([0.9, 0.3])
    svg = figure_svg(fig, "fig-x", 'a "label"')
    assert svg.startswith("<svg") and 'aria-label="a &quot;label&quot;"' in svg and "viewBox" in svg
    for ink in (style.INK, style.MUTED, style.GRID, style.FACE):
        assert ink not in svg
    assert "var(--ink)" in svg and "var(--font)" in svg and "<metadata" not in svg
    assert all(i.startswith("fig-x-") for i in re.findall(r' id="([^"]+)"', svg))
    assert svg == figure_svg(plotting.plot_stability([0.9, 0.3]), "fig-x", 'a "label"'), (
        "the same figure, the same text"
    )


def test_small_charts_name_what_they_show():
    svg = profile_svg(np.array([0.1, 0.0]), np.array([0.0, 0.2]), [4, 9], "profile")
    assert "layer 4: 10 % positive" in svg and "layer 9: 20 % negative" in svg
    course = course_svg(np.array([2.0, -6.0, 0.0]), [" a", "\n", "<b>"], "a course")
    assert course.count("<rect") == 2 and "a, z = 2.0" in course and "⏎, z = −6.0" in course
    strip = effect_strip(0.5, 0.4, 0.6, np.array([0.0, 0.1]), (-0.1, 0.7), "effect")
    assert strip.count('class="control"') == 2 and "interval" in strip
    assert 'class="interval"' not in effect_strip(0.5, None, None, np.array([]), (0, 1), "effect")


def test_numbers_are_written_for_readers():
    assert number(1234567) == "1\u202f234\u202f567" and number(-0.25) == "−0.25" and number(None) == "–"
    assert number(float("nan")) == "–" and number(0.0004, "p") == "< 0.001" and number(0.04761, "q") == "0.048"
    assert number(0.0496, "q_pooled") == "0.0496" and number(0.0501, "q") == "0.050"
    assert number(1.0, "coverage") == "100\u202f%" and number(0.996, "share") == "100\u202f%"
    assert number(0.0123, "share") == "1.2\u202f%" and number(True) == "yes" and number("x<y") == "x<y"


def test_tables_escape_link_and_sort_by_value():
    frame = pd.DataFrame({"network": ["network-03", "other"], "p": [0.0001, np.nan], "note": ["<b>", "x" * 40]})
    html = html_table(frame, "A & B", link=("network", page_of))
    assert '<a href="#network-03">' in html and ">other<" in html and "&lt;b&gt;" in html and "A &amp; B" in html
    assert 'data-v="0.0001"' in html and html.count("data-v") == 1 and "class=long" in html
    assert network_number("network-12") == 12 and network_number(7) == 7 and network_number("code") is None


def test_peaks_stay_in_their_document_and_apart():
    frame = events(84)
    course = np.zeros(84)
    course[[10, 12, 41, 42, 70]] = [5, 4, 3, 2.5, 1]
    found = peaks(course, frame, around=5)
    assert [p for p, _, _ in found] == [10, 41, 42, 70] or [p for p, _, _ in found] == [10, 41, 70]
    for peak, first, last in found:
        assert first <= peak < last and frame["document"].iloc[first:last].nunique() == 1
    first, last = best_stretch(course, frame, 20)
    assert first <= 10 < last and last - first <= 20 and frame["document"].iloc[first:last].nunique() == 1
    assert not peaks(-np.ones(84), frame)


def test_engagement_by_kind_is_the_mean():
    frame = events(84)
    course = np.arange(84, dtype=float)[:, None]
    means = engagement_by_kind(course, frame)
    assert means.loc["encyclopaedic", 0] == course[:42].mean()
    assert engagement_by_kind(course, frame.assign(kind="one")) is None
    assert engagement_by_kind(course, frame.drop(columns="kind")) is None


def test_engagement_is_the_fluctuation_where_runs_hold_one_kind():
    """Neurons are z-scored within runs, so that the means of such kinds say nothing."""
    frame = events(84)
    kinds = frame["kind"].to_numpy()
    strong = kinds == kinds[0]
    course = np.where(np.arange(84) % 2, 1.0, -1.0)[:, None] * np.where(strong, 3.0, 1.0)[:, None]
    apart = frame.assign(run=np.where(strong, 0, 1))
    found = engagement_by_kind(course, apart)
    assert "fluctuation" in found.attrs["title"] and found.loc[kinds[0], 0] == pytest.approx(3)
    mixed = engagement_by_kind(course, frame.assign(run=0))
    assert "Mean" in mixed.attrs["title"] and abs(mixed.loc[kinds[0], 0]) < 0.2


def test_what_statistics_a_pruned_model_rests_on_is_shown(data, monkeypatch):
    """Rows that differ in nothing else must not be averaged, nor drawn as one."""
    import dataclasses

    table = pd.DataFrame(
        {
            "score": ["dense", "flap", "flap"], "allocation": ["", "global", "global"], "ratio": [0.0, 0.2, 0.2],
            "compensation": ["", "affine", "affine"], "variant": ["", "one-shot", "one-shot, weighted"],
            "seed": [0, 0, 0], "perplexity": [10.0, 222.0, 15.0], "ratio_to_dense": [1.0, 22.2, 1.5],
        }
    )  # fmt: skip
    info = {"variants": {"one-shot, weighted": {"propagation": "one-shot", "token_weights": "stream"}}}
    changed = dataclasses.replace(data, pruning=table, prune_info=info)
    html = report_of(changed, monkeypatch).html
    part = html[html.index('id="pruning"') :]
    assert "one-shot, weighted" in part and ">222<" in part and "statistics" in part
    assert "residual stream" in " ".join(methods_text(changed)[0])


# -- methods ------------------------------------------------------------------------------------------------------
def test_methods_say_what_was_run_and_cite_it(data):
    paragraphs, cited = methods_text(data)
    text = " ".join(paragraphs)
    for said in (
        "weights 0123456789abcdef",
        "240 tokens",
        "seed 0",
        "10 starts",
        "|z| > 3",
        "matched by layer",
        "torch 2.13.0",
    ):
        assert said in text, said
    assert {"canica", "fastica", "permutation", "fdr", "flap", "wanda", "bids"} <= set(cited)
    assert all(key in CITED_AS for key in REFERENCES) and all(CITED_AS[key] in text for key in cited)
    assert bibtex(cited).count("@") == len(cited)


def test_methods_leave_out_what_was_not_run(data):
    import dataclasses

    none = {"networks": None, "lesion": None, "pruning": None, "topography": None, "stability": None}
    bare = dataclasses.replace(data, **none, orders=[], doses=[], localizers=[])
    text = " ".join(methods_text(bare)[0])
    assert (
        "lesioned" not in text
        and "CanICA" not in text
        and "removed for good" not in text
        and "display only" not in text
    )
    cited = methods_text(bare)[1]
    assert "canica" not in cited and "fdr" not in cited and "flap" not in cited


def test_methods_follow_the_settings(data):
    import dataclasses

    networks = Networks(GEOMETRY, 3, 120)
    networks.info = {
        "method": "DictLearning",
        "parameters": {"alpha": 2, "random_state": 7},
        "converged": [True, False],
    }
    lesion = Tables(*lesion_tables(3), info={"lesion": {"how": "mean"}, "families": {"layer": "as many in each layer"}})
    text = " ".join(methods_text(dataclasses.replace(data, networks=networks, lesion=lesion))[0])
    assert "dictionary learning" in text and "seed 7" in text and "alpha 2" in text and "did not converge" in text
    assert "clamped to their mean" in text and "as many in each layer" in text
