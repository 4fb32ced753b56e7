"""The number of components: the split-half curve at its peak."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.networks.evidence import order


def planted_runs(n_networks=6, n_runs=4, n_tokens=150, n_neurons=1500):
    rng = np.random.default_rng(3)
    maps = rng.normal(0, 3, (n_networks, n_neurons)) * (rng.random((n_networks, n_neurons)) < 0.06)
    shape = (n_tokens, n_networks)
    return [
        (rng.normal(size=shape) @ maps + rng.normal(size=(n_tokens, n_neurons))).astype("f4") for _ in range(n_runs)
    ]


@pytest.mark.parametrize("n_runs", [1, 4])
def test_auto_finds_the_planted_number(n_runs):
    runs = planted_runs(n_runs=n_runs, n_tokens=600 // n_runs)
    choice = order.choose_n_components(runs, grid=[2, 4, 6, 8, 12], n_draws=3)
    curve = choice.curve.set_index("n_components")
    assert curve.loc[6, "n_reproduced"] == 6 and curve.loc[6, "mean_r"] > 0.9
    assert curve.loc[12, "n_reproduced"] <= 7 and curve.loc[12, "share"] < 0.7
    assert choice.n_components == 6
    assert choice.parallel == 6 and choice.marchenko_pastur == 6
    assert {"eigenvalue", "share", "cumulative", "null"} <= set(choice.spectrum.columns)


def test_auto_stays_within_what_parallel_analysis_allows():
    choice = order.choose_n_components(planted_runs(), n_draws=3)
    assert choice.n_components <= 6 and choice.curve["n_components"].max() <= 6


def test_auto_of_files_inside_a_mask_for_a_dictionary(tmp_path):
    from planted import planted_runs

    from llmbrain.geometry import NeuronGeometry
    from llmbrain.masks import NeuronMask
    from llmbrain.networks import DictLearning

    geometry = NeuronGeometry.from_sizes([300] * 4)
    runs, maps = planted_runs(600, 5, (100,) * 4, snr=1.5)
    noise = np.random.default_rng(0).standard_normal((4, 100, 600)).astype(np.float32)
    paths = [tmp_path / f"{i}.nii" for i in range(4)]
    for path, run, x in zip(paths, runs, noise):  # one strong direction outside the mask
        geometry.to_img(np.hstack([run, x[:, :1] + 0.1 * x])).to_filename(path)
    mask = NeuronMask(geometry.layer_of < 2, geometry)
    found = DictLearning("auto", geometry=geometry, mask=mask).fit(paths)
    assert found.n_components_ == 5 == len(found.components_) == found.order_.n_components
    assert found.order_.info["n_neurons_sampled"] == 600 and not found.components_[:, 600:].any()


def test_halves_share_no_token():
    runs = [np.arange(40, dtype=np.float32).reshape(20, 2) + 100 * i for i in range(5)]
    (first, second), nuisance = order.halves(runs, [r[:, :1] for r in runs])
    assert [n[0, 0] for n in nuisance[1]] == [100, 300]
    assert [s.open()[0, 0] for s in first] == [0, 200, 400] and [s.open()[0, 0] for s in second] == [100, 300]
    (first, second), _ = order.halves(runs[:1])
    rows = np.concatenate([s.open()[:, 0] for s in (*first, *second)])
    assert len(first) == len(second) == 4 and sorted(rows) == sorted(runs[0][:, 0])
    with pytest.raises(ParameterError, match="grid"):
        order.split_half_curve(runs, [100])


@pytest.fixture(params=[1, 3])
def few_files(request, tmp_path):
    """One or three runs as float32 files and as arrays: fewer than four are cut into pieces."""
    from llmbrain.geometry import NeuronGeometry

    geometry = NeuronGeometry.from_sizes([375] * 4)
    runs = planted_runs(4, request.param, 480 // request.param)
    paths = [tmp_path / f"{i}.nii" for i in range(len(runs))]
    for path, run in zip(paths, runs):
        geometry.to_img(run).to_filename(path)
    return paths, runs, geometry


def test_halves_of_files_hold_the_rows_of_the_runs(few_files):
    from llmbrain.networks.inputs import load_runs

    paths, runs, geometry = few_files
    files = load_runs(paths, geometry)
    for mine, theirs in zip(order.halves(files.sources)[0], order.halves(runs)[0]):
        assert len(mine) == len(theirs) >= 4 * (len(runs) == 1)
        for a, b in zip(mine, theirs):
            rows, expected = np.zeros((2, a.n_tokens, 1500), np.float32)
            a.read(0, 1500, rows)
            b.read(0, 1500, expected)
            np.testing.assert_array_equal(files.flat_order(rows), expected)


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_auto_and_evidence_do_not_depend_on_where_few_runs_lie(few_files):
    from llmbrain.networks import CanICA, gather_evidence

    paths, runs, geometry = few_files
    tables, curves = [], []
    for given in (paths, runs):
        canica = CanICA("auto", n_init=2, geometry=geometry).fit(given)
        assert canica.n_components_ == 4
        curves.append(canica.order_.curve)
        tables.append(gather_evidence(canica.networks_, given, n_repeats=4, n_draws=19).stability)
    np.testing.assert_allclose(*curves, atol=1e-3)
    names = ["iq", "coverage", "stability", "split_half_r", "icc", "dice"]
    np.testing.assert_allclose(tables[0][names], tables[1][names], atol=0.01)
    assert (tables[0]["split_half_r"] > 0.85).all() and (tables[0]["icc"] > 0.8).all()


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_canica_auto_fits_with_the_number_chosen():
    from sklearn.base import clone

    from llmbrain.networks import CanICA

    runs = planted_runs(n_tokens=120, n_neurons=800)
    canica = CanICA(n_components="auto", n_init=2).fit(runs)
    assert canica.n_components_ == canica.order_.n_components == len(canica.components_) <= 6
    assert canica.n_components == "auto" and clone(canica).n_components == "auto"
    fixed = CanICA(n_components=canica.n_components_, n_init=2).fit(runs)
    assert np.array_equal(canica.components_, fixed.components_)
    with pytest.raises(ParameterError, match="scope"):
        CanICA(n_components="auto", scope="layer").fit(runs)


def test_confounds_are_no_components():
    rng = np.random.default_rng(4)
    confounds = [rng.normal(size=(150, 2)) for _ in range(4)]
    runs = [r + c.astype("f4") @ rng.normal(size=(2, 1500)).astype("f4") for r, c in zip(planted_runs(), confounds)]
    assert order.choose_n_components(runs, grid=[6], n_draws=3).parallel >= 8
    assert order.choose_n_components(runs, grid=[6], n_draws=3, confounds=confounds).parallel == 6
