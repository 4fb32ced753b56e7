"""A numerical check of lesion kinds, also of those that users register."""

import numpy as np

from ..geometry import NeuronGeometry
from ..masks import NeuronMask
from ..models.hooks import site_hooks
from ..models.inputs import input_device
from ..models.sites import find_sites
from ..text import Window
from .batched import Passes, condition_losses
from .context import Lesion
from .kinds import KINDS, Edit


def check_lesion_kind(name, model, *, site="mlp", value=0.5, random_state=0):
    """Check a registered lesion kind on a model.

    The kind must keep shape, type and device, must not change its input in place, must give the same values twice, with
    and without a batch, and in two parts as in one. Strength 0 must change nothing, intermediate strengths must
    interpolate, the batched losses must equal those of single lesions, and no hook may remain.

    Parameters
    ----------
    name : str
        A key of :data:`llmbrain.lesions.KINDS`.
    model : transformers causal language model
        A small one suffices.
    site : str
    value : float
        For kinds that need a value.
    random_state : int

    Raises
    ------
    AssertionError
        If the kind breaks the contract; the message says which part.
    """
    import torch

    rng = np.random.default_rng(random_state)
    sites = find_sites(model, site)
    geometry = NeuronGeometry.from_sites(sites, site)
    mask = NeuronMask(rng.random(geometry.n_neurons) < 0.3, geometry)
    options = {"value": value} if KINDS[name].needs_value else {}
    if KINDS[name].reference:
        samples = rng.standard_normal((7, geometry.n_neurons)).astype(np.float32)
        options["reference"] = samples if KINDS[name].reference == "samples" else samples[0]
    edit = Edit(mask, name, random_state=random_state, **options)
    half = Edit(mask, name, strength=0.5, random_state=random_state, **options)
    device = next(sites[0].module.parameters()).device
    layer = edit.layers[0]
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.as_tensor(rng.standard_normal((3, 5, edit.units[layer].size)), dtype=dtype, device=device)
        _check_values(name, edit, half, layer, x)
    _check_model(name, model, sites, geometry, edit, rng)


def _check_values(name, edit, half, layer, x):
    """Check what replaces the values of one layer."""
    import torch

    before, state = x.clone(), edit.state()
    new = state.new_values(layer, x)
    assert new.shape == x.shape, f"{name}: the shape changed from {tuple(x.shape)} to {tuple(new.shape)}."
    assert new.dtype == x.dtype, f"{name}: the type changed from {x.dtype} to {new.dtype}."
    assert new.device == x.device, f"{name}: the device changed from {x.device} to {new.device}."
    assert torch.equal(x, before), f"{name}: the input was changed in place."
    assert torch.equal(state.new_values(layer, x), new), f"{name}: a second call gives other values."
    assert torch.equal(edit.state().new_values(layer, x), new), f"{name}: a second lesion gives other values."
    rows = torch.cat([state.new_values(layer, row[None]) for row in x])
    assert torch.equal(rows, new), f"{name}: a row alone gets other values than in a batch."
    flat = state.new_values(layer, x.flatten(0, 1), n_tokens=x.shape[1]).reshape(x.shape)
    assert torch.equal(flat, new), f"{name}: flattened rows get other values."
    parts = [state.new_values(layer, x[:, :2]), state.new_values(layer, x[:, 2:], past=2)]
    assert torch.equal(torch.cat(parts, dim=1), new), f"{name}: two passes with a cache give other values than one."
    tolerance = 1e-5 if x.dtype == torch.float32 else 5e-2
    middle = half.state().new_values(layer, x)
    assert torch.allclose(middle, (x + new) / 2, atol=tolerance, rtol=tolerance), (
        f"{name}: strengths do not interpolate."
    )


def _check_model(name, model, sites, geometry, edit, rng):
    """Check the lesion inside the model, alone and batched with another condition."""
    import torch

    def n_hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    vocabulary, hooks = model.get_input_embeddings().weight.shape[0], n_hooks()
    parts = [Window(rng.integers(0, vocabulary, n), np.ones(n, bool)) for n in (6, 9)]
    other = Edit(NeuronMask(geometry.layer_of == geometry.n_layers - 1, geometry))
    losses = {m: condition_losses(model, sites, parts, [edit, other], Passes(mode=m)) for m in ("rows", "single")}
    assert np.allclose(losses["rows"], losses["single"], rtol=1e-3, atol=1e-3), f"{name}: batched losses differ."

    seen, ids = {}, torch.from_numpy(parts[0].ids)[None].to(input_device(model))

    def look(i, x):
        seen.setdefault(i, []).append(x.clone())

    with torch.no_grad():
        with site_hooks(sites, look):
            model(ids)
        with Lesion(model, edit, sites), site_hooks(sites, look):
            model(ids)
    first = edit.layers[0]
    kept = torch.from_numpy(np.flatnonzero(~edit.mask_of(first))).to(seen[first][0].device)
    before, after = (x[..., kept] for x in seen[first])
    assert torch.equal(before, after), f"{name}: neurons outside the mask changed."
    assert n_hooks() == hooks, f"{name}: a hook was left on the model."
