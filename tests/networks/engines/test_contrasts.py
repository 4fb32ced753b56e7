"""Contract of every contrast: right derivatives, the step that FastICA defines, planted components found."""

import numpy as np
import pytest
import torch
from planted import planted_runs, recovery

from llmbrain.exceptions import ParameterError
from llmbrain.networks.engines import ica
from llmbrain.networks.engines.contrasts import CONTRASTS, Cube, check_contrast
from llmbrain.networks.engines.group import group_ica


@pytest.mark.parametrize("name", CONTRASTS)
def test_derivatives_are_those_of_the_value(name):
    contrast = CONTRASTS[name]()
    check_contrast(contrast)
    y = torch.linspace(-6, 6, 50, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(contrast.value(y).sum(), y, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), y)[0].detach()
    given, slopes = contrast.derivatives(y.detach().clone()[None], torch.empty(1, 50, dtype=torch.float64))
    np.testing.assert_allclose(given[0], first.detach(), rtol=1e-9, atol=1e-12)
    assert float(slopes) == pytest.approx(float(second.sum()), rel=1e-9)
    large = contrast.value(torch.tensor([100.0, -100.0]))
    assert torch.isfinite(large).all()


@pytest.mark.parametrize("name", CONTRASTS)
@pytest.mark.parametrize("batched", [False, True])
def test_step_is_the_definition(name, batched):
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.laplace(size=(6, 4000)).astype(np.float32))
    w = ica.draw_rotations(2, 6, 0)
    y = (w @ z.double()).requires_grad_()
    first = torch.autograd.grad(CONTRASTS[name]().value(y).sum(), y, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), y)[0]
    expected = first.detach() @ z.double().T / 4000 - second.mean(-1, keepdim=True) * w
    if batched:
        found = ica._batched_step(CONTRASTS[name](), z[None], w[None])[0]
    else:
        found = ica._Step(z, name)._direct(w)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CONTRASTS)
def test_planted_networks_are_found(name):
    runs, truth = planted_runs(3000, 5, (200, 150), snr=1.0)
    found = group_ica(runs, 5, contrast=name, n_init=2)
    assert found.converged.all() and recovery(truth, found.maps).min() > 0.9


def test_wrong_derivatives_are_noticed():
    class Wrong(Cube):
        def derivatives(self, y, buffer):
            return y**3, 2 * (y * y).sum(-1)

    with pytest.raises(ParameterError, match="second derivative of Wrong"):
        check_contrast(Wrong())
    Wrong.derivatives = lambda self, y, buffer: (y**2, 3 * (y * y).sum(-1))
    with pytest.raises(ParameterError, match="first derivative"):
        check_contrast(Wrong())
    Wrong.derivatives, Wrong.gaussian = Cube.derivatives, 3.0
    with pytest.raises(ParameterError, match="Gaussian"):
        check_contrast(Wrong())


def test_unknown_contrast_lists_the_choices():
    with pytest.raises(ParameterError, match="'cube', 'logcosh'. Did you mean 'logcosh'"):
        group_ica(planted_runs(300, 2, (60,))[0], 2, contrast="logcos")
