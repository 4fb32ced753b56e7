"""nilearn's own checks of estimators, on CanICA and DictLearning."""

import functools
import sys
import types
from importlib import import_module
from importlib.util import find_spec

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from llmbrain.networks import CanICA, DictLearning


def nilearns_checks():
    """The module of nilearn's checks, which imports polars (for maskers of tables) and tests with other markers."""
    stub = not find_spec("polars")
    if stub:
        polars = sys.modules["polars"] = types.ModuleType("polars")
        polars.DataFrame, polars.Series = type("DataFrame", (), {}), type("Series", (), {})
    strict, pytest.mark._config = pytest.mark._config, None
    try:
        return import_module("nilearn._utils.estimator_checks")
    finally:
        pytest.mark._config = strict
        if stub:  # other packages would ask for its specification and fail
            del sys.modules["polars"]


_FLOATS = "everything is computed in float32, and so are courses and images; dtype concerns engine='nilearn' alone"
_QUIET = "memory concerns engine='nilearn'; the fast engine caches nothing, and verbose shows bars on a terminal"
EXPECTED = {
    "check_doc_attributes": "nilearn's parameters are described together, in one paragraph",
    "check_doc_link": "the pages of nilearn do not describe these classes",
    "check_img_estimator_cache_warning": _QUIET,
    "check_img_estimator_verbose": _QUIET,
    "check_verbosity_embedded_masker": _QUIET,
    "check_img_estimator_dtypes_transform": _FLOATS,
    "check_img_estimator_dtypes_inverse_transform": _FLOATS,
    "check_img_estimator_dtype_bool": _FLOATS,
}


ESTIMATORS = [CanICA(3, n_init=1), DictLearning(3, n_epochs=2)]
MODULE = nilearns_checks()


@functools.cache
def _images(kind, draw=MODULE.generate_data_to_fit):
    return draw(next(e for e in ESTIMATORS if type(e) is kind))


def _same_images(estimator, draw=MODULE.generate_data_to_fit):
    return _images(type(estimator)) if isinstance(estimator, (CanICA, DictLearning)) else draw(estimator)


# The checks draw the same images a hundred times, which takes longer than to decompose them
MODULE.generate_data_to_fit = _same_images


def _name(check, name):
    return name if isinstance(name, str) else getattr(check, "func", check).__name__


CHECKS = [
    pytest.param(estimator, check, _name(check, name), id=f"{type(estimator).__name__}-{_name(check, name)}")
    for estimator, check, name in MODULE.nilearn_check_estimator(estimators=ESTIMATORS)
]


@pytest.mark.parametrize(("estimator", "check", "name"), CHECKS)
@pytest.mark.filterwarnings("ignore")
def test_nilearns_checks(estimator, check, name):
    if name in EXPECTED:
        pytest.xfail(EXPECTED[name])
    check(estimator)


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=MODULE.return_expected_failed_checks)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    """Checks that images cannot pass are those that nilearn lists for its own estimators."""
    check(estimator)
