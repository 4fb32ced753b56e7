"""Results that were made from lesions know when these change; what else makes a result stale is in test_results."""

import numpy as np
import pandas as pd
import pytest
from recorded import TEXTS, quiet
from tiny import tiny_model, tiny_tokenizer

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


@pytest.mark.filterwarnings("ignore")
def test_results_of_a_recording_know_when_it_grows(tmp_path):
    """Also those that need no networks: localizers, and lesions of masks with controls matched by activity."""
    import llmbrain as lb
    from llmbrain.lesions import LossTask
    from llmbrain.networks import localize

    model, tokenizer = tiny_model(), tiny_tokenizer()
    amounts = {"tokens_per_run": 40}
    recording = quiet(model, tokenizer, TEXTS * 3, tmp_path / "study", run_index=[1, 2], **amounts)
    events = [run.events.assign(document=lambda e: e.index // 5, kind=lambda e: e.index // 5 % 2) for run in recording]
    found = localize(list(recording), events, (0, 1))
    mask = lb.NeuronMask(np.arange(recording.geometry.n_neurons) % 9 == 0, recording.geometry, name="mine")

    def lesion(how, **options):
        return lb.LesionStudy([mask], [LossTask(TEXTS)], n_controls=1, how=how, **options).run(model, tokenizer)

    study = recording.study
    found.save(study, recording.geometry, "own")
    lesion("zero", controls=["layer+importance"], reference=recording).save(study, "matched")
    lesion("mean", controls=["layer"], reference={"mlp": recording}).save(study, "mean")
    lesion("zero", controls=["layer"], reference=recording).save(study, "silent")
    elsewhere = quiet(model, tokenizer, TEXTS * 2, tmp_path / "elsewhere", **amounts)
    rows = [run.events.assign(document=lambda e: e.index // 5, kind=lambda e: e.index // 5 % 2) for run in elsewhere]
    localize(list(elsewhere), rows, (0, 1)).save(study, recording.geometry, "elsewhere")

    names = {"own": "localizer", "elsewhere": "localizer", "matched": "lesions", "mean": "lesions", "silent": "lesions"}
    assert not any(open_result(study, kind, name).stale for name, kind in names.items())
    quiet(model, tokenizer, TEXTS * 3, study.root, **amounts)
    stale = {name: open_result(study, kind, name).stale for name, kind in names.items()}
    assert all("the recording has" in stale[name] for name in ("own", "matched", "mean")), stale
    assert not stale["silent"] and not stale["elsewhere"]  # these did not read the recording


@pytest.mark.filterwarnings("ignore")
def test_a_localizer_of_another_model_is_stale(tmp_path):
    from llmbrain.networks import localize

    other = quiet(tiny_model(seed=1), tiny_tokenizer(), TEXTS * 2, tmp_path / "other")
    rows = [run.events.assign(document=lambda e: e.index // 5, kind=lambda e: e.index // 5 % 2) for run in other]
    own = quiet(tiny_model(), tiny_tokenizer(), TEXTS * 2, tmp_path / "own").study
    localize(list(other), rows, (0, 1)).save(own, other.geometry, "a")
    assert "weights hash" in open_result(own, "localizer", "a").stale
