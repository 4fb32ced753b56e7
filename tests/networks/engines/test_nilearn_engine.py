"""The reference engine: nilearn's own estimator, called with our parameters, gives nilearn's own maps."""

import nilearn.decomposition
import numpy as np
import pytest
from planted import planted_runs

from llmbrain.exceptions import ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import CanICA
from llmbrain.networks.engines.nilearn_engine import fit_stock

GEOMETRY = NeuronGeometry.from_sizes([200, 200])


@pytest.fixture(scope="module")
def images():
    runs, _ = planted_runs(400, 3, (60, 60))
    return [GEOMETRY.to_img(run) for run in runs]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("given", "meant"), [("zscore_sample", "zscore_sample"), (True, "zscore_sample"), (False, None)]
)
def test_maps_are_those_of_nilearn_called_by_hand(images, given, meant):
    ours = CanICA(n_components=3, n_init=2, random_state=1, standardize=given)
    stock = nilearn.decomposition.CanICA
    fitted, converged = fit_stock(stock, ours, images, GEOMETRY.mask_img, n_init=2, threshold=None)
    by_hand = stock(
        mask=GEOMETRY.mask_img, n_components=3, n_init=2, random_state=1, threshold=None,
        smoothing_fwhm=None, standardize=meant, detrend=False,
    ).fit(images)  # fmt: skip
    assert converged and fitted.components_.dtype == np.float32
    np.testing.assert_allclose(fitted.components_, by_hand.components_, atol=1e-6)


def test_a_start_that_did_not_converge_is_reported(images):
    class Stubborn(nilearn.decomposition.CanICA):
        def fit(self, imgs, confounds=None):
            import warnings

            warnings.warn("FastICA did not converge.", UserWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
            return super().fit(imgs, confounds=confounds)

    with pytest.warns(UserWarning, match="something else"):
        _, converged = fit_stock(Stubborn, CanICA(n_components=3, n_init=1), images, GEOMETRY.mask_img)
    assert not converged


def test_infinite_values_of_psc_are_an_error_that_says_what_to_do():
    run = np.random.default_rng(0).standard_normal((40, 400)).astype(np.float32) + 1
    run[:, 0] = [1e30, -1e30, 1e-10] + [0] * 37  # over its mean, the first value exceeds the range of float32
    ours, images = CanICA(n_components=3, standardize="psc"), [GEOMETRY.to_img(run)]
    with pytest.raises(ParameterError, match="engine='torch'"):
        fit_stock(nilearn.decomposition.CanICA, ours, images, GEOMETRY.mask_img)
