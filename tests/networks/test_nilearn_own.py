"""nilearn's own tests of decomposition, with the estimators of this package in the place of nilearn's.

nilearn installs its test modules with itself. They are imported here while its names ``CanICA`` and ``DictLearning``
stand for ours, so every test and its data are nilearn's, and every setting that a test does not choose is our default,
but for the checks of conventions, which fit noise several hundred times: they start once instead of ten times, and
learn dictionaries in 3 passes instead of 100.
Tests of surfaces are left out, because neurons are volumes. What ``EXPECTED`` names must fail; all others must pass.
"""

import inspect
from contextlib import ExitStack
from importlib import import_module
from unittest.mock import patch

import nilearn.decomposition
import pytest
from nilearns import estimator_checks, importable

from llmbrain.networks import CanICA, DictLearning

# For both estimators. The names are of tests, or of nilearn's checks.
EXPECTED = {
    "test_fit_errors": "expects that without mask= the strategy 'epi' finds an empty mask; here all neurons are used",
    "test_masker_attributes_with_fit_masker": "the masker has another shape than the images, which nilearn resamples; "
    "neurons have no neighbours to interpolate between, so this is an error",
    "check_doc_link": "the pages of nilearn do not describe these classes",
}
MODULES = ("test_canica", "test_dict_learning", "test_decomposition_estimators")

pytestmark = pytest.mark.filterwarnings("ignore")


def volumes_only(mark):
    """Leave the surfaces out of a parametrisation."""
    if mark.name == "parametrize" and mark.args[0] == "data_type":
        return pytest.mark.parametrize("data_type", ["nifti"]).mark
    return mark


def nilearns_tests():
    """Import nilearn's test modules with our estimators; returns the tests by names that tell the module."""
    estimator_checks()  # the modules import it
    found = {}
    with importable():
        for home in (nilearn.decomposition, nilearn.decomposition.canica, nilearn.decomposition.dict_learning):
            for ours in (CanICA, DictLearning):
                if hasattr(home, ours.__name__):
                    patch.object(home, ours.__name__, ours).start()
        try:
            for name in MODULES:
                quick = (CanICA, {"n_init": 1}), (DictLearning, {"n_epochs": 3})
                with ExitStack() as stack:  # for the estimators that modules make
                    for kind, less in quick:
                        stack.enter_context(patch.dict(kind.__init__.__kwdefaults__, less))
                    module = import_module(f"nilearn.decomposition.tests.{name}")
                for key, test in vars(module).items():
                    if key.startswith("test_") and inspect.isfunction(test):
                        test.pytestmark = [volumes_only(mark) for mark in getattr(test, "pytestmark", [])]
                        found[f"{name}_{key.removeprefix('test_')}"] = test
        finally:
            patch.stopall()
    return found


def fixtures():
    """Return the fixtures of nilearn's conftest modules."""
    found = {}
    for name in ("nilearn.conftest", "nilearn.decomposition.tests.conftest"):
        found |= {k: v for k, v in vars(import_module(name)).items() if not k.startswith(("__", "pytest", "test"))}
    return found


TESTS = nilearns_tests()
globals().update(fixtures())
globals().update(TESTS)


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch, request):
    """Give each test a folder of its own (some write a cache beside them), and mark the exceptions."""
    monkeypatch.chdir(tmp_path)
    names = (
        request.function.__name__,
        getattr(request.node, "callspec", None) and request.node.callspec.params.get("name"),
    )
    for name in names:
        if name in EXPECTED:
            request.applymarker(pytest.mark.xfail(reason=EXPECTED[name], strict=True))


def test_the_tests_are_those_of_our_estimators():
    module = import_module("nilearn.decomposition.tests.test_decomposition_estimators")
    assert [type(estimator) for estimator in module.ESTIMATORS_TO_CHECK] == [DictLearning, CanICA]
    assert module.ESTIMATORS_TO_CHECK[0].n_epochs == 3 and DictLearning().n_epochs == 100
    assert module.ESTIMATORS_TO_CHECK[1].n_init == 1 and CanICA().n_init == 10
    assert nilearn.decomposition.CanICA is not CanICA and len(TESTS) == 21
    assert {name for name in EXPECTED if name.startswith("test_")} <= {test.__name__ for test in TESTS.values()}
