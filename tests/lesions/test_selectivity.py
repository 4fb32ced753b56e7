"""Selectivity of networks for tasks, and double dissociations."""

import numpy as np
import pandas as pd
import pytest
from held import TEXTS

from llmbrain.exceptions import ParameterError
from llmbrain.lesions import (
    LesionResult,
    LesionStudy,
    LossTask,
    double_dissociations,
    selectivity,
)


def made_up(effects, n_items=12, noise=0.05, seed=0):
    """A result in which the networks have the given mean effects on the tasks, ``{network: {task: effect}}``."""
    rng = np.random.default_rng(seed)
    items, table, draws = [], [], []
    for task in next(iter(effects.values())):
        shared = rng.normal(0, 1, n_items)  # documents differ more than lesions do; pairing takes it out
        for network, row in effects.items():
            effect = row[task] + shared + rng.normal(0, noise, n_items)
            for i in range(n_items):
                items.append((network, task, f"{task}-{i}", 1.0, 3.0, effect[i]))
            table.append((network, task, "layer", effect.mean(), row[task] / 0.1, 0.01 if row[task] > 0.3 else 0.5))
    columns = ["network", "task", "family", "effect", "z", "p"]
    table = pd.DataFrame(table, columns=columns).assign(ci_low=0.0, ci_high=0.0, control_max=0.0, q=0.5)
    items = pd.DataFrame(items, columns=["network", "task", "item", "weight", "intact", "effect"])
    return LesionResult(table, pd.DataFrame(draws), items)


PLANTED = {
    "code-net": {"loss:code": 0.8, "loss:prose": 0.1, "loss:talk": 0.2},
    "prose-net": {"loss:code": 0.1, "loss:prose": 0.7, "loss:talk": 0.2},
    "broad-net": {"loss:code": 0.9, "loss:prose": 0.8, "loss:talk": 0.9},
}


def test_a_planted_double_dissociation_is_found_and_a_common_drop_is_not():
    found = double_dissociations(made_up(PLANTED))
    sure = found[found.q < 0.05]
    pairs = {tuple(sorted((r.network_1, r.network_2))) for r in sure.itertuples()}
    assert pairs == {("code-net", "prose-net")}
    first = sure.iloc[0]
    assert (first.network_1, first.task_1, first.network_2, first.task_2) == (
        "code-net",
        "loss:code",
        "prose-net",
        "loss:prose",
    )
    assert first.interaction == pytest.approx(0.7 + 0.6, abs=0.1)
    assert first.beyond_controls
    assert first.effect_11 - first.effect_21 == pytest.approx(0.7, abs=0.1)


def test_items_that_were_not_read_count_for_neither_network():
    result, whole = made_up(PLANTED), double_dissociations(made_up(PLANTED)).iloc[0]
    largest = result.items[result.items.task == "loss:code"].groupby("network").effect.idxmax()
    result.items.loc[largest["code-net"], "effect"] = np.nan  # a document that is hard for every network
    first = double_dissociations(result).iloc[0]
    assert (first.network_1, first.task_1) == ("code-net", "loss:code")
    assert first.q < 0.05
    assert first.interaction == pytest.approx(whole.interaction, abs=0.05)


def test_no_dissociation_is_found_in_noise():
    nothing = {f"n{k}": {"loss:a": 0.2, "loss:b": 0.2, "loss:c": 0.2} for k in range(4)}
    hits = [(double_dissociations(made_up(nothing, seed=s), n_bootstrap=1000).q < 0.05).any() for s in range(20)]
    assert sum(hits) <= 2


def test_selectivity_compares_a_task_with_the_others_of_the_network():
    frame = selectivity(made_up(PLANTED)).set_index(["network", "task"])
    assert frame.loc[("code-net", "loss:code"), "selectivity"] == pytest.approx(8.0 - 1.5)
    assert frame.loc[("broad-net", "loss:code"), "selectivity"] == pytest.approx(9.0 - 8.5)
    assert frame.q.max() <= 1
    with pytest.raises(ParameterError, match="no control family"):
        selectivity(made_up(PLANTED), family="random")
    with pytest.raises(ParameterError, match="no task"):
        double_dissociations(made_up(PLANTED), tasks=["x", "loss:code"])
    with pytest.raises(ParameterError, match="two networks"):
        double_dissociations(made_up(PLANTED), networks=["code-net"])


def test_selectivity_of_a_real_study_can_be_drawn(tiny, masks, tmp_path):
    from llmbrain.plotting import plot_selectivity

    result = LesionStudy(masks, [LossTask(TEXTS)], n_controls=5, controls=("layer",)).run(*tiny, progress=False)
    frame = selectivity(result)
    assert set(frame.task) == {"loss:a", "loss:b"}
    double_dissociations(result, n_bootstrap=200)
    plot_selectivity(frame, value="z", output_file=tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 1000
