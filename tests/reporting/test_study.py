"""Reports of a real study, tiny, from its folder."""

import shutil

import numpy as np
import pandas as pd
import pytest
from pages import check_page
from synthetic import DOSE_INFO, dose_table, localizer, order_curve

from llmbrain.dataset import Study
from llmbrain.exceptions import DatasetError, LLMBrainWarning
from llmbrain.reporting import generate_report
from llmbrain.reporting.report import Report
from llmbrain.reporting.stations import browse, display, drivers


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
    assert generate_report(study.root).html == report.html  # also with an earlier page in the folder
    wanted = {"summary", "model", "recording", "quality", "networks", "browse", "lesions", "methods", "files"}
    assert set(report.sections) == wanted
    files = [link for link in page.links if not link.startswith("#")]
    assert len(files) > 5 and all((study.path("report").parent / file).is_file() for file in files)
    assert "No pruning has been compared yet" in report.html
    assert "network-03" in page.ids and "seed 3" in report.html
    assert study.info["model"]["weights_hash"] in report.html


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_recording_is_not_drawn(study, tmp_path):
    """Half of a run is zeros, as after a power failure; its header and its size are right."""
    copy = Study.open(shutil.copytree(study.root, tmp_path / "study"))
    path = copy.path("bold", run=1)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    report = generate_report(copy)
    assert f"{path.name} is damaged" in report.html
    assert not {"recording", "quality"} & set(report.sections) and "networks" in report.sections


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
def test_artefacts_are_named(study):
    """A network that follows the position in the text is marked on its page and named as an artefact."""
    from llmbrain.networks.result import NetworkSet

    networks = NetworkSet.load(study)
    recording = study.recording()
    for course, run in zip(networks.time_courses, recording):
        course[:, 2] = run.events["position"]
    data = Report.of_study(study)
    data["networks"].networks = networks
    frames = [run.events.assign(run=run.index) for run in recording]
    data.results["drivers"] = drivers.drivers_of(networks.time_courses, frames)
    assert data["drivers"].interpretation.table["artefact"][2] == "position"
    html = browse.Browse().section(data, data["networks"])
    card = html[html.index('id="network-02"') : html.index('id="network-03"')]
    assert "as a brain network would follow head motion" in card and "artefact: position" in card


@pytest.mark.filterwarnings("ignore")
def test_the_display_order_is_kept_with_the_study_and_used_again(study):
    from llmbrain.topography import Topography

    generate_report(study)
    path = study.path("topography", desc="canica4")
    first = path.read_bytes()
    assert "odd runs" in Topography.load(path).info["source"]
    generate_report(study)
    assert path.read_bytes() == first
    assert "odd runs" in generate_report(study).html


@pytest.mark.filterwarnings("ignore")
def test_a_recording_alone(study):
    report = generate_report(study.recording())
    check_page(report.html)
    assert report.sections == ["summary", "model", "recording", "quality", "methods"]
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
        data = Report.of_study(study)
        np.testing.assert_allclose(data["localizers"][0].z, made.z, rtol=1e-5)
        np.testing.assert_array_equal(data["localizers"][0].selected, made.selected)
        assert data["localizers"][0].contrast == ("code", "prose") and data["order"][0][2]["n_components"] == 15
        pd.testing.assert_frame_equal(data["doses"][0].table, dose_table(2), check_exact=False)
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
    assert (
        Report.of_study(Study.open(tmp_path / "study"))["recording"].carpet[0].shape[1] == networks.geometry.n_neurons
    )


def test_a_damaged_file_of_one_station_leaves_the_others(study):
    """The report names the file, also in a warning, and shows everything else."""
    path = study.path("components_json", desc="canica4")
    before = path.read_text()
    path.write_text("[]")
    try:
        with pytest.warns(LLMBrainWarning, match=f"The decomposition 'canica4' cannot be read: .*{path.name}"):
            report = generate_report(study.root)
        check_page(report.html)
        assert "cannot be read" in report.html and path.name in report.html
        assert "networks" not in report.sections and "recording" in report.sections
        assert "lesions" not in report.sections and "it holds canica4 (damaged)" in report.html
    finally:
        path.write_text(before)


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(DatasetError, match="holds no study"):
        generate_report(tmp_path)
