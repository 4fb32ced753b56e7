"""Gradient steps on parameters of a model."""

import torch

from llmbrain.pruning.descent import Descent, copies, put, trained


def test_steps_rise_then_fall_and_reach_a_minimum():
    p = torch.nn.Parameter(torch.tensor([4.0, -2.0]))
    descent, seen = Descent([p], [0.5]), []
    for step in range(100):
        before = p.detach().clone()
        descent.step([2 * p.detach()], step / 100)
        seen.append(float((p.detach() - before).abs().max()))
    assert p.abs().max() < 0.05 and descent.n_steps == 100
    assert seen[0] < seen[9] and seen[-1] < 0.1 * max(seen)


def test_each_parameter_moves_at_its_own_rate_whatever_the_size_of_its_gradient():
    p = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.zeros(2))]
    descent = Descent(p, [1e-2, 1e-5, 0.0])
    for _ in range(20):
        descent.step([torch.full((3,), 1e-6), torch.full((2,), 1e3), torch.ones(2)], 0.0)
    moved = [1 - p[0].detach(), 1 - p[1].detach()]
    torch.testing.assert_close(moved[0], torch.full((3,), 0.155), rtol=1e-2, atol=0)
    torch.testing.assert_close(moved[1], torch.full((2,), 1.55e-4), rtol=1e-2, atol=0)
    assert torch.equal(p[2].detach(), torch.zeros(2))


def test_large_gradients_are_shortened_together():
    p = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))]
    descent = Descent(p, [1.0, 1.0])
    descent.step([torch.tensor([30.0]), torch.tensor([40.0])], 0.0, largest=1.0)
    torch.testing.assert_close([float(m.grad) for m in descent.masters], [0.6, 0.8])


def test_half_precision_adds_up_steps_that_it_cannot_hold():
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    descent = Descent([p], [1e-3])
    for _ in range(40):
        descent.step([torch.ones(1, dtype=torch.bfloat16)], 0.0)
    assert p.dtype == torch.bfloat16 and 0.9 < p.item() < 0.98


def test_only_the_named_parameters_ask_for_gradients_meanwhile():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)
    with trained(model, [model[0].bias]):
        assert [p.requires_grad for p in model.parameters()] == [False, True, False, False]
        kept = copies(model.parameters())
        model[0].bias.grad = torch.ones(2)
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True] and model[0].bias.grad is None
    put(model.parameters(), [value + 1 for value in kept])
    assert torch.equal(model[1].weight, kept[2] + 1)
