"""scikit-learn's checks of estimators, on CanICA and DictLearning; test_nilearn_own.py runs those of nilearn."""

import pytest
from nilearns import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from llmbrain.networks import CanICA, DictLearning

ESTIMATORS = [CanICA(3, n_init=1), DictLearning(3, n_epochs=2)]


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=estimator_checks().return_expected_failed_checks)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    """Checks that images cannot pass are those that nilearn lists for its own estimators."""
    check(estimator)
