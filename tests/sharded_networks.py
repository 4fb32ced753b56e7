"""What test_sharded.py of networks computes in one process and in several."""

import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from planted import planted_runs

from llmbrain.exceptions import ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import CanICA, DictLearning, choose_n_components, gather_evidence
from llmbrain.networks.engines import columns, leading
from llmbrain.networks.engines.group import group_ica
from llmbrain.networks.result import NetworkSet
from llmbrain.parallel import main_process, processes, rank
from llmbrain.pipeline import find_networks

GEOMETRY = NeuronGeometry.from_sizes([150, 130, 170, 150])


def uneven(n_neurons, n_owners):
    """The first process has most neurons, and the last one a single neuron."""
    cuts = [0, n_neurons * 2 // 3, n_neurons - 1, n_neurons]
    return list(zip(cuts, cuts[1:])) if n_owners == 3 else [(0, n_neurons)]


def results():
    """Arrays by name; those whose names end with ``exact`` are the same bits in any number of processes."""
    runs, truth = planted_runs(GEOMETRY.n_neurons, 4, (70, 50, 60, 40), density=0.06, snr=1.2)
    runs[0][:, 5] = np.nan  # a neuron that is excluded
    for run in runs:
        run[:, -1] = 1.0  # another, the only one of the last process
    out = {}
    for group in ("auto", "tokens", "runs"):
        found = group_ica(runs, 4, group=group, n_init=3, tol=1e-9, confounds=[np.arange(len(r)) for r in runs])
        out |= {f"{group} maps": found.maps, f"{group} variance": found.variance, f"{group} dead": found.dead}
        out |= {f"{group} courses": np.concatenate(found.time_courses)}
    with mock.patch.multiple(leading, GRAM_ROWS=20, GRAM_ROWS_PER_VECTOR=1):  # no matrix of products: Krylov spaces
        out["krylov maps"] = group_ica(runs, 4, group="runs", rows_per_run=2, n_init=1, tol=1e-9).maps
    long = [np.concatenate(runs * 4)]  # more tokens than neurons: nothing is shared
    out["long maps exact"] = group_ica(long, 4, n_init=2).maps
    sparse = DictLearning(4, geometry=GEOMETRY).fit(runs)
    out["dictionary maps"] = sparse.components_
    layers = CanICA(2, geometry=GEOMETRY, scope="layer", n_init=2).fit(runs)
    out |= {"layers maps exact": layers.components_, "layers courses exact": layers.networks_.time_courses[0]}
    sparse = DictLearning(2, geometry=GEOMETRY, scope="layer", n_epochs=5).fit(runs)
    out |= {"layers initial exact": sparse.components_init_, "layers loadings exact": np.stack(sparse.loadings_init_)}
    evidence = gather_evidence(layers.networks_, runs, n_repeats=3, n_draws=5)
    out |= {
        "layers evidence exact": evidence.stability.to_numpy(float),
        "layers clusters exact": evidence.clusters[3].maps,
    }
    truth = truth.astype(np.float32)
    evidence = gather_evidence(NetworkSet(truth, GEOMETRY), runs, n_repeats=4, n_draws=5)
    out |= {"evidence exact": evidence.stability.to_numpy(float), "clusters exact": evidence.clusters[0].maps}
    order = choose_n_components(runs, grid=[2, 3, 5], n_draws=2)
    out |= {"order exact": order.curve.to_numpy(float)}
    return out


def refusals():
    """What several processes refuse."""
    with pytest.raises(ParameterError, match="Start at most 2 processes"):
        columns.Columns(2, shared=True)
    with pytest.raises(ParameterError, match="as an integer"):
        CanICA(2, random_state=np.random.RandomState(0)).fit([np.ones((9, 20))])


def compute(study):
    """Compute everything in this process, which may be one of several."""
    networks = find_networks(study, n_components=3, n_repeats=3, progress=False)
    numbers = networks.metrics.select_dtypes("number").to_numpy(float)
    return {**results(), "study maps": networks.maps, "study numbers": numbers}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with processes():
        refusals()
        columns._cuts = uneven
        np.savez(Path(sys.argv[1]) / f"{rank()}-{main_process()}.npz", **compute(sys.argv[2]))
