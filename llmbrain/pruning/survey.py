"""Surveys: statistics and scores of the layers, collected while calibration text walks through a model."""

from dataclasses import dataclass
from functools import partial

import torch

from ..models.hooks import site_hooks
from ..models.linears import features, weight_of
from ..models.sites import Site
from ..parallel import broadcast, rank, world_size
from ..parallel import gather as gather_records
from ..stats.moments import Moments
from ..stats.rows import Rows
from .compensation import schur_residual


@dataclass
class LayerSurvey:
    """Scores and statistics of one layer; ``mean``, ``variance`` and ``score`` have shape (n_units,)."""

    mean: torch.Tensor
    variance: torch.Tensor
    score: torch.Tensor
    sensitivity: float | None = None
    power: float | None = None

    @property
    def size(self):
        """Number of neurons."""
        return len(self.mean)

    @property
    def device(self):
        """Device of the statistics."""
        return self.mean.device


def input_site(linear):
    """The input of a linear as a site."""
    size = features(linear)[0]
    return Site(0, "", linear, "input", size, 0, size)


def output_site(linear):
    """The output of a linear as a site."""
    size = features(linear)[1]
    return Site(0, "", linear, "output", size, 0, size)


def stream_weighting(output):
    """Weight each token by one over the power of its residual stream, relative to the median token, at most 4.

    The norm before every later layer divides by that power, so errors matter relative to it. Without the weights, a
    few tokens with massive activations dominate the fit.
    """
    power = output.float().square().sum(-1)
    return (power.median() / power.clamp_min(1e-12)).clamp_max(4.0)


# How much each token counts in every statistic, from the output of the layer; None counts all the same.
TOKEN_WEIGHTS = {"equal": None, "stream": stream_weighting}


def gather(walk, layer, linear, *, full=True, targets=None, held=None, weighting=None, outputs=None, owner=None):
    """Accumulate moments of the inputs of one linear over all blocks, and separately over the held-out tokens.

    ``targets(block, output)`` returns what the layer's output should gain. ``held`` marks the held-out tokens of each
    block; without it the second result is None. ``weighting(output)`` returns the weight of each token. Outputs of the
    layer are appended to ``outputs``, so that the caller need not compute them again. The moments of several processes
    are added up, in the process ``owner`` alone if it is given.
    """
    n_in, n_out = features(linear)
    kind = {"n_targets": n_out if targets else 0, "device": walk.device}
    if full and world_size() == 1 and sum(block.n_tokens for block in walk.blocks) < n_in:
        make = partial(Rows, n_in, **kind)  # least squares are then solved in the tokens
    else:
        make = partial(Moments, n_in, full=full, **kind)
    moments = [make(), None if held is None else make()]
    caught = {}
    with torch.no_grad(), site_hooks([input_site(linear)], lambda i, x: caught.update(x=x)):
        for i in range(len(walk.blocks)):
            output = walk.run(layer, i)
            if outputs is not None:
                outputs.append(output)
            y = targets(i, output) if targets else None
            weights = token_weights(walk, i, output, weighting)
            split_update(moments, caught["x"], y, weights, None if held is None else held[i])
    return of_all(moments, owner)


def of_all(moments, owner=None):
    """Moments of the fitted and of the held-out tokens of all processes; None for the latter if there are none."""
    fit, held = moments
    if world_size() > 1:
        fit, held = (m if m is None else m.all_reduce() if owner is None else m.reduce_to(owner) for m in moments)
    return fit, held if held is not None and held.n else None


def split_update(moments, x, y, weights, held):
    """Add a block to the moments of the fitted and of the held-out tokens."""
    if held is None or not bool(held.any()):
        moments[0].add(x, y, weights)
        return
    every = torch.ones(held.shape, device=held.device) if weights is None else weights.to(torch.float32)
    for side, chosen in zip(moments, (~held, held)):
        side.add(x, y, every * chosen)


def token_weights(walk, block, output, weighting=None):
    """Weight of each token of a block; None if all count the same and there is no padding."""
    mask = walk.masks[block]
    if weighting is None:
        return None if bool(mask.all()) else mask
    return weighting(output) * mask


@torch.no_grad()
def writes_to_stream(walk, layer, linear, silenced=None):
    """Whether the output of a linear is added to the layer's output unchanged (no norm or gate in between).

    The output of ``silenced`` is set to zero meanwhile: the MLP, if attention is tested. The first block decides, for
    all layers that consist of the same modules.
    """
    modules = list(walk.layers[layer].named_modules())
    place = next((name for name, module in modules if module is linear), layer)
    key = (place, silenced is None, *((name, type(module)) for name, module in modules))
    if key not in walk.direct:
        decided = torch.zeros(1, device=walk.device)
        if walk.blocks:
            decided[0] = _is_added(walk, layer, linear, silenced)
        walk.direct[key] = bool(broadcast(decided))
    return walk.direct[key]


def _is_added(walk, layer, linear, silenced):
    quiet = [] if silenced is None else [output_site(silenced)]
    with site_hooks(quiet, lambda i, x: torch.zeros_like(x)):
        plain = walk.run(layer, 0)
        scale = plain.float().std()
        push = torch.linspace(-1, 1, features(linear)[1], device=plain.device) * scale
        with site_hooks([output_site(linear)], lambda i, x: x + push.to(x.dtype)):
            pushed = walk.run(layer, 0)
    # The median, because channels with massive values cannot represent the push in half precision.
    return bool(((pushed.float() - plain.float()) - push).abs().median() < 2e-2 * scale)


def survey(walk, parts, scores, *, full, schur=False, weightings=None, streams=None, progress=None):
    """Walk the dense model once and compute several scores for every layer.

    ``scores[name](part, moments)`` returns one number per neuron, and may read covariances if ``full``; ``weightings``
    holds what weights its tokens, by default nothing. With ``schur`` the sensitivity of each layer is computed too.
    The outputs of every layer are put into the dict ``streams``.
    Returns a list of :class:`LayerSurvey` for each name. Of as many layers as there are processes, each process scores
    one.
    """
    weightings = weightings or dict.fromkeys(scores)
    found, mine = {name: [None] * len(parts) for name in scores}, []
    for i, part in enumerate(parts):
        outputs, owner = [], i % world_size()
        distinct = dict.fromkeys(weightings.values())
        moments = _gather_each(walk, part, distinct, full=full or schur, outputs=outputs, owner=owner)
        walk.restart(outputs)
        if streams is not None:
            streams[part.layer] = outputs
        power = _stream_power(walk)
        mine += [(i, part, moments, power)] if owner == rank() else []
        del moments
        if owner == world_size() - 1 or part is parts[-1]:
            for own in mine:
                _score(*own, scores, weightings, schur, found)
            mine = []
        if progress:
            progress()
    return _of_owners(found, walk.device)


def _gather_each(walk, part, weightings, *, full, outputs, owner):
    """Moments of the inputs of a writer under several weightings of the tokens, from one run of the layer."""
    found = {weighting: Moments(part.size, full=full, device=walk.device) for weighting in weightings}
    caught = {}
    with torch.no_grad(), site_hooks([input_site(part.writer)], lambda i, x: caught.update(x=x)):
        for i in range(len(walk.blocks)):
            outputs.append(walk.run(part.layer, i))
            for weighting, moments in found.items():
                moments.add(caught["x"], None, token_weights(walk, i, outputs[-1], weighting))
    return {weighting: of_all([moments, None], owner)[0] for weighting, moments in found.items()}


def _score(i, part, of_weighting, power, scores, weightings, schur, found):
    """Add the scores of one layer to those that were found."""
    for name, score in scores.items():
        moments = of_weighting[weightings[name]]
        values = score(part, moments).to(moments.device)
        layer = LayerSurvey(moments.mean, moments.variance, values, power=power)
        if schur:
            kept = values.topk(max(1, part.size // 2)).indices
            residual = schur_residual(weight_of(part.writer), moments.covariance, kept, 1e-2)
            layer.sensitivity = residual / power
        found[name][i] = layer


def _of_owners(found, device):
    """The surveys of all processes, in each of them."""
    if world_size() == 1:
        return found
    own = {}
    for n, layers in enumerate(found.values()):
        for i, layer in enumerate(layers):
            values = {} if layer is None else vars(layer)
            own |= {f"{n} {i} {k}": v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    fields = {key: value for record in gather_records(own) for key, value in record.items()}
    for n, layers in enumerate(found.values()):
        for i in range(len(layers)):
            values = {k: fields[f"{n} {i} {k}"] for k in LayerSurvey.__dataclass_fields__}
            tensors = {k: torch.from_numpy(v).to(device) for k, v in values.items() if hasattr(v, "shape")}
            layers[i] = LayerSurvey(**{**values, **tensors})
    return found


def _stream_power(walk):
    """Median over tokens of the squared norm of the residual stream; the median ignores the few massive tokens."""
    power = [h.float().square().sum(-1)[m] for h, m in zip(walk.hidden, walk.masks)]
    power = torch.cat(power) if power else torch.zeros(0)
    if world_size() > 1:
        power = torch.cat([torch.from_numpy(r["power"]) for r in gather_records({"power": power.cpu().numpy()})])
    return float(power.median())
