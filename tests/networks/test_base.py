"""Both estimators: planted networks, reproducibility, time courses, nilearn's attributes, dead neurons."""

import pickle
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn import decomposition
from planted import GEOMETRY, K, recovery
from sklearn.base import clone

from llmbrain.exceptions import (
    DatasetError,
    HarmfulOptionWarning,
    LLMBrainWarning,
    NumericalWarning,
    ParameterError,
    ParameterTypeError,
)
from llmbrain.networks import CanICA, DictLearning


@pytest.mark.parametrize("Estimator", [CanICA, DictLearning])
@pytest.mark.parametrize("engine", ["torch", "nilearn"])
def test_planted_networks_are_found(Estimator, engine, planted):
    runs, maps = planted
    found = Estimator(K, engine=engine, geometry=GEOMETRY, **({"n_init": 3} if Estimator is CanICA else {})).fit(runs)
    assert recovery(maps, found.components_).min() > 0.85
    assert found.engine_ == engine
    assert isinstance(found, getattr(decomposition, Estimator.__name__))


@pytest.mark.parametrize("Estimator", [CanICA, DictLearning])
@pytest.mark.parametrize("engine", ["torch", "nilearn"])
def test_any_number_of_jobs_gives_the_same_bits(Estimator, engine, planted):
    import joblib

    with joblib.parallel_config(backend="threading"):
        one, two = (Estimator(3, geometry=GEOMETRY, engine=engine, n_jobs=n).fit(planted[0]) for n in (1, 2))
    np.testing.assert_array_equal(one.components_, two.components_)
    np.testing.assert_array_equal(one.variance_, two.variance_)


def test_repeated_fits_are_bit_identical(planted, fitted):
    again = clone(fitted).fit(planted[0])
    np.testing.assert_array_equal(again.components_, fitted.components_)
    assert not np.array_equal(clone(fitted).set_params(random_state=1).fit(planted[0]).components_, again.components_)


def test_any_number_of_threads_gives_the_same_bits(planted, fitted):
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = CanICA(K, geometry=GEOMETRY).fit(planted[0])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(again.components_, fitted.components_)


def test_courses_are_those_of_transform(planted, fitted):
    for own, again in zip(fitted.networks_.time_courses, fitted.transform(planted[0])):
        np.testing.assert_allclose(own, again, atol=1e-3)


def test_values_that_are_not_finite_are_said_by_transform(planted, fitted):
    """The other neurons give the courses, as if the neuron were constant."""
    run = planted[0][0].copy()
    run[3, 5] = np.inf
    with pytest.warns(NumericalWarning, match="1 of .* neurons hold NaN or infinite values"):
        found = fitted.transform(run)[0]
    run[:, 5] = 0
    np.testing.assert_array_equal(found, fitted.transform(run)[0])


def test_transform_equals_nilearns_maskers_on_cleaned_images(planted, fitted):
    from nilearn.image import clean_img

    img = GEOMETRY.to_img(planted[0][0])
    cleaned = clean_img(img, detrend=False, standardize="zscore_sample", mask_img=GEOMETRY.mask_img)
    expected = fitted.maps_masker_.transform(cleaned)
    np.testing.assert_allclose(fitted.transform(img)[0], expected, atol=2e-3)


def test_score_is_the_explained_share(planted, fitted):
    runs, _ = planted
    x = np.concatenate([(r - r.mean(0)) / r.std(0, ddof=1) for r in runs])
    courses = np.concatenate(fitted.transform(runs))
    rest = x - courses @ fitted.components_
    assert fitted.score(runs) == pytest.approx(1 - (rest**2).sum() / (x**2).sum(), abs=1e-5)
    np.testing.assert_allclose(fitted.score(runs, per_component=True), fitted.variance_, rtol=1e-3)


def test_nilearns_attributes_work(fitted, planted):
    assert fitted.components_img_.shape == (*GEOMETRY.shape, K)
    assert fitted.n_elements_ == K
    back = fitted.inverse_transform(fitted.transform(planted[0]))
    assert back[0].shape == (*GEOMETRY.shape, 200)
    cleaned = fitted.masker_.transform(GEOMETRY.to_img(planted[0][0]))
    cleaned = cleaned[0] if isinstance(cleaned, list) else cleaned
    np.testing.assert_allclose(cleaned.std(0, ddof=1), 1, rtol=1e-4)
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(restored.components_, fitted.components_)


@pytest.mark.parametrize("Estimator", [CanICA, DictLearning])
@pytest.mark.parametrize("engine", ["torch", "nilearn"])
@pytest.mark.filterwarnings("ignore")
def test_every_parameter_and_attribute_of_nilearn_is_there(Estimator, engine, planted):
    Stock = getattr(decomposition, Estimator.__name__)
    options = {"alpha": 1} if Estimator is DictLearning else {"n_init": 1, "threshold": None}
    options |= {"smoothing_fwhm": None, "standardize": "zscore_sample", "detrend": False, "random_state": 0}
    stock = Stock(n_components=3, mask=GEOMETRY.mask_img, **options).fit([GEOMETRY.to_img(run) for run in planted[0]])
    ours = Estimator(3, geometry=GEOMETRY, engine=engine).fit(planted[0])
    assert set(stock.get_params()) <= set(ours.get_params())
    learned = [name for name in vars(stock) if name.endswith("_") and not name.startswith("_")]
    assert len(learned) >= 7
    for name in learned:
        theirs, own = getattr(stock, name), getattr(ours, name)
        assert type(own) is type(theirs), name
        if name != "loadings_init_":  # rows of the reduced data, of which the engines keep different numbers
            assert np.shape(getattr(own, "shape", ())) == np.shape(getattr(theirs, "shape", ())), name
            if hasattr(theirs, "shape"):
                assert own.shape == theirs.shape, name


def test_nilearns_reports_work(fitted):
    for masker, options in ((fitted.masker_, {}), (fitted.maps_masker_, {"displayed_maps": 1})):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = masker.generate_report(**options)
        assert "<html" in report.get_standalone().lower() and type(masker).__name__ in str(report)


def test_confounds_are_removed(planted):
    runs, maps = planted
    rng = np.random.default_rng(1)
    ramps = [np.linspace(-1, 1, len(run))[:, None] for run in runs]
    spread = 3 * rng.standard_normal(GEOMETRY.n_neurons)
    dirty = [run + (ramp * spread).astype(np.float32) for run, ramp in zip(runs, ramps)]
    found = CanICA(K, geometry=GEOMETRY).fit(dirty, confounds=ramps)
    assert recovery(maps, found.components_).min() > 0.85
    courses = found.transform(dirty, confounds=[pd.DataFrame(r) for r in ramps])
    for course, ramp in zip(courses, ramps):
        assert np.abs(course.T @ ramp / np.linalg.norm(course, axis=0)[:, None]).max() < 1e-2
    same = CanICA(K, geometry=GEOMETRY, engine="nilearn", n_init=2).fit(dirty, confounds=ramps)
    assert recovery(same.components_, found.components_).min() > 0.97


@pytest.mark.parametrize("Estimator", [CanICA, DictLearning])
@pytest.mark.parametrize("engine", ["torch", "nilearn"])
def test_dead_and_nan_neurons_are_counted_and_left_out(Estimator, engine, planted):
    runs = [run.copy() for run in planted[0]]
    for run in runs:
        run[:, 5] = 0.1  # constant, not exactly representable
        run[:, 7] = 0
    runs[1][3, 9] = np.nan
    runs[0][4, 11] = np.inf
    with pytest.warns(NumericalWarning) as caught:
        found = Estimator(K, geometry=GEOMETRY, engine=engine).fit(runs)
    said = " ".join(str(w.message) for w in caught)
    assert "2 of 1940 neurons hold NaN" in said and "2 of 1940 neurons are constant" in said
    assert np.isfinite(found.components_).all()
    assert not found.components_[:, [5, 7, 9, 11]].any()
    assert found.dead_.sum() == 4 and found.dead_[[5, 7, 9, 11]].all() and found.networks_.info["n_dead"] == 4
    assert recovery(planted[1], found.components_).min() > 0.85


@pytest.mark.parametrize("Estimator", [CanICA, DictLearning])
@pytest.mark.parametrize("engine", ["torch", "nilearn"])
def test_rank_deficient_data(Estimator, engine):
    rng = np.random.default_rng(0)
    low = (rng.standard_normal((100, 3)) @ rng.standard_normal((3, 500))).astype(np.float32)
    with pytest.raises(ParameterError, match="n_components=5, but there are only 3 independent"):
        Estimator(5, engine=engine).fit([low])
    with pytest.raises(ParameterError, match="Every neuron is constant or not finite"):
        Estimator(2, engine=engine).fit([np.ones((50, 300), np.float32), np.full((50, 300), np.nan, np.float32)])
    with pytest.raises(ParameterError, match="at most 99"):
        Estimator(100, engine=engine).fit([low])


def test_a_masker_as_mask_sets_the_options(planted):
    masker = GEOMETRY.masker(detrend=True, standardize="zscore_sample")
    options = {"geometry": GEOMETRY, "n_init": 2}
    with pytest.warns(LLMBrainWarning) as caught:
        found = CanICA(K, mask=masker, **options).fit(planted[0])
    assert any("detrend=True, overriding estimator parameter False" in str(w.message) for w in caught)
    with pytest.warns(HarmfulOptionWarning):
        same = CanICA(K, detrend=True, **options).fit(planted[0])
    np.testing.assert_array_equal(found.components_, same.components_)
    np.testing.assert_array_equal(found.transform(planted[0])[0], same.transform(planted[0])[0])
    assert found.mask is masker and found.cleaning_["detrend"] is True and found.masker_.detrend is True
    with pytest.raises(ParameterTypeError, match="got NiftiMasker without one"):
        CanICA(K, mask=GEOMETRY.masker(mask_img=None), **options).fit(planted[0])


def test_a_pattern_names_files(planted, tmp_path):
    for i, run in enumerate(planted[0]):
        nib.save(GEOMETRY.to_img(run), tmp_path / f"run-{i}.nii")
    found = CanICA(K, geometry=GEOMETRY, n_init=2).fit(str(tmp_path / "run-*.nii"))
    same = CanICA(K, geometry=GEOMETRY, n_init=2).fit([tmp_path / "run-0.nii", tmp_path / "run-1.nii"])
    np.testing.assert_array_equal(found.components_, same.components_)
    with pytest.raises(DatasetError, match="No file matches the pattern"):
        CanICA(K, geometry=GEOMETRY).fit(str(tmp_path / "none-*.nii"))


def test_verbose_says_what_is_read(planted, capsys):
    CanICA(K, geometry=GEOMETRY, n_init=1, verbose=2).fit(planted[0])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[CanICA.fit] Loading data" and sum("200 tokens" in line for line in lines) == 2
    assert lines[-1].startswith(f"[CanICA.fit] Found NetworkSet({K} networks")
