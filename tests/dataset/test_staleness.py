"""Results that were made from lesions know when these change; what else makes a result stale is in test_results."""

import pandas as pd
import pytest

from llmbrain.dataset import Study, open_result, write_result
from llmbrain.dataset.staleness import lesions_of, stale_reason

NETWORKS = {"first": "n1", "second": "n2"}


def lesions(study, name, effect=0.0, networks=None):
    table = pd.DataFrame({"network": ["network-0"], "effect": [effect]})
    sources = {"networks": [networks or NETWORKS[study.name.removeprefix("sub-")]]}
    write_result(study, "lesions", name, {"lesion_effects": table}, {}, sources=sources)


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """Two models with a lesion study each, and a comparison that was made from them."""
    monkeypatch.setattr("llmbrain.dataset.staleness._changed_networks", lambda study, made: "")
    monkeypatch.setattr("llmbrain.dataset.staleness._changed_others", lambda study, others: "")
    studies = []
    for name in NETWORKS:
        model = {"id": name, "weights_hash": name, "architecture": "x"}
        studies.append(Study.create(tmp_path / "both", model, {"name": "texts", "hash": "h"}, subject=name))
        lesions(studies[-1], "loss")
    sources = {
        "networks": ["n1"], "others": {"sub-second": "n2"},
        "lesions": {one.name: lesions_of(one, NETWORKS[one.name.removeprefix("sub-")]) for one in studies},
    }  # fmt: skip
    parts = {"comparison_shared": pd.DataFrame({"network": [0]})}
    write_result(studies[0], "comparison", "comparison", parts, {}, sources=sources)
    return studies


def test_a_comparison_stays_valid_while_its_lesions_do(compared):
    lesions(compared[0], "loss")  # the same again
    lesions(compared[1], "elsewhere", networks="of other networks")
    assert stale_reason(open_result(compared[0], "comparison")) == ""


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("name", "effect"), [("loss", 1.0), ("more", 0.0)])
def test_a_comparison_is_stale_if_lesions_of_either_model_are_run_again_or_added(compared, which, name, effect):
    lesions(compared[which], name, effect)
    reason = stale_reason(open_result(compared[0], "comparison"))
    assert f"the lesions of {compared[which].name} have changed since ({name})" in reason


def test_other_results_do_not_ask_for_lesions(compared):
    write_result(compared[0], "doses", "a", {"dose_effects": pd.DataFrame({"network": [0]})}, {}, sources={})
    lesions(compared[0], "loss", 1.0)
    assert open_result(compared[0], "doses", "a").stale == ""
