"""The methods section: what was run, and nothing else."""

import pytest
from synthetic import Networks, lesion_tables, report_data

from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import LesionResult
from llmbrain.reporting.references import CITED_AS, REFERENCES, bibtex
from llmbrain.reporting.stations.methods import methods_text
from llmbrain.reporting.stations.networks import Found

GEOMETRY = NeuronGeometry.from_sizes([96] * 6)


@pytest.fixture
def data():
    return report_data(GEOMETRY, 6, 240)


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
    assert {
        "varoquaux2010canica",
        "hyvarinen1999fastica",
        "phipson2010permutation",
        "benjamini1995fdr",
        "an2024flap",
        "sun2024wanda",
        "gorgolewski2016bids",
    } <= set(cited)
    assert all(key in CITED_AS for key in REFERENCES) and all(CITED_AS[key] in text for key in cited)
    assert bibtex(cited).count("@") == len(cited)


def test_methods_leave_out_what_was_not_run(data):
    gone = ("networks", "lesions", "pruning", "display", "drivers", "order", "doses", "localizers")
    data.results.update(dict.fromkeys(gone))
    text = " ".join(methods_text(data)[0])
    assert (
        "lesioned" not in text
        and "CanICA" not in text
        and "removed permanently" not in text
        and "display only" not in text
    )
    cited = methods_text(data)[1]
    assert "varoquaux2010canica" not in cited and "benjamini1995fdr" not in cited and "an2024flap" not in cited


def test_methods_follow_the_settings(data):
    networks = Networks(GEOMETRY, 3, 120)
    networks.info = {
        "method": "DictLearning",
        "parameters": {"alpha": 2, "random_state": 7},
        "converged": [True, False],
    }
    info = {"lesion": {"how": "mean"}, "families": {"layer": "as many in each layer"}}
    lesion = LesionResult(*lesion_tables(3), None, info)
    data.results.update(networks=Found(networks), lesions=lesion)
    text = " ".join(methods_text(data)[0])
    assert "dictionary learning" in text and "seed 7" in text and "alpha 2" in text and "did not converge" in text
    assert "clamped to their mean" in text and "as many in each layer" in text
