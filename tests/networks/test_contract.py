"""scikit-learn's checks of estimators, on CanICA and DictLearning; test_nilearn_own.py runs those of nilearn."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from llmbrain.networks import CanICA, DictLearning

# Checks of scikit-learn that fit a table of numbers. Every reason says what is tested instead, or why nothing can be.
_ON_IMAGES = "fits a table instead of images; nilearn's check '{}' does the same with images"
_NO_TABLE = "fits a table instead of images, and {}"
NOT_FOR_IMAGES = {
    "check_dict_unchanged": _ON_IMAGES.format("check_img_estimator_dict_unchanged"),
    "check_fit_check_is_fitted": _ON_IMAGES.format("check_img_estimator_fit_check_is_fitted"),
    "check_fit_idempotent": _ON_IMAGES.format("check_img_estimator_fit_idempotent"),
    "check_fit_score_takes_y": _ON_IMAGES.format("check_img_estimator_fit_score_takes_y"),
    "check_pipeline_consistency": _ON_IMAGES.format("check_img_estimator_pipeline_consistency"),
    "check_estimators_empty_data_messages": _NO_TABLE.format("test_inputs.py passes no images"),
    "check_estimators_fit_returns_self": _ON_IMAGES.format("check_fit_returns_self"),
    "check_estimators_overwrite_params": _ON_IMAGES.format("check_img_estimator_overwrite_params"),
    "check_estimators_pickle": _ON_IMAGES.format("check_img_estimator_pickle"),
    "check_methods_sample_order_invariance": _ON_IMAGES.format("check_nilearn_methods_sample_order_invariance"),
    "check_n_features_in": _ON_IMAGES.format("check_img_estimator_n_elements"),
    "check_n_features_in_after_fitting": _ON_IMAGES.format("check_img_estimator_n_elements"),
    "check_complex_data": _NO_TABLE.format("images of activity are real"),
    "check_dtype_object": _NO_TABLE.format("images hold no objects"),
    "check_estimators_nan_inf": _NO_TABLE.format("test_base.py passes images with nan and inf"),
    "check_f_contiguous_array_estimator": _NO_TABLE.format("images choose their own order in memory"),
    "check_fit2d_1feature": _NO_TABLE.format("the message is about images"),
    "check_fit2d_1sample": _NO_TABLE.format("the message is about images"),
    "check_fit2d_predict1d": _NO_TABLE.format("a column is no image"),
    "check_methods_subset_invariance": _NO_TABLE.format("courses are centred over the run, so a part differs"),
    "check_readonly_memmap_input": _NO_TABLE.format("runs are always read from memory maps"),
    "check_transformer_data_not_an_array": _NO_TABLE.format("a list stands for several images"),
    "check_transformer_general": _NO_TABLE.format("transform returns one array per image"),
    "check_transformer_preserve_dtypes": _NO_TABLE.format("everything is computed in float32"),
}


ESTIMATORS = [CanICA(3, n_init=1), DictLearning(3, n_epochs=2)]


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda _: NOT_FOR_IMAGES, xfail_strict=True)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    check(estimator)
