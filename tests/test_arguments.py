"""Arguments of plain functions and figures are refused by what their names mean."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted_runs

from llmbrain import images, masks, networks, parallel, plotting, pruning, stats, subjects, topography
from llmbrain.arguments import checked, count, finite, tensor
from llmbrain.exceptions import LLMBrainError, NumericalError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import controls
from llmbrain.networks.evidence import noise, order
from llmbrain.networks.evidence.dual_regression import dual_regression
from llmbrain.networks.evidence.recurrence import recurrence, threshold_maps
from llmbrain.networks.meaning import profiles, token_classes
from llmbrain.pruning import allocation, scores
from llmbrain.pruning.equations import solve_damped

NAN = float("nan")
RNG = np.random.default_rng(0)
GEOMETRY = NeuronGeometry.from_sizes([20] * 3)
MAPS, COURSES, LAYERS = RNG.normal(size=(4, 60)), RNG.normal(size=(3, 40, 2)), np.repeat(range(3), 20)
HOLES = np.where(np.arange(60) == 3, NAN, MAPS)
NETWORK, IMPORTANCE = MAPS[0] > 1, np.arange(60.0)
RUNS = planted_runs(30, 2, (40, 40))[0]
WEIGHT, GRAM = torch.ones(3, 4), torch.eye(4)
WIDTHS = [10, 10]
EVENTS = pd.DataFrame({"token": ["a"] * 40})

CASES = [
    (stats.icc, [HOLES]),
    (stats.icc, [MAPS + 1j]),
    (stats.overlap, [HOLES > 9, HOLES]),
    (stats.fdr, [None]),
    (stats.permutation_p, ["a", [1.0]]),
    (stats.minimum_draws, [0.05, float("inf")]),
    (stats.bootstrap_interval, [[1.0, 2.0], None], {"level": None}),
    (stats.Moments, [-1]),
    (images.fold, [0]),
    (NeuronGeometry, [(1.5, 2)]),
    (NeuronGeometry, [(2, 2), None]),
    (masks.NeuronMask.from_map, [np.where(IMPORTANCE > 58, np.inf, 0), GEOMETRY]),
    (masks.masks_from_maps, [MAPS, GEOMETRY, 1.0, "no"]),
    (masks.draw_control, ["layer", NETWORK, "geometry"]),
    (masks.draw_control, ["layer", NETWORK, GEOMETRY, "seed"]),
    (controls.permuted, [NETWORK[:9], LAYERS]),
    (controls.layer_matched, [NETWORK, LAYERS + NAN]),
    (controls.importance_matched, [NETWORK, LAYERS, IMPORTANCE], {"n_nearest": 2.5}),
    (parallel.Share, [2, 2]),
    (parallel.split, [3, 2, [1.0]]),
    (topography.fit_topography, [MAPS, None]),
    (subjects.align, [[1.0], [[0, NAN]], subjects.find_units("a")]),
    (subjects.align, [[1.0], [[0, 1]], "a"]),
    (subjects.rebuild_text, [["a", "b"], [[0, 1]]]),
    (subjects.isc_test, [COURSES], {"pairwise": "no"}),
    (subjects.isc_test, [COURSES], {"n_draws": 10**30}),
    (subjects.match_courses, [COURSES[0], COURSES[1], [0] * 9]),
    (subjects.word_confounds, [["a", ""], [0, 0]]),
    (subjects.word_confounds, [["a", "b"], [0, 0], ["surprisal"], [NAN, NAN]]),
    (subjects.regress_out, [COURSES[0] + NAN, COURSES[1]]),
    (subjects.linear_cka, [MAPS, HOLES]),
    (networks.group_ica, [RUNS, 2], {"max_iter": NAN}),
    (networks.group_ica, [RUNS, 2], {"tol": float("inf")}),
    (networks.group_ica, [RUNS, 2], {"detrend": "no"}),
    (networks.resampled_networks, [RUNS, 2], {"n_repeats": 10**30}),
    (networks.split_half, [MAPS, MAPS], {"n_draws": 0}),
    (order.split_half_curve, [RUNS, [2]], {"confounds": []}),
    (order.split_half_curve, [RUNS, [1.5]]),
    (noise.parallel_analysis, [RUNS], {"n_draws": 0}),
    (noise.parallel_analysis, [[]]),
    (noise.marchenko_pastur_count, ["runs"]),
    (threshold_maps, [HOLES]),
    (threshold_maps, [MAPS, NAN]),
    (recurrence, [MAPS, [MAPS]], {"threshold": 1.0, "iou": NAN}),
    (dual_regression, [HOLES, MAPS]),
    (dual_regression, [MAPS, HOLES[:2]]),
    (profiles.layer_profile, [HOLES, LAYERS]),
    (token_classes.token_regressors, ["events"]),
    (scores.magnitude, [None]),
    (scores.wanda_sp, [WEIGHT, torch.ones(5)]),
    (scores.obs_column, [WEIGHT, GRAM * NAN]),
    (scores.obs_column, [WEIGHT, GRAM, NAN]),
    (scores.greedy_obs, [WEIGHT, GRAM], {"min_kept": 0}),
    (scores.block_sum, [torch.ones(4), 2, "median"]),
    (allocation.uniform, [WIDTHS, 10], {"round_to": 1.5}),
    (allocation.uniform, [WIDTHS, 10], {"floors": NAN}),
    (allocation.round_counts, [[NAN, 5], WIDTHS, 10]),
    (plotting.plot_network_map, [MAPS, 0, "geometry"]),
    (plotting.plot_network_map, [None, 0, GEOMETRY]),
    (plotting.plot_network_map, [MAPS, 0, GEOMETRY], {"threshold": "x"}),
    (plotting.plot_network_map, [MAPS, 0, GEOMETRY], {"topography": "x"}),
    (plotting.plot_network_maps, [MAPS[:0], GEOMETRY]),
    (plotting.plot_network_maps, [MAPS, GEOMETRY], {"n_columns": -1}),
    (plotting.plot_prob_atlas, [MAPS, GEOMETRY], {"layers": []}),
    (plotting.plot_comparison, [MAPS, MAPS], {"names": "x"}),
    (plotting.plot_time_courses, [COURSES[0], EVENTS], {"tokens": [0]}),
    (plotting.plot_time_courses, [COURSES[0], EVENTS.drop(columns="token")]),
    (plotting.plot_words, [["a"], [1.0]], {"scale": NAN}),
    (plotting.plot_words, [["a"], [1.0]], {"width": 0}),
    (plotting.plot_stability, [[0.5]], {"bar": "x"}),
    (plotting.plot_order, [5]),
    (plotting.plot_models, ["comparison"]),
    (plotting.plot_dose_response, [[]]),
    (plotting.plot_selectivity, [pd.DataFrame(columns=["network", "task", "effect"])]),
    (plotting.plot_pruning_grid, ["table"]),
    (plotting.plot_matching, [MAPS[:, :4]], {"pairs": [(0, 9)]}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_values_that_mean_nothing_are_refused_with_one_sentence(case):
    function, args, *options = case
    with pytest.raises(LLMBrainError) as caught:
        function(*args, **(options[0] if options else {}))
    assert isinstance(caught.value, ValueError) and str(caught.value)


def test_rules_follow_the_signature():
    @checked(values=finite, weight=tensor("rows", "columns"), other=tensor("columns"), k=count)
    def function(values, weight=None, other=None, *, k=None, n_draws=5):
        return values, k, n_draws

    assert function([1, 2]) == ([1, 2], None, 5)  # defaults are never refused
    assert function([1.0], torch.ones(2, 3), torch.ones(3), k=2)[1] == 2
    for bad in ({"n_draws": 1.5}, {"k": 0}, {"weight": torch.ones(2, 3), "other": torch.ones(2)}):
        with pytest.raises(ParameterError):
            function([1.0], **bad)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'values'"):
        function()


def test_a_covariance_of_nan_is_an_error_and_not_an_endless_loop():
    broken = torch.eye(3, dtype=torch.float64)
    broken[0, 1] = NAN
    with pytest.raises(NumericalError, match="covariance"):
        solve_damped(broken.T, torch.eye(3, dtype=torch.float64), 0.01)


def test_seeds_are_what_numpy_takes():
    for seed in (None, 0, np.int64(3), [0, 1], np.array([2, 3]), np.random.default_rng(0), np.random.SeedSequence(1)):
        assert controls.layer_matched(NETWORK, LAYERS, seed).sum() == NETWORK.sum()


def test_numbers_of_numpy_count_as_numbers():
    assert stats.minimum_draws(np.float64(0.05), np.int64(1)) == 19
    assert pruning.allocation.uniform(np.array([10.0, 10.0]), np.int64(10)).tolist() == [5, 5]
