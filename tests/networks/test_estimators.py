"""CanICA and DictLearning: planted networks, nilearn as the oracle, inputs, harmful options, errors, files."""

import pickle
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn import decomposition
from parity import parity
from planted import planted_runs, recovery
from sklearn.base import clone

from llmbrain.exceptions import (
    DatasetError,
    GeometryMismatchError,
    HarmfulOptionWarning,
    MaskError,
    NumericalWarning,
    ParameterError,
)
from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import NeuronMask
from llmbrain.networks import CanICA, DictLearning, NetworkSet

GEOMETRY = NeuronGeometry.from_sizes([97] * 20)  # a prime width: sheets with padding
K = 6


@pytest.fixture(scope="module")
def planted():
    return planted_runs(GEOMETRY.n_neurons, K)


@pytest.fixture(scope="module")
def fitted(planted):
    return CanICA(K, geometry=GEOMETRY).fit(planted[0])


# -- truth and oracle -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("Estimator", [CanICA, DictLearning])
@pytest.mark.parametrize("engine", ["torch", "nilearn"])
def test_planted_networks_are_found(Estimator, engine, planted):
    runs, maps = planted
    found = Estimator(K, engine=engine, geometry=GEOMETRY, **({"n_init": 3} if Estimator is CanICA else {})).fit(runs)
    assert recovery(maps, found.components_).min() > 0.85
    assert found.engine_ == engine
    assert isinstance(found, getattr(decomposition, Estimator.__name__))


def test_smoothing_loses_them(planted):
    runs, maps = planted
    with pytest.warns(HarmfulOptionWarning, match="scattered neurons are lost"):
        found = CanICA(K, geometry=GEOMETRY, smoothing_fwhm=6, n_init=1).fit(runs)
    assert found.engine_ == "nilearn"
    assert recovery(maps, found.components_).mean() < 0.5


def test_engines_agree_with_the_same_settings(planted):
    runs, _ = planted
    same = CanICA(K, geometry=GEOMETRY, solver_params={"group": "runs", "rows_per_run": 1}).fit(runs)
    stock = CanICA(K, geometry=GEOMETRY, engine="nilearn").fit(runs)
    assert recovery(stock.components_, same.components_).min() > 0.99
    np.testing.assert_allclose(same.variance_, stock.variance_, rtol=0.02)


@pytest.mark.parametrize("snr", [0.6, 1.0])
def test_parity_with_stock_of_stable_networks_and_of_unstable_ones(snr):
    runs, _ = planted_runs(GEOMETRY.n_neurons, K, (120,) * 6, snr=snr)
    table = parity(runs, K + 3, GEOMETRY)  # three components that are noise
    stable = table["stock"] >= 0.7
    assert stable.sum() == K
    assert table["r"][stable].min() > 0.99
    np.testing.assert_array_equal(table["fast"] >= 0.7, stable)
    np.testing.assert_allclose(table["fast"], table["stock"], atol=0.12)


def test_default_group_model_agrees_on_strong_networks(planted, fitted):
    stock = CanICA(K, geometry=GEOMETRY, engine="nilearn").fit(planted[0])
    assert recovery(stock.components_, fitted.components_).min() > 0.97


def test_stock_nilearn_itself_agrees(planted):
    """Our reference engine is nilearn's own estimator with a mask image and no more."""
    runs, _ = planted
    imgs = [GEOMETRY.to_img(run) for run in runs]
    stock = decomposition.CanICA(
        GEOMETRY.mask_img,
        K,
        smoothing_fwhm=None,
        threshold=None,
        n_init=2,
        random_state=0,
        detrend=False,
        standardize="zscore_sample",
    ).fit(imgs)
    ours = CanICA(K, engine="nilearn", n_init=2, geometry=GEOMETRY).fit(imgs)
    np.testing.assert_allclose(recovery(stock.components_, ours.components_), 1, atol=1e-6)


def test_threshold_is_nilearns(planted, fitted):
    runs, _ = planted
    cut = CanICA(K, geometry=GEOMETRY, threshold="auto").fit(runs)
    kept = cut.components_ != 0
    assert kept.sum() == GEOMETRY.n_neurons
    np.testing.assert_array_equal(cut.components_[kept], fitted.components_[kept])
    assert np.abs(fitted.components_[~kept]).max() <= np.abs(fitted.components_[kept]).min()


def test_sorted_by_variance_with_positive_peaks(fitted):
    assert (np.diff(fitted.variance_) <= 0).all()
    assert (fitted.components_.max(1) >= -fitted.components_.min(1)).all()
    np.testing.assert_allclose(np.linalg.norm(fitted.components_, axis=1), 1, rtol=1e-5)
    assert fitted.converged_.all() and (fitted.n_iter_ > 0).all()


def test_sparse_dictionary_reaches_nilearns_objective(planted):
    runs, _ = planted
    ours = DictLearning(K, geometry=GEOMETRY).fit(runs)
    stock = DictLearning(K, geometry=GEOMETRY, engine="nilearn").fit(runs)
    assert ours.alpha_ == pytest.approx(0.1 * 20)
    assert recovery(stock.components_, ours.components_).min() > 0.97


def test_dictionary_can_begin_from_given_maps(planted):
    runs, maps = planted
    begun = DictLearning(K, geometry=GEOMETRY, dict_init=maps).fit(runs)
    from_image = DictLearning(K, geometry=GEOMETRY, dict_init=GEOMETRY.to_img(maps)).fit(runs)
    assert recovery(maps, begun.components_).min() > 0.85
    np.testing.assert_allclose(begun.components_, from_image.components_, atol=1e-5)


def test_every_epoch_of_the_dictionary_counts(planted):
    runs, _ = planted
    options = {"geometry": GEOMETRY, "solver_params": {"tol": 1e-8}}
    settled = DictLearning(K, **options).fit(runs)
    assert settled.converged_.all() and settled.n_iter_[0] > 4
    far = []
    for n in (1, 2, 4):
        with pytest.warns(NumericalWarning, match=f"did not converge in {n} passes"):
            found = DictLearning(K, n_epochs=n, **options).fit(runs)
        assert found.n_iter_.tolist() == [n] and not found.converged_.any()
        far.append(np.abs(found.components_ - settled.components_).max())
    assert far[0] > 3 * far[1] > 9 * far[2] > 0
    with pytest.warns(HarmfulOptionWarning, match="n_epochs=1 has no effect"):
        DictLearning(K, geometry=GEOMETRY, engine="nilearn", n_epochs=1).fit(runs)


def test_alpha_follows_the_data_and_dead_atoms_are_flagged(planted):
    runs, maps = planted
    short = [run[:100] for run in runs[:1]]
    assert DictLearning(K, geometry=GEOMETRY).fit(short).alpha_ == pytest.approx(1.0)
    with pytest.raises(ParameterError, match="no neuron in any map"):  # nilearn's default
        DictLearning(K, geometry=GEOMETRY, alpha=10).fit(short)
    with pytest.warns(NumericalWarning, match=r"networks are empty \(numbers .* and are flagged"):
        found = DictLearning(2 * K, geometry=GEOMETRY, alpha=9.0).fit(runs)
    empty = np.flatnonzero(~found.components_.any(1))
    assert 0 < len(empty) < 2 * K and np.isfinite(found.components_).all()
    assert found.networks_.metrics["flagged"][empty].all() and set(empty) <= set(found.networks_.flagged)


def test_a_dictionary_needs_no_more_directions_than_atoms():
    rng = np.random.default_rng(0)
    maps = rng.laplace(size=(6, 800)) ** 3
    low = (rng.standard_normal((100, 6)) @ maps).astype(np.float32)  # rank 6, and twice as many rows are wanted
    for k in (4, 6):
        assert DictLearning(k).fit([low]).components_.shape == (k, 800)
    with pytest.raises(ParameterError, match="n_components=7, but there are only 6"):
        DictLearning(7).fit([low])


# -- the same result whatever holds the data ------------------------------------------------------------------------
def test_every_kind_of_input_gives_the_same_maps(planted, fitted, tmp_path):
    runs, _ = planted
    imgs = [GEOMETRY.to_img(run) for run in runs]
    paths = [tmp_path / f"run{i}{suffix}" for i, suffix in enumerate((".nii", ".nii.gz"))]
    for path, img in zip(paths, imgs):
        nib.save(img, path)
    np.save(tmp_path / "run.npy", runs[0])
    for given in (imgs, paths, [str(p) for p in paths], [tmp_path / "run.npy", imgs[1]], [paths[0], runs[1]]):
        again = CanICA(K, geometry=GEOMETRY).fit(given)
        assert recovery(fitted.components_, again.components_).min() > 1 - 1e-4


def test_scaled_integers_are_read_with_their_slope(planted, tmp_path):
    run = planted[0][0]
    img = GEOMETRY.to_img(run)
    img.set_data_dtype(np.int16)
    nib.save(img, tmp_path / "run.nii")
    exact = CanICA(3, geometry=GEOMETRY).fit([run])
    stored = CanICA(3, geometry=GEOMETRY).fit(tmp_path / "run.nii")
    assert recovery(exact.components_, stored.components_).min() > 0.99


def test_a_single_run_need_not_be_in_a_list(planted):
    run = planted[0][0]
    one = CanICA(3, geometry=GEOMETRY).fit(run)
    np.testing.assert_array_equal(one.components_, CanICA(3, geometry=GEOMETRY).fit([run]).components_)
    assert len(one.transform(run)) == 1


def test_arrays_without_a_geometry_are_one_layer(planted):
    found = CanICA(3).fit(planted[0])
    assert found.geometry_ == NeuronGeometry.from_sizes([GEOMETRY.n_neurons])


def test_a_recording_in_every_form(tmp_path):
    from tiny import tiny_model, tiny_tokenizer

    import llmbrain
    from llmbrain.dataset import Study

    texts = [
        "A river runs past the old mill, and nobody counts its turns. " * 3,
        "def add(a, b):\n    return a + b\n" * 5,
    ]
    options = {"context": 128, "tokens_per_run": 120, "progress": False}
    recording = llmbrain.record(tiny_model("llama"), tiny_tokenizer(), texts, tmp_path / "study", **options)
    assert len(recording) > 1
    expected = CanICA(3, n_init=2).fit(recording)
    arrays = [run.to_array() for run in recording]
    study = tmp_path / "study"
    for given in (study, str(study), Study.open(study), list(recording), recording.paths):
        np.testing.assert_array_equal(CanICA(3, n_init=2).fit(given).components_, expected.components_)
    for course, again in zip(expected.transform(recording), expected.transform(arrays)):
        np.testing.assert_allclose(course, again, atol=1e-3)
    assert expected.networks_.info["files"] == [run.path.name for run in recording]
    # and what is written of them can be read again, the time courses run by run as tables
    expected.networks_.save(study)
    tables = sorted(study.rglob("*_mixing.tsv"))
    assert [len(pd.read_csv(t, sep="\t")) for t in tables] == [run.n_tokens for run in recording]
    assert list(pd.read_csv(tables[0], sep="\t")) == ["network-00", "network-01", "network-02"]


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


# -- time courses and scores ----------------------------------------------------------------------------------------
def test_courses_are_those_of_transform(planted, fitted):
    for own, again in zip(fitted.networks_.time_courses, fitted.transform(planted[0])):
        np.testing.assert_allclose(own, again, atol=1e-3)


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


# -- scope ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("scope", "parts"), [("layer", 4), (2, 3), (4, 1)])
def test_scopes(scope, parts):
    geometry = NeuronGeometry.from_sizes([400, 500, 600, 500])
    runs, _ = planted_runs(geometry.n_neurons, 4, density=0.05, snr=1.0)
    found = CanICA(2, geometry=geometry, scope=scope, n_init=2).fit(runs)
    assert found.components_.shape == (2 * parts, geometry.n_neurons)
    if scope == "layer":
        for k in range(4):
            own = geometry.layer_of == k
            alone, maps = CanICA(2, n_init=2).fit([run[:, own] for run in runs]), found.components_[2 * k : 2 * k + 2]
            np.testing.assert_allclose(np.abs(maps[:, own]), np.abs(alone.components_), atol=1e-4)
            assert not maps[:, ~own].any()
            z = found.networks_.z[2 * k, own]
            assert abs(z.mean()) < 1e-4 and z.std() == pytest.approx(1, abs=1e-3)
    for own, again in zip(found.networks_.time_courses, found.transform(runs)):
        np.testing.assert_allclose(own, again, atol=2e-3)


def test_layers_of_files_are_layers_of_arrays(tmp_path):
    geometry = NeuronGeometry.from_sizes([400, 500, 600])
    runs, _ = planted_runs(geometry.n_neurons, 4, density=0.05, snr=1.0)
    for run, path in zip(runs, ("0.nii", "1.nii")):
        run[:, 450] = 3.0
        geometry.to_img(run).to_filename(tmp_path / path)
    with pytest.warns(NumericalWarning, match="1 of 500 neurons are constant"):
        arrays = CanICA(2, geometry=geometry, scope="layer", n_init=2).fit(runs)
    with pytest.warns(NumericalWarning, match="1 of 500 neurons are constant"):
        files = CanICA(2, geometry=geometry, scope="layer", n_init=2).fit([tmp_path / "0.nii", tmp_path / "1.nii"])
    np.testing.assert_allclose(files.components_, arrays.components_, atol=1e-4)
    assert np.flatnonzero(files.dead_).tolist() == [450]
    with pytest.warns(NumericalWarning, match="1 of 500 neurons are constant"):
        learned = DictLearning(2, geometry=geometry, scope="layer").fit([tmp_path / "0.nii", tmp_path / "1.nii"])
    assert [a.shape[1] for a in learned.loadings_init_] == [2] * 3
    for k, row in enumerate(learned.components_init_):
        assert row[geometry.layer_of == k // 2].any() and not row[geometry.layer_of != k // 2].any()


def test_mask_restricts_the_networks(planted):
    runs, _ = planted
    mask = NeuronMask(GEOMETRY.layer_of < 10, GEOMETRY)
    for given in (mask, mask.to_img()):
        for engine in ("torch", "nilearn"):
            found = CanICA(3, geometry=GEOMETRY, mask=given, engine=engine, n_init=2).fit(runs)
            assert not found.components_[:, ~mask.values].any()
            assert found.components_[:, mask.values].any()


# -- numbers that are not right -------------------------------------------------------------------------------------
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


def test_failure_to_converge_is_said_and_kept(planted):
    with pytest.warns(NumericalWarning, match="did not converge"):
        found = CanICA(K, geometry=GEOMETRY, n_init=2, solver_params={"max_iter": 1}).fit(planted[0])
    assert not found.converged_.any()
    assert found.networks_.info["converged"] == [False, False]


def test_unstable_networks_are_flagged():
    noise = np.random.default_rng(0).standard_normal((150, 800)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        found = CanICA(8).fit([noise])
    assert found.networks_.metrics["flagged"].any()


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


# -- what is refused ------------------------------------------------------------------------------------------------
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
        ({"solver_params": {"device": "meta-cuda"}}, "device 'meta-cuda' is not available"),
        ({"random_state": np.random.default_rng(0)}, "RandomState or None; got a Generator"),
        ({"n_components": "many"}, "positive integer"),
        ({"n_components": "auto", "scope": "layer"}, "needs scope"),
    ],
)
def test_bad_parameters(params, match, planted):
    with pytest.raises(ParameterError, match=match):
        CanICA(**{"n_components": K, "geometry": GEOMETRY, **params}).fit(planted[0])


@pytest.mark.parametrize("params", [{"alpha": -1}, {"alpha": "big"}, {"n_epochs": 0}, {"dict_init": np.ones((2, 9))}])
def test_bad_dictionary_parameters(params, planted):
    with pytest.raises(ParameterError):
        DictLearning(K, geometry=GEOMETRY, **params).fit(planted[0])


def test_alpha_that_kills_all_atoms(planted):
    with pytest.raises(ParameterError, match="no neuron in any map"):
        DictLearning(K, geometry=GEOMETRY, alpha=1e4).fit(planted[0])


def test_bad_runs(planted, tmp_path):
    runs, _ = planted
    cases = [
        ([], ParameterError, "empty"),
        ([runs[0], runs[1][:, :100]], GeometryMismatchError, "100 neurons"),
        (runs[0][0], ParameterError, "shape"),
        ([["a", "b"]], ParameterError, "real array"),
        (tmp_path / "none.nii", DatasetError, "does not exist"),
        (tmp_path, DatasetError, "no study"),
        (nib.Nifti1Image(np.zeros((20, 10, 10), np.float32), np.eye(4)), ParameterError, "four axes"),
        (nib.Nifti1Image(np.zeros((3, 10, 10, 5), np.float32), np.eye(4)), GeometryMismatchError, "volumes of shape"),
        (runs[0][:1], ParameterError, "tokens"),
    ]
    for given, error, match in cases:
        with pytest.raises(error, match=match):
            CanICA(3, geometry=GEOMETRY).fit(given)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ParameterError, match="neither a NIfTI"):
        CanICA(3, geometry=GEOMETRY).fit(tmp_path / "notes.txt")
    with pytest.raises(ParameterError, match="2 runs need as many confounds"):
        CanICA(3, geometry=GEOMETRY).fit(runs, confounds=[np.zeros((200, 1))])
    with pytest.raises(DatasetError, match=r"confounds of run 1: .*nowhere.tsv does not exist"):
        CanICA(3, geometry=GEOMETRY).fit(runs, confounds=[None, tmp_path / "nowhere.tsv"])
    with pytest.raises(ParameterError, match="confounds of run 0 must be numbers"):
        CanICA(3, geometry=GEOMETRY).fit(runs, confounds=[pd.DataFrame({"kind": ["code"] * 200}), None])
    with pytest.raises(ParameterError, match="one row per token"):
        CanICA(3, geometry=GEOMETRY).fit(runs, confounds=[np.zeros((20, 1)), None])
    with pytest.raises(MaskError, match="no neuron"):
        CanICA(3, geometry=GEOMETRY, mask=GEOMETRY.to_img(np.zeros(1940))).fit(runs)


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


# -- results and files ----------------------------------------------------------------------------------------------
def test_masks_and_metrics(fitted, planted):
    masks = fitted.masks(threshold=3.0)
    assert [m.name for m in masks][:2] == ["network-00", "network-01"]
    z = fitted.networks_.z
    np.testing.assert_array_equal(masks[2].values, np.abs(z[2]) > 3)
    np.testing.assert_array_equal(fitted.masks(3.0, two_sided=False)[2].values, z[2] > 3)
    metrics = fitted.networks_.metrics
    assert metrics["n_neurons"].tolist() == [m.count for m in masks]
    np.testing.assert_allclose(metrics["variance"], fitted.variance_)
    assert (metrics["stability"] > 0.9).all() and not metrics["flagged"].any()
    assert (metrics["kurtosis"] > 3).all()
    assert metrics["first_layer"].le(metrics["peak_layer"]).all()
    assert metrics["peak_layer"].le(metrics["last_layer"]).all()


def test_flags_are_in_every_output(fitted, tmp_path):
    from llmbrain.dataset import Study
    from llmbrain.files import read_json

    metrics = fitted.networks_.metrics.assign(stability=np.linspace(0.9, 0.4, K))
    networks = NetworkSet(fitted.networks_.maps, GEOMETRY, metrics).set_threshold(3.0)
    bad = np.flatnonzero(metrics["stability"] < 0.7).tolist()
    assert networks.flagged == bad and len(bad) == 3
    assert repr(networks) == "NetworkSet(6 networks, 3 flagged, 1940 neurons in 20 layers)"
    assert [mask.info["flagged"] for mask in networks.masks()] == [k in bad for k in range(K)]
    study = Study.create(tmp_path, {"id": "tiny", "weights_hash": "abc", "architecture": "x"}, "texts")
    networks.save(study, "canica")
    assert read_json(study.path("components_json", desc="canica"))["flagged"] == bad
    table = pd.read_csv(study.path("metrics", desc="canica"), sep="\t")
    assert table["flagged"].tolist() == [k in bad for k in range(K)]
    assert NetworkSet.load(study).flagged == bad and "flagged" not in NetworkSet.load(study).info
    assert networks.set_threshold(1e3).flagged == list(range(K))  # empty


def test_another_threshold(fitted):
    networks = NetworkSet(fitted.networks_.maps, GEOMETRY, fitted.networks_.metrics.assign(own=1)).set_threshold(4.5)
    assert networks.metrics["n_neurons"].tolist() == [m.count for m in networks.masks(4.5)]
    np.testing.assert_array_equal(networks.metrics["stability"], fitted.networks_.metrics["stability"])
    assert networks.info["threshold"] == 4.5 and "own" in networks.metrics


def test_save_and_load(fitted, tmp_path):
    from llmbrain.dataset import Study

    info = {"id": "tiny", "weights_hash": "abc", "architecture": "x"}
    study = Study.create(tmp_path / "study", info, {"name": "texts", "hash": "h"})
    written = fitted.networks_.save(study)
    assert all(p.is_file() for p in written)
    assert written[0].name.endswith("_desc-canica_components.nii.gz")
    for source in (study, tmp_path / "study"):
        loaded = NetworkSet.load(source)
        np.testing.assert_array_equal(loaded.maps, fitted.networks_.maps)
        assert loaded.geometry == GEOMETRY
        pd.testing.assert_frame_equal(loaded.metrics, fitted.networks_.metrics, check_dtype=False)
        np.testing.assert_allclose(loaded.time_courses[1], fitted.networks_.time_courses[1], rtol=1e-5)
        assert loaded.info["parameters"]["n_components"] == K
    fitted.networks_.save(study, desc="second")
    assert NetworkSet.load(study, desc="second").n_networks == K
    with pytest.raises(DatasetError, match="no networks 'third'"):
        NetworkSet.load(study, desc="third")


def test_layer_scope_survives_saving(tmp_path):
    from llmbrain.dataset import Study

    geometry = NeuronGeometry.from_sizes([300, 300])
    found = CanICA(2, geometry=geometry, scope="layer", n_init=1).fit(planted_runs(600, 3)[0]).networks_
    study = Study.create(tmp_path, {"id": "tiny", "weights_hash": "abc", "architecture": "x"}, "texts")
    found.save(study)
    np.testing.assert_allclose(NetworkSet.load(study).z, found.z, atol=1e-6)


def test_network_set_refuses_nonsense():
    with pytest.raises(ParameterError, match="NaN"):
        NetworkSet(np.full((1, GEOMETRY.n_neurons), np.nan), GEOMETRY)
    with pytest.raises(ParameterError, match="neurons"):
        NetworkSet(np.ones((1, 5)), GEOMETRY)
    with pytest.raises(ParameterError, match="at least one"):
        NetworkSet(np.ones((0, GEOMETRY.n_neurons)), GEOMETRY)
