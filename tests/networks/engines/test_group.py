"""Group ICA on planted networks, its errors, imports and memory."""

import subprocess
import sys

import numpy as np
import pytest
from planted import planted_runs, recovery

from llmbrain.exceptions import NumericalWarning, ParameterError
from llmbrain.networks.engines.group import group_ica


def test_runs_without_signal_are_refused_in_every_group_model():
    flat = [np.ones((50, 300), np.float32), np.zeros((40, 300), np.float32)]
    for group in ("runs", "tokens", "auto"):
        for runs in (flat, [np.full_like(run, np.nan) for run in flat]):
            with pytest.raises(ParameterError, match="Every neuron is constant or not finite in every run"):
                group_ica(runs, 3, group=group)
    runs, truth = planted_runs(300, 3, (100, 100), snr=2.0)
    found, alone = group_ica([*runs, flat[0]], 3, group="runs"), group_ica(runs, 3, group="runs")  # one of three
    assert recovery(alone.maps, found.maps).min() > 0.999


def test_exact_engine_is_never_worse_than_stock_and_keeps_weak_networks():
    from llmbrain.networks import CanICA

    for snr in (0.15, 0.3):
        runs, truth = planted_runs(8000, 8, (256, 256, 256), snr=snr, seed=3)
        stock = recovery(truth, CanICA(8, engine="nilearn", n_init=2).fit(runs).components_).mean()
        same = recovery(truth, group_ica(runs, 8, group="runs", rows_per_run=1).maps).mean()
        more = recovery(truth, group_ica(runs, 8, group="runs").maps).mean()
        default = recovery(truth, group_ica(runs, 8).maps).mean()
        assert same > stock - 0.005
        assert more > same - 0.005
        assert default > more - 0.005
    assert default > 0.5


def test_short_runs_give_fewer_rows():
    runs, truth = planted_runs(3000, 5, (12,) * 30, snr=1.5)  # fewer tokens a run than components asked for thrice
    found = group_ica(runs, 5, group="runs")
    assert recovery(truth, found.maps).min() > 0.8


def test_more_components_than_signal_is_said():
    runs, _ = planted_runs(1500, 3, (120,), snr=1.0)
    with pytest.warns(NumericalWarning, match="did not converge"):
        found = group_ica(runs, 20, max_iter=30)
    assert np.isfinite(found.maps).all() and not found.converged.all()


def test_engine_imports_without_nilearn_and_nibabel():
    code = (
        "import sys; sys.modules['nilearn'] = sys.modules['nibabel'] = sys.modules['pandas'] = None; "
        "from llmbrain.networks.engines import layered, dictionary; from llmbrain.networks import group_ica"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_below_one_run(tmp_path):
    code = """
import sys, warnings
import numpy as np
import nilearn.decomposition, torch
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import CanICA
def memory(field):
    return next(int(x.split()[1]) / 1024 for x in open("/proc/self/status") if x.startswith(field))
geometry = NeuronGeometry.from_sizes([2048] * 24)
path = sys.argv[1]
CanICA(8, n_init=2).fit(np.random.default_rng(0).standard_normal((60, 900)).astype(np.float32))
before = memory("VmRSS")
CanICA(8, n_init=2, geometry=geometry).fit([path])
print(memory("VmHWM") - before)
"""
    from llmbrain.geometry import NeuronGeometry

    geometry = NeuronGeometry.from_sizes([2048] * 24)
    rng = np.random.default_rng(0)
    run = rng.standard_normal((400, geometry.n_neurons), dtype=np.float32)
    run += rng.laplace(size=(400, 8)).astype(np.float32) @ rng.laplace(size=(8, geometry.n_neurons)).astype(np.float32)
    geometry.to_img(run).to_filename(tmp_path / "run.nii")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "run.nii")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0 * run.nbytes / 2**20
