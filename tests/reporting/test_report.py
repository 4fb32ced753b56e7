"""The whole report: its sections, its single results, and that nothing is loaded from elsewhere."""

import os

import numpy as np
import pandas as pd
import pytest
from pages import check_page
from synthetic import DOSE_INFO, Networks, dose_table, lesion_tables, order_curve, prune_table, report_data

from llmbrain.exceptions import LLMBrainError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import DoseResponse, LesionResult
from llmbrain.networks import CanICA
from llmbrain.networks.evidence.order import Order
from llmbrain.pruning import PrunedModel
from llmbrain.reporting import HTMLReport, generate_report
from llmbrain.reporting.lesion_table import main_lesions
from llmbrain.reporting.network_table import network_flags
from llmbrain.reporting.report import Report
from llmbrain.reporting.station import STATIONS, Station, stations
from llmbrain.reporting.stations import browse
from llmbrain.reporting.stations.methods import methods_text
from llmbrain.reporting.stations.pruning import Grid
from llmbrain.topography import fit_topography

GEOMETRY = NeuronGeometry.from_sizes([96] * 6)
SHOWN = {station.name for station in stations() if station.title} - {"pruned"}


@pytest.fixture(scope="module")
def data():
    return report_data(GEOMETRY, 6, 240)


@pytest.fixture(scope="module")
def html(data):
    return data.page().html


# -- the contract of all stations ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [station.name for station in stations()])
def test_every_station_keeps_the_contract(name, data):
    """With its result it gives text; without any results it has nothing to show."""
    station = STATIONS[name]
    assert isinstance(station(), Station) and station.summary
    result = Pruned if name == "pruned" else data[name]
    assert result is not None, "report_data plants a result for every station"
    for value, label in station().tiles(data, result):
        assert isinstance(value, str) and isinstance(label, str)
    assert isinstance(station().section(data, result), str)
    assert bool(station().section(data, result)) == bool(station.title)
    cited = []
    assert isinstance(station().methods(data, result, lambda *keys: cited.append(keys) or ""), str)
    assert station().take(object(), Report()) is None
    if name not in ("summary", "methods"):
        assert Report()[name] is None


def test_places_and_titles_differ():
    places = [station.place for station in stations()]
    assert len(set(places)) == len(places) and places == sorted(places)


# -- the whole report ---------------------------------------------------------------------------------------------
def test_a_whole_report_has_all_sections_in_order(data):
    report = data.page()
    page = check_page(report.html)
    expected = [
        "summary", "model", "recording", "quality", "order", "networks", "browse", "localizers", "lesions", "doses",
        "pruning", "comparison", "methods", "files",
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
        (("networks", "drivers", "display"), {"networks", "browse"}),
        (("lesions",), {"lesions"}),
        (("drivers",), set()),
        (("display",), set()),
        (("recording",), {"recording"}),
        (("model", "files"), {"model", "files"}),
        (("order", "doses", "localizers"), {"order", "doses", "localizers"}),
    ],
)
def test_what_is_absent_is_left_out_and_named(missing, gone):
    data = report_data(GEOMETRY, 6, 240)
    data.results.update(dict.fromkeys(missing))
    data.absent.append("Something is not there yet.")
    report = data.page()
    check_page(report.html)
    assert set(report.sections) == SHOWN - gone
    assert "Something is not there yet." in report.html


def test_the_reach_of_p_and_q_is_explained(html):
    assert "p is at least 1 / (20 + 1) = 0.048" in html
    assert "its q is at least 0.286" in html and "few controls" in html
    assert "as small as 1 / (6 × 20 + 1) = 0.0083" in html and "have a pooled q" in html
    assert "q, pooled" in html


def test_flagged_networks_are_marked_wherever_networks_stand():
    data = report_data(GEOMETRY, 4, 240)
    data["networks"].networks.metrics["stability"] = [0.9, 0.3, 0.8, 0.95]
    data["networks"].networks.metrics["flagged"] = [False, True, False, True]
    assert network_flags(data) == ["", "unstable", "", "unstable"]
    html = data.page().html
    page = check_page(html)
    assert html.count('class="flagged"') == 2 and "2 of 4 networks are flagged" in html
    card = html[html.index('id="network-01"') : html.index('id="network-02"')]
    assert 'class="flag">unstable' in card and "disagree on it (stability 0.30)" in card
    lesions = html[html.index('id="lesions"') : html.index('id="doses"')]
    assert lesions.count(">unstable<") == 4 * 2  # two networks: once in the task's table, three times among all tasks
    figures = html[html.index('id="fig-maps"') : html.index('id="browse"')]
    assert ">1°<" in figures and ">3°<" in figures and ">0°<" not in figures and "flagged: empty or unstable" in figures
    assert "network-01" in page.ids


def test_the_strictest_controls_are_those_to_judge_by():
    data = report_data(GEOMETRY, 4, 240)
    easy = data["lesions"].table.assign(family="random", effect=9.0)
    hard = data["lesions"].table.assign(family="layer+importance")
    lesion = data.results["lesions"] = LesionResult(pd.concat([easy, hard], ignore_index=True), None, None)
    assert set(main_lesions(lesion)["family"]) == {"layer+importance"}
    html = data.page().html
    assert "lesioned networks do more harm than each of their" in html
    assert "controls (matched by layer+importance)" in html


def test_words_follow_the_heavier_tail():
    """The sign of a component is arbitrary: a network that works by going down shows where it does."""
    data = report_data(GEOMETRY, 2, 240)
    data["drivers"].courses[:, 0] = -0.1
    data["drivers"].courses[[30, 90], 0] = [-6.0, -5.0]
    words = browse._words(data["drivers"], 0)
    assert [e["z"] for e in words["excerpts"]][:2] == ["−6.0", "−5.0"]
    assert "neg peak" in words["excerpts"][0]["html"]


def test_a_localizer_is_set_beside_the_networks(data):
    html = data.page().html
    part = html[html.index('id="localizers"') : html.index('id="lesions"')]
    assert "code against prose" in part and "40 of code, 40 of prose" in part and "Overlap with the networks" in part
    first_row = part[part.index("<tbody>") :]
    assert first_row.index("#network-03") < first_row.index("#network-00"), "the network it was made of comes first"


def test_hostile_names_cannot_break_the_page():
    """Names of models, corpora, documents, kinds, tokens, networks, tasks and conditions are all escaped."""
    evil = "</script><script>alert(1)</script><img src=x onerror=y>"
    data = report_data(GEOMETRY, 3, 120)
    drivers, recorded = data["drivers"], data["recording"]
    drivers.events = recorded.events = drivers.events.assign(token=evil, kind=evil, document=evil)
    recorded.carpet = (recorded.carpet[0], recorded.events.iloc[: len(recorded.carpet[1])], evil, 0)
    recorded.runs["run"] = evil
    recorded.sidecar.update(Corpus=evil, ModelDataType=evil, LibraryVersions={evil: evil})
    data.title = data.subtitle = data.kicker = data["model"]["id"] = data["model"]["architecture"] = evil
    data.absent.append(evil)
    data.warnings.append(evil)
    lesion = data["lesions"]
    lesion.table = lesion.table.assign(network=[f"{evil}{n}" for n in lesion.table["network"]], task=evil, family=evil)
    lesion.info.update(tasks={evil: {"unit": evil}}, families={evil: evil}, how=evil)
    data["doses"][0].info = {**DOSE_INFO, "task": evil, "family": {evil: evil}, "unit": evil}
    data["localizers"][0].info.update(contrast=[evil, evil], unit=evil, n_items={evil: 3})
    data["order"][0] = (evil, *data["order"][0][1:])
    data["pruning"].table["score"] = evil
    data["files"]["file"] = evil
    data["networks"].networks.info["method"] = evil
    html = data.page().html
    check_page(html)
    assert "<script>alert" not in html and "<img src=x" not in html


def test_many_networks_stay_small():
    data = report_data(NeuronGeometry.from_sizes([2048] * 8), 64, 240)
    report = data.page()
    page = check_page(report.html)
    assert "fig-maps" not in page.ids and len(report.html) < 7e6


def test_layers_of_unequal_width_and_few_networks():
    for sizes, n in (([50, 97, 13], 2), ([20], 1)):
        check_page(report_data(NeuronGeometry.from_sizes(sizes), n, 120).page().html)


def test_statistics_behind_a_pruned_model_are_shown():
    """Rows that differ only in how statistics were taken must not be averaged, nor drawn as one."""
    data = report_data(GEOMETRY, 3, 120)
    table = pd.DataFrame(
        {
            "score": ["dense", "flap", "flap"], "allocation": ["", "global", "global"], "ratio": [0.0, 0.2, 0.2],
            "compensation": ["", "affine", "affine"], "variant": ["", "one-shot", "one-shot, weighted"],
            "seed": [0, 0, 0], "perplexity": [10.0, 222.0, 15.0], "ratio_to_dense": [1.0, 22.2, 1.5],
        }
    )  # fmt: skip
    info = {"variants": {"one-shot, weighted": {"propagation": "one-shot", "token_weights": "stream"}}}
    data.results["pruning"] = Grid(table, info)
    html = data.page().html
    part = html[html.index('id="pruning"') :]
    assert "one-shot, weighted" in part and ">222<" in part and "statistics" in part
    assert "residual stream" in " ".join(methods_text(data)[0])


# -- single results -----------------------------------------------------------------------------------------------
Pruned = PrunedModel(
    None, None, [np.arange(70 + i) for i in range(6)], GEOMETRY, None, None,
    {"score": "flap", "ratio": 0.2, "n_parameters_after": 110000000, "perplexity": 20.5},
)  # fmt: skip


def fitted(networks):
    estimator = CanICA()
    estimator.networks_ = networks
    return estimator


@pytest.mark.parametrize(
    ("make", "section"),
    [
        (lambda: DoseResponse(dose_table(), None, DOSE_INFO), "doses"),
        (lambda: Order(15, 310, 300, order_curve(), None, {}), "order"),
        (lambda: Networks(GEOMETRY, 4, 120), "browse"),
        (lambda: fitted(Networks(GEOMETRY, 4, 120)), "networks"),
        (lambda: LesionResult(*lesion_tables(4), None), "lesions"),
        (lambda: lesion_tables(4)[0], "lesions"),
        (prune_table, "pruning"),
        (lambda: Pruned, "pruned"),
    ],
)
def test_every_single_result_has_its_report(make, section):
    report = generate_report(make(), title="My title")
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


def test_an_object_without_a_report_is_named():
    with pytest.raises(ParameterError, match="no report for int. Pass a study folder, a Study, a recording"):
        generate_report(5)


# -- the object ---------------------------------------------------------------------------------------------------
def test_a_report_saves_shows_and_frames_itself(tmp_path):
    report = generate_report(prune_table())
    path = report.save(tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == report.html == str(report) == report.get_standalone()
    report.save_as_html(tmp_path / "again.html")
    report.resize(500, 300)
    frame = report._repr_html_()
    assert frame.strip().startswith("<iframe srcdoc=") and 'width="500"' in frame and "<script" not in frame
    assert "pruning" in repr(report) and len(repr(report)) < 200
    with pytest.raises(ParameterError, match="belongs to no study folder"):
        HTMLReport("x").save()
    assert generate_report(prune_table(), output_file=tmp_path / "third.html").html
    assert (tmp_path / "third.html").is_file()


def test_only_earlier_reports_are_replaced(tmp_path):
    """A foreign file and a folder are refused before any work: the object would be refused later."""
    foreign = tmp_path / "thesis.html"
    foreign.write_text("<!DOCTYPE html><title>mine</title>")
    for path, message in ((foreign, "not a report of llmbrain"), (tmp_path, "is a folder. Pass a file")):
        with pytest.raises(ParameterError, match=message):
            generate_report(5, output_file=path)
        with pytest.raises(ParameterError, match=message):
            generate_report(prune_table()).save(path)
        with pytest.raises(ParameterError, match=message):
            generate_report(prune_table()).save_as_html(path)
    assert foreign.read_text().endswith("<title>mine</title>")
    os.mkfifo(tmp_path / "pipe.html")
    with pytest.raises(ParameterError, match="is not a file"):
        generate_report(prune_table()).save(tmp_path / "pipe.html")
    earlier = generate_report(prune_table(), title="first").save(tmp_path / "report.html")
    generate_report(prune_table(), title="second", output_file=earlier)
    assert "second" in earlier.read_text(encoding="utf-8")
