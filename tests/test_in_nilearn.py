"""The page docs/in_nilearn.md: its code runs, in its order, on a small study, and finds what was planted there."""

import re
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "in_nilearn.md"
if not PAGE.is_file():
    pytest.skip("the documentation is not in an installed package", allow_module_level=True)

BLOCK = re.compile(r"(<!-- not run.*-->\n)?```python\n(.*?)```", re.DOTALL)
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
EXAMPLES = {s.partition("\n")[0]: [m[2] for m in BLOCK.finditer(s) if not m[1]] for s in SECTIONS}
NEEDS = {"pybids": "bids"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study of two kinds of text with three networks, as ``study`` in a folder."""
    import llmbrain as lb
    from llmbrain.text import Corpus, Document

    said = {"prose": "the cat sat on the mat and then the rain fell on it ", "code": "def add(a, b): return a + b; "}
    kinds = ["prose", "code"] * 6
    texts = [Document(said[kind] * 3 + str(i) * i, id=f"text-{i}", kind=kind) for i, kind in enumerate(kinds)]
    place = tmp_path_factory.mktemp("page")
    model, options = tiny_model("llama", intermediate_size=500), {"tokens_per_run": 700, "progress": False}
    runs = lb.record(model, tiny_tokenizer(), Corpus(texts, name="two kinds"), out=place / "study", **options)
    networks = lb.CanICA(3, n_init=2).fit(runs).networks_
    networks.set_threshold(1.5).save(place / "study")  # maps of random weights have no tails
    return place


@pytest.fixture(scope="module")
def namespace():
    return {}


@pytest.mark.parametrize("section", EXAMPLES)
@pytest.mark.filterwarnings("ignore")
def test_section_runs(section, folder, namespace, monkeypatch):
    if section in NEEDS:
        pytest.importorskip(NEEDS[section], reason="pybids is not installed (pip install pybids)")
    monkeypatch.chdir(folder)
    for block in EXAMPLES[section]:
        exec(compile(block, f"in_nilearn.md: {section}", "exec"), namespace)
    check = CHECKS.get(section)
    if check:
        check(**namespace)


def check_maskers(runs, neurons, means, signals, geometry, networks, **_):
    x = runs[0].to_array()
    np.testing.assert_allclose(neurons, (x - x.mean(0)) / x.std(0, ddof=1), atol=1e-3)
    np.testing.assert_allclose(means, [[part.mean() for part in geometry.split(row)] for row in x], rtol=1e-4)
    labels = np.unique(geometry.to_array(runs.study.path("networks_dseg", desc=networks.name)))
    assert signals.shape == (len(x), (labels > 0).sum())


def check_glm(runs, z, events, glm, first, **_):
    from scipy.stats import ttest_ind

    assert glm.design_matrices_[0].columns.tolist() == ["code", "prose", "constant"] and first == "code"
    x, code = np.concatenate([run.to_array() for run in runs]), (events["trial_type"] == "code").to_numpy()
    assert np.corrcoef(z, ttest_ind(x[code], x[~code]).statistic)[0, 1] > 0.9


def check_own_events(commas, events, runs, confounds, z, **_):
    assert set(events["trial_type"]) == {"comma", "other"} and len(confounds) == runs.n_tokens
    assert np.isfinite(z).all() and commas.count == (np.abs(z) > 5).sum()


def check_connectivity(matrices, courses, networks, runs, **_):
    assert matrices.shape == (len(runs), 3, 3) and len(courses) == len(runs)
    np.testing.assert_allclose(courses[0], networks.time_courses[0], rtol=1e-3, atol=1e-4)


def check_pictures(maps, networks, geometry, **_):
    np.testing.assert_allclose(geometry.to_array(maps), networks.z, rtol=1e-5)
    assert Path("network-00.png").stat().st_size > 5000 and "brainsprite" in Path("network-00.html").read_text()


def check_pybids(layout, bold, masks, tr, runs, **_):
    assert len(bold) == len(runs) and len(masks) == 3 and tr == 1.0
    assert layout.get_subjects() == [runs.study.subject]


CHECKS = {
    "Maskers": check_maskers,
    "A linear model of the events": check_glm,
    "Events of your own": check_own_events,
    "Connectivity of networks": check_connectivity,
    "Pictures": check_pictures,
    "pybids": check_pybids,
}


def test_checks_belong_to_sections():
    assert set(CHECKS) | set(NEEDS) <= set(EXAMPLES)
