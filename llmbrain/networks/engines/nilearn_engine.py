"""The reference: nilearn's own estimators with options that suit neurons."""

import warnings

import numpy as np

from ...exceptions import ParameterError


def fit_stock(stock, estimator, images, mask_img, confounds=None, **special):
    """Fit one of nilearn's decomposition classes with the parameters of our estimator; ``special`` overrides them.

    Returns the fitted estimator, and False if scikit-learn warned that a start did not converge.
    """
    shared = {*stock._get_param_names()} & {*estimator.get_params()} - {"mask", "mask_strategy"}
    params = {**{name: getattr(estimator, name) for name in shared}, **special}
    if params["standardize"] in (True, False):
        params["standardize"] = "zscore_sample" if params["standardize"] else None
    fitted = stock(mask=mask_img, **params)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fitted.fit(images, confounds=confounds)
        except ValueError as error:
            if "infs or NaNs" not in str(error) and "contains NaN" not in str(error):
                raise
            raise ParameterError(
                f"nilearn's estimator produced infinite values or NaN with standardize={params['standardize']!r}, "
                "which neurons with a mean near zero cause. Use engine='torch' and 'zscore_sample'."
            ) from error
    converged = True
    for warning in caught:
        if "did not converge" in str(warning.message):
            converged = False
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    fitted.components_ = np.ascontiguousarray(fitted.components_, np.float32)
    return fitted, converged
