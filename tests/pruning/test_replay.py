"""Replay of recorded work."""

import pytest
import torch

from llmbrain.pruning import replay
from llmbrain.pruning.replay import Replay


def weighted(x, arguments):
    (first, named), (second, _) = arguments
    return (x * first + second * named["scale"] * named["factor"]).sum(0), x - 1


def inputs(seed, device="cpu", rows=3, factor=2.0):
    noise = torch.Generator().manual_seed(seed)
    x, first, scale = (torch.randn(rows, 4, generator=noise).to(device) for _ in range(3))
    return x, [(first, {"scale": scale, "factor": factor}), (first, None)]


def test_on_a_cpu_the_function_is_called():
    work = Replay(weighted)
    for seed in range(6):
        torch.testing.assert_close(work(*inputs(seed)), weighted(*inputs(seed)))
    assert not work.recorded


def test_shapes_and_plain_values_and_shared_tensors_tell_calls_apart():
    kinds = []
    for given in (inputs(0), inputs(1), inputs(0, rows=2), inputs(0, factor=3.0)):
        tensors, kind = [], []
        replay._take_apart(given, tensors, {}, kind)
        assert len(tensors) == 3  # the one that occurs twice is one
        own = []
        copied = replay._copied(given, own, {})
        torch.testing.assert_close(weighted(*copied), weighted(*given))
        assert [torch.equal(a, b) for a, b in zip(own, tensors)] == [True] * 3
        assert copied[1][0][0] is copied[1][1][0] and own[0] is not tensors[0]
        kinds.append(tuple(kind))
    assert kinds[0] == kinds[1] and len(set(kinds)) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("waits", [False, True])
def test_on_a_gpu_results_are_those_of_the_function(waits):
    """Also those of a function that cannot be recorded, because it waits for the device."""

    def function(x, arguments):
        if waits and float(x.sum()) > 1e9:
            return None
        return weighted(x, arguments)

    work = Replay(function)
    for seed in range(8):
        for rows in (3, 5):
            given = inputs(seed, "cuda", rows)
            torch.testing.assert_close(work(*given), weighted(*given))
    assert len(work.recorded) == (0 if waits else 2)
