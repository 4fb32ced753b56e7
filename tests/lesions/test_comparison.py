"""Networks compared with their controls: uniform p-values under the null, the table, the power of a design."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from llmbrain.lesions.comparison import compare, effects_table, power_note, smallest_p
from llmbrain.masks import controls


def null_study(seed, n_networks=1, n_controls=19, share=0.05, draw=controls.layer_matched):
    """A world in which every neuron has an effect of its own and networks are nothing but random sets."""
    rng = np.random.default_rng(seed)
    layer_of = np.repeat(np.arange(5), 200)
    weight = rng.lognormal(size=1000)
    items, draws, networks = [], [], []
    for k in range(n_networks):
        network = controls.layer_matched(rng.random(1000) < share, layer_of, rng)
        noise = rng.normal(0, 0.01, 6)
        for i in range(6):
            items.append((f"n{k}", "loss", f"d{i}", 1.0, 3.0, weight[network].sum() + noise[i]))
        for d in range(n_controls):
            draws.append((f"n{k}", "loss", "layer", d, weight[draw(network, layer_of, rng)].sum()))
        networks.append((f"n{k}", int(network.sum()), float(network.mean())))
    return effects_table(
        pd.DataFrame(networks, columns=["network", "n_neurons", "share"]),
        pd.DataFrame(items, columns=["network", "task", "item", "weight", "intact", "effect"]),
        pd.DataFrame(draws, columns=["network", "task", "family", "draw", "effect"]),
        n_draws=10,
        random_state=0,
    )


@pytest.mark.parametrize("draw", [controls.layer_matched, controls.permuted])
def test_p_values_are_uniform_when_networks_are_random_sets(draw):
    p = np.concatenate([null_study(seed, n_networks=25, draw=draw).p for seed in range(10)])
    # p takes the values 1/20 ... 1; spread evenly within its steps it must be uniform
    spread = p - np.random.default_rng(0).random(250) / 20
    assert scipy_stats.kstest(spread, "uniform").pvalue > 0.01
    assert 0.02 < (p <= 0.05).mean() < 0.09


def test_pooled_p_values_are_uniform_when_networks_are_random_sets():
    p = np.concatenate([null_study(seed, n_networks=5).p_pooled for seed in range(60)])
    spread = p - np.random.default_rng(0).random(300) / 96
    assert scipy_stats.kstest(spread, "uniform").pvalue > 0.01
    assert p.min() < 1 / 21  # finer than what the 19 controls of one network allow


def test_pooled_p_is_the_rank_among_the_standardised_controls_of_all():
    from llmbrain.lesions.comparison import pooled_p

    rng = np.random.default_rng(0)
    effects, draws = np.array([0.2, 5.0, np.pi]), [rng.normal(0, 1, 6), rng.normal(1, 3, 6), [1.0, 2.0]]
    scores = []
    for effect, part in zip(effects[:2], draws):
        values = np.r_[effect, part]
        scores.append(
            [(v - np.delete(values, i).mean()) / np.delete(values, i).std(ddof=1) for i, v in enumerate(values)]
        )
    pool = np.concatenate([s[1:] for s in scores])
    expected = [(1 + (pool >= s[0]).sum()) / 13 for s in scores]
    got = pooled_p(effects, draws)
    assert got[:2].tolist() == pytest.approx(expected)
    assert np.isnan(got[2])  # two controls say nothing of a spread
    np.testing.assert_allclose(pooled_p(effects * 7 + 3, [np.array(d) * 7 + 3 for d in draws])[:2], expected)


def test_the_table_is_what_its_columns_say():
    networks = pd.DataFrame({"network": ["a", "b"], "n_neurons": [3, 5], "share": [0.1, 0.2]})
    items = pd.DataFrame(
        {
            "network": list("aabb"),
            "task": "loss",
            "item": ["x", "y"] * 2,
            "weight": [1.0, 3.0] * 2,
            "intact": [2.0, 4.0] * 2,
            "effect": [1.0, 2.0, 0.0, 0.4],
        }
    )
    draws = pd.DataFrame(
        {
            "network": ["a"] * 3 + ["b"] * 3,
            "task": "loss",
            "family": "layer",
            "draw": [0, 1, 2] * 2,
            "effect": [0.0, 1.0, 2.0, 0.3, 0.2, 0.1],
        }
    )
    table = effects_table(networks, items, draws).set_index("network")
    assert table.effect.tolist() == pytest.approx([1.75, 0.3])
    assert table.intact.tolist() == pytest.approx([3.5, 3.5])
    assert table.control_mean.tolist() == pytest.approx([1.0, 0.2])
    assert table.control_max.tolist() == pytest.approx([2.0, 0.3])
    assert table.z.tolist() == pytest.approx([0.75, 1.0])
    assert table.p.tolist() == pytest.approx([0.5, 0.5])
    assert table.q.tolist() == pytest.approx([0.5, 0.5])  # a tie counts against the network, whatever the last bit
    less = effects_table(networks, items, draws, alternative="less").p
    assert less.tolist() == pytest.approx([0.75, 1.0])


def test_two_sided_tests_need_twice_the_controls():
    assert smallest_p(39, "two-sided") == smallest_p(19) == 0.05
    note = power_note(20, 10, alternative="two-sided")
    assert (note["needed_for_one"], note["needed_for_all"]) == (39, 399)
    assert note["smallest_p_pooled"] == pytest.approx(2 / 201)
    table = null_study(0, n_controls=9)
    assert table.p_min.tolist() == [0.1]
    assert compare(3.0, [1.0, 2.0, np.nan], "two-sided")["p_min"] == pytest.approx(2 / 3)


def test_power_note_says_what_p_can_be_reached():
    note = power_note(20, 10)
    assert note["smallest_p"] == pytest.approx(1 / 21)
    assert (note["needed_for_one"], note["needed_for_all"]) == (19, 199)
    assert "199" in note["note"]
