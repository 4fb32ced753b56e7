"""Reconstruction of readers and writer."""

import copy

import pytest
import torch
from tiny import tiny_model

from llmbrain.models.surgery import (
    prunable_mlps,
    slice_mlp,
)
from llmbrain.pruning.reconstruct import Samples, conjugate_gradients, reconstruct


def samples_of(part, z, wanted):
    return Samples(
        [z[:600], z[600:]], [wanted[:600], wanted[600:]], [torch.ones(600), torch.ones(len(z) - 600)], [False, True]
    )


def planted_mlp(name="llama"):
    """Neurons in pairs that share gate and writer: each pair is one neuron whose readers were split in two."""
    model = tiny_model(name)
    part = prunable_mlps(model)[0]
    with torch.no_grad():
        weight, start = part.gate.module.weight, part.gate.start
        weight[start + 24 : start + 48] = weight[start : start + 24]
        part.writer.weight[:, 24:] = part.writer.weight[:, :24]
    return model, part


def test_conjugate_gradients_solve_the_system():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(20, 20, generator=g, dtype=torch.float64)
    a = a @ a.T + torch.eye(20)
    b = torch.randn(20, generator=g, dtype=torch.float64)
    x, _ = conjugate_gradients(lambda p: a @ p, b, lambda r: r / a.diagonal(), 60)
    torch.testing.assert_close(x, torch.linalg.solve(a, b), rtol=1e-6, atol=1e-6)


def test_conjugate_gradients_stop_where_held_out_tokens_say():
    a = torch.diag(torch.tensor([1.0, 0.01]))
    x, errors = conjugate_gradients(
        lambda p: a @ p,
        torch.tensor([1.0, 1.0]),
        lambda r: r,
        50,
        watch=lambda x: float((x - torch.tensor([1.0, 0.0])).norm()),
    )
    assert float((x - torch.tensor([1.0, 0.0])).norm()) == min(errors)


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_refitting_the_readers_joins_split_neurons(name):
    _, part = planted_mlp(name)
    z = torch.randn(800, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = part.owner(z)
        slice_mlp(part, range(24))
        before = float((part.owner(z) - wanted).square().mean())
        samples = samples_of(part, z, wanted)
        reconstruct(part, samples, readers=("up",), n_steps=60, damping=0)
        after = float((part.owner(z) - wanted).square().mean())
    assert after < 0.01 * before


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "phi3"])
def test_reconstruction_never_raises_held_out_error(name):
    model = tiny_model(name)
    part = prunable_mlps(model)[1]
    z = torch.randn(800, 32, generator=torch.Generator().manual_seed(1))
    mlp = part.owner if name != "opt" else (lambda x: part.writer(torch.relu(part.owner.fc1(x))))
    with torch.no_grad():
        wanted = mlp(z)
        slice_mlp(part, range(30))
        before = float((mlp(z[600:]) - wanted[600:]).square().mean())
        left = reconstruct(part, samples_of(part, z, wanted), readers=("up", "gate"))
        after = float((mlp(z[600:]) - wanted[600:]).square().mean())
    assert all(b < a for a, b in zip(left, left[1:]))
    assert after / before == pytest.approx(left[-1], rel=1e-3)
    assert after < 0.97 * before


def test_remembered_factors_change_nothing(monkeypatch):
    from llmbrain.pruning import reconstruct as module

    results = []
    for limit in (0, 2 << 30):
        monkeypatch.setattr(module, "_REMEMBERED", limit)
        model = tiny_model("llama")
        part = prunable_mlps(model)[1]
        g = torch.Generator().manual_seed(0)
        z = [torch.randn(60, 32, generator=g) for _ in range(3)]
        samples = Samples(z, [part.owner(x).detach() + 0.01 * x for x in z], [torch.ones(60)] * 3, [False, False, True])
        module.reconstruct(part, samples, readers=("up", "gate"))
        results.append(torch.cat([p.flatten() for p in part.owner.parameters()]))
    assert torch.equal(*results)


def test_a_refit_that_does_not_help_is_not_kept():
    """Targets are noise: whatever is learned on the fitted half must not be written into the weights."""
    model = tiny_model("llama")
    part = prunable_mlps(model)[1]
    g = torch.Generator().manual_seed(2)
    z = torch.randn(660, 32, generator=g)
    with torch.no_grad():
        wanted = part.owner(z)
        wanted[:600] += 50 * torch.randn(600, 32, generator=g)
        wanted[600:] += 1e-3 * torch.randn(60, 32, generator=g)
        before = copy.deepcopy(part.owner.state_dict())
        left = reconstruct(part, samples_of(part, z, wanted), readers=("up", "gate"))
    assert left == [1.0]
    assert all(torch.equal(before[k], v) for k, v in part.owner.state_dict().items())
