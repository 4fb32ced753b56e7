"""Dual regression, against nilearn and planted truth."""

import numpy as np
import pytest

from llmbrain.exceptions import NumericalWarning, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks.evidence.dual_regression import dual_regression, regress_maps, t_to_z, time_courses


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    maps = rng.normal(0, 2, (4, 240)) * (rng.random((4, 240)) < 0.2)
    courses = rng.normal(size=(80, 4)) * [1, 2, 3, 4]
    return courses @ maps + rng.normal(size=(80, 240)), maps, courses


def test_stage_one_is_nilearn_s_maps_masker(planted):
    from nilearn.maskers import NiftiMapsMasker

    run, maps, _ = planted
    geometry = NeuronGeometry.from_sizes([60] * 4)
    masker = NiftiMapsMasker(geometry.to_img(maps), mask_img=geometry.mask_img, standardize=None)
    expected = masker.fit_transform(geometry.to_img(run))
    assert np.allclose(time_courses(run, maps, demean=False), expected, atol=1e-4)


def test_stage_one_with_demean_is_a_regression_with_intercept(planted):
    run, maps, _ = planted
    design = np.column_stack([maps.T, np.ones(240)])
    expected = np.linalg.lstsq(design, run.T, rcond=None)[0][:4].T
    assert np.allclose(time_courses(run, maps), expected)
    # what demeaning is for: a level common to all neurons leaves the courses as they were
    assert np.allclose(time_courses(run + np.linspace(-9, 9, 80)[:, None], maps), expected)


@pytest.mark.parametrize("normalize", [True, False])
def test_stage_two_is_nilearn_s_glm(planted, normalize):
    from nilearn.glm import compute_contrast
    from nilearn.glm.first_level import run_glm

    run, _, courses = planted
    beta, z, dof = regress_maps(run, courses, normalize=normalize)
    x = (courses - courses.mean(0)) / (courses.std(0) if normalize else 1.0)
    labels, results = run_glm(run, np.column_stack([x, np.ones(80)]), noise_model="ols")
    for k in range(4):
        contrast = compute_contrast(labels, results, np.eye(5)[k])
        assert np.allclose(beta[k], contrast.effect_size(), atol=1e-5)
        inside = np.abs(contrast.z_score()) < 8  # nilearn clips its p-values further out
        assert np.allclose(z[k][inside], contrast.z_score()[inside], atol=1e-3)
    assert dof == 75


def test_dual_regression_recovers_maps_and_courses_in_a_new_run(planted):
    run, maps, courses = planted
    result = dual_regression(run, maps)
    for k in range(4):
        assert np.corrcoef(result.time_courses[:, k], courses[:, k])[0, 1] > 0.98
        assert np.corrcoef(result.maps[k], maps[k])[0, 1] > 0.95
        assert (np.abs(result.z[k][maps[k] == 0]) > 3).mean() < 0.02
    # a course of larger amplitude has a larger map, the shape of the group map being the same
    assert np.diff([np.abs(m[g != 0]).mean() / np.abs(g[g != 0]).mean() for m, g in zip(result.maps, maps)]).min() > 0


def test_dual_regression_in_blocks_is_the_same(planted, monkeypatch):
    run, maps, _ = planted
    whole = dual_regression(run, maps)
    monkeypatch.setattr("llmbrain.networks.evidence.dual_regression.BLOCK_VALUES", 1)
    parts = dual_regression(run, maps)
    assert np.allclose(whole.time_courses, parts.time_courses) and np.allclose(whole.z, parts.z)


def test_t_to_z_is_scipy_s_and_stays_finite():
    from scipy import stats as sps

    t = np.linspace(-8, 8, 33)
    assert np.allclose(t_to_z(t, 20), sps.norm.isf(sps.t.sf(t, 20)))
    far = t_to_z(np.array([-1e6, 1e6]), 5000)
    assert np.isfinite(far).all() and far[0] < -35 and far[1] > 35


def test_dual_regression_refuses_what_has_no_answer(planted):
    run, maps, _ = planted
    with pytest.raises(ParameterError, match="collinear"):
        time_courses(run, np.concatenate([maps, maps[:1]]))
    with pytest.raises(ParameterError, match="neurons"):
        time_courses(run, maps[:, :-1])
    with pytest.raises(ParameterError, match="more than"):
        regress_maps(run[:5], np.zeros((5, 4)))
    dead = run.copy()
    dead[:, 7] = 3.0
    assert (dual_regression(dead, maps).z[:, 7] == 0).all()


def test_dual_regression_of_a_recording_finds_the_networks_again():
    from llmbrain.networks import CanICA, regress_recording

    rng = np.random.default_rng(2)
    maps = rng.laplace(size=(3, 400)) ** 3
    runs = [(rng.normal(size=(90, 3)) @ maps + rng.normal(size=(90, 400))) * 2.0 + 5 for _ in range(3)]
    networks = CanICA(n_components=3, n_init=3).fit(runs[:2]).networks_
    (new,) = regress_recording(networks, runs[2:])
    for k in range(3):
        assert np.corrcoef(new.maps[k], networks.maps[k])[0, 1] > 0.9
    assert new.time_courses.shape == (90, 3)


def test_dual_regression_leaves_out_dead_neurons_and_confounds():
    from planted import planted_runs, recovery

    from llmbrain.networks import CanICA, regress_recording

    (first, second), maps = planted_runs(1500, 4, snr=1.5)
    networks = CanICA(4, n_init=2).fit([first]).networks_
    ramp = np.linspace(-3, 3, len(second))[:, None]
    spoiled = second + (ramp * np.random.default_rng(1).standard_normal(1500)).astype(np.float32)
    spoiled[3, 7], spoiled[:, 9] = np.nan, 0.1
    with pytest.warns(NumericalWarning) as said:
        (found,) = regress_recording(networks, [spoiled], confounds=[ramp])
    assert {str(w.message)[:30] for w in said} == {
        "1 of 1500 neurons hold NaN or ",
        "1 of 1500 neurons are constant",
    }
    for values in (found.maps, found.z, found.time_courses):
        assert np.isfinite(values).all()
    assert not found.maps[:, [7, 9]].any()
    assert np.abs(np.corrcoef(found.time_courses.T, ramp.T)[-1, :-1]).max() < 1e-3
    assert recovery(maps, found.maps).min() > 0.8


def test_pooled_maps_of_one_run_are_stage_two(planted):
    from llmbrain.networks.engines.sources import as_sources
    from llmbrain.networks.evidence.dual_regression import pooled_maps

    run, maps, _ = planted
    z = (run - run.mean(0)) / run.std(0, ddof=1)
    assert np.allclose(pooled_maps(as_sources([run]), maps), dual_regression(z, maps).maps, atol=1e-4)
    both = pooled_maps(as_sources([run, run + 3]), maps)
    assert np.allclose(both, dual_regression(z, maps).maps, atol=1e-4)
