"""Parameters that are refused, and harmful ones that give a warning."""

import warnings

import numpy as np
import pytest
from planted import GEOMETRY, K, recovery

from llmbrain.exceptions import (
    HarmfulOptionWarning,
    ParameterError,
)
from llmbrain.networks import CanICA


def test_smoothing_loses_them(planted):
    runs, maps = planted
    with pytest.warns(HarmfulOptionWarning, match="scattered neurons are lost"):
        found = CanICA(K, geometry=GEOMETRY, smoothing_fwhm=6, n_init=1).fit(runs)
    assert found.engine_ == "nilearn"
    assert recovery(maps, found.components_).mean() < 0.5


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"n_components": 0}, "positive integer"),
        ({"n_components": 2.5}, "positive integer"),
        ({"n_components": 500}, "at most 398"),
        ({"n_init": 0}, "n_init"),
        ({"threshold": 7.0}, "threshold"),
        ({"threshold": "all"}, "threshold"),
        ({"engine": "numpy"}, "engine"),
        ({"standardize": "zscore"}, "zscore_sample"),
        ({"scope": 0}, "scope"),
        ({"scope": "head"}, "scope"),
        ({"solver_params": {"speed": 1}}, "speed"),
        ({"solver_params": {"group": "all"}}, "group"),
        ({"solver_params": {"contrast": "exp"}}, "contrast"),
        ({"engine": "nilearn", "scope": "layer"}, "scope"),
        ({"engine": "nilearn", "solver_params": {"tol": 1}}, "solver_params"),
        ({"solver_params": "fast"}, "must be a dict"),
        ({"solver_params": {"device": "meta-cuda"}}, "Unknown device 'meta-cuda'"),
        ({"random_state": np.random.default_rng(0)}, "RandomState or None; got a Generator"),
        ({"random_state": -1}, "random_state=-1: it must be 0 to"),
        ({"random_state": 2**32}, "it must be 0 to"),
        ({"n_components": "many"}, "positive integer"),
        ({"n_components": "auto", "scope": "layer"}, "needs scope"),
    ],
)
def test_bad_parameters(params, match, planted):
    with pytest.raises(ParameterError, match=match):
        CanICA(**{"n_components": K, "geometry": GEOMETRY, **params}).fit(planted[0])


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"mask_strategy": "epi"}, "few or none"),
        ({"detrend": True}, "follows the position"),
        ({"standardize": "psc"}, "networks are lost"),
        ({"standardize": None}, "few loud neurons"),
        ({"low_pass": 0.1, "t_r": 1.0}, "low_pass"),
        ({"target_shape": (20, 10, 10), "target_affine": np.eye(4)}, "resamples"),
    ],
)
def test_harmful_options_say_what_they_would_do(params, match, planted):
    runs = [np.abs(run) + 1 for run in planted[0]]  # "psc" needs positive means
    with pytest.warns(HarmfulOptionWarning, match=match):
        CanICA(3, geometry=GEOMETRY, n_init=1, **params).fit(runs)


def test_right_options_say_nothing(planted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CanICA(3, geometry=GEOMETRY, n_init=1).fit(planted[0])
        CanICA(3, geometry=GEOMETRY, n_init=1, standardize=True, engine="nilearn").fit(planted[0])
