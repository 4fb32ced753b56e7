"""Many decompositions in one batch are those one by one."""

import numpy as np
import pytest
import torch
from planted import planted_runs, recovery

from llmbrain.exceptions import NumericalWarning, ParameterError
from llmbrain.networks.engines import ica, layered, linalg
from llmbrain.networks.engines.group import group_ica
from llmbrain.networks.engines.parallel import workers
from llmbrain.networks.engines.sources import as_sources


def white(c=6, v=4000, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((c, c)) @ rng.laplace(size=(c, v)) ** 3
    z -= z.mean(1, keepdims=True)
    values, vectors = np.linalg.eigh(z @ z.T / v)
    return torch.from_numpy(((vectors / np.sqrt(values)).T @ z).astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_in_one_batch_are_layers_one_by_one(dtype):
    cases = [planted_runs(1500, 5, (250,), seed=s, snr=1.0) for s in range(4)]
    layers = (torch.from_numpy(runs[0].copy()).to(dtype) for runs, _ in cases)
    found = layered.layered_ica(layers, 5, n_init=2)
    assert found.converged.all()
    for i, (runs, truth) in enumerate(cases):
        alone = group_ica(runs, 5)
        maps = found.maps[i].numpy()
        assert recovery(alone.maps, maps).min() > (0.9999 if dtype == torch.float32 else 0.999)
        np.testing.assert_allclose(found.variance[i], alone.variance, rtol=0.02)
        np.testing.assert_allclose(maps @ maps.T / 1500, np.eye(5), atol=1e-5)
        assert recovery(truth, maps).min() > 0.8


@pytest.mark.parametrize("seed", [None, np.random.RandomState(3), np.int64(3), 3])
def test_layers_in_one_batch_take_every_kind_of_seed(seed):
    layers = [torch.from_numpy(planted_runs(500, 3, (80,), seed=s, snr=2.0)[0][0]) for s in range(3)]
    found = layered.layered_ica([x.clone() for x in layers], 3, random_state=seed)
    fixed = layered.layered_ica([x.clone() for x in layers], 3, random_state=3)
    for a, b in zip(found.maps.numpy(), fixed.maps.numpy()):
        assert recovery(a, b).min() > 0.99
    if isinstance(seed, (int, np.integer)):
        assert torch.equal(found.maps, fixed.maps)
    again = [layered.layered_ica([x.clone() for x in layers], 3, random_state=np.random.RandomState(5)) for _ in "ab"]
    assert torch.equal(again[0].maps, again[1].maps)


def test_batches_are_computed_in_full_precision_whatever_is_set(monkeypatch):
    seen = []

    def spy(*args):
        seen.append(torch.get_float32_matmul_precision())
        return linalg.polar_factor(*args)

    monkeypatch.setattr(ica, "polar_factor", spy)
    torch.set_float32_matmul_precision("high")
    try:
        ica.batched_fastica(white(3, 500)[None], ica.draw_rotations(2, 3, 0)[None], max_iter=3)
        layered.layered_ica([torch.randn(40, 90, generator=torch.Generator().manual_seed(0))], 2, max_iter=3)
        with workers("meta"):  # what every decomposition on another device than the CPU runs in
            seen.append(torch.get_float32_matmul_precision())
        with pytest.raises(ParameterError):
            layered.layered_ica([torch.ones(3, 3)], 9)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(seen) == 7 and set(seen) == {"highest"}


def test_parts_in_one_batch_have_the_same_results():
    from llmbrain.networks.engines.layered import can_batch, group_ica_of_parts

    cases = [planted_runs(900, 4, (150, 100), seed=s, snr=1.0)[0] for s in range(3)]
    cases[1][0][:, 7], cases[1][1][:, 7] = 2, 3
    parts = [as_sources(runs) for runs in cases]
    assert can_batch(parts, "cuda", "tokens") and not can_batch(parts, "cpu", "tokens")
    assert not can_batch(parts, "cuda", "runs") and not can_batch(parts[:1], "cuda", "tokens")
    with pytest.warns(NumericalWarning, match="1 of 900"):
        found = group_ica_of_parts(parts, 4, n_init=2, device="cpu", dtype=torch.float32)
    for runs, result in zip(cases, found):
        alone = group_ica(runs, 4, n_init=2, group="tokens", warn=False)
        assert recovery(alone.maps, result.maps).min() > 0.999
        np.testing.assert_allclose(result.variance, alone.variance, rtol=1e-2)
        assert [c.shape for c in result.time_courses] == [(150, 4), (100, 4)]
        np.testing.assert_array_equal(result.dead, alone.dead)
