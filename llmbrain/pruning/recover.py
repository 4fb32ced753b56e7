"""Distillation of a cut model from the dense one, on the calibration text alone."""

import time

import numpy as np
import torch

from ..models.anatomy import anatomy_of
from ..models.hooks import restoring
from ..models.inputs import input_device
from ..stats.precision import half_products, reduced_precision
from .allocation.probe import Probe, Words
from .calibration import group_blocks, split_windows
from .descent import Descent, copies, put, trained

LEARNING_RATE = 1e-4
_ROWS = 2  # windows of a step
N_CHECKS = 8  # times the held-out divergence is measured


@reduced_precision()
def recover(model, dense, blocks, minutes, *, held_out=0.125, random_state=0, progress=None):
    """Train a cut model in place to predict what the dense model predicts.

    All weights of the decoder blocks and the final norm are trained with AdamW for ``minutes`` (without the
    measurements of the held-out divergence); embeddings and head stay. The loss is the divergence of the next-word
    predictions from those of ``dense``, on the same device. The learning rate rises during the first steps and then
    falls with the time that is left, as half a cosine. The state with the lowest divergence on held-out windows, the
    share ``held_out`` of the calibration windows ``blocks``, is kept; this is the one before training if training does
    not help.

    Returns ``minutes, steps, tokens, divergence_before, divergence_after`` (nats per token, held-out windows).
    """
    fit, held = split_windows(blocks, held_out)
    windows = [window for block in fit for window in block.windows]
    probe, parameters = Probe(dense, held), _parameters(model)
    probe.model = model
    seconds, used, tokens, checks = 60 * minutes, 0.0, 0, 0
    best, before = copies(parameters), probe.divergence()
    lowest, order = before, _order(len(windows), random_state)
    with trained(model, parameters), restoring(lambda: put(parameters, best)):
        descent = Descent(parameters, [LEARNING_RATE] * len(parameters))
        while used < seconds:
            start = time.perf_counter()
            block = group_blocks([windows[next(order)] for _ in range(min(_ROWS, len(windows)))], _ROWS)[0]
            gradients = torch.autograd.grad(_divergence(model, dense, probe, block), parameters)
            descent.step(gradients, used / seconds, largest=1.0)
            tokens += block.n_tokens
            used += time.perf_counter() - start
            if used >= seconds * (checks + 1) / N_CHECKS:
                checks += 1
                divergence = probe.divergence()
                if divergence < lowest:
                    best, lowest = copies(parameters), divergence
                if progress:
                    progress()
    return {
        "minutes": float(minutes), "steps": descent.n_steps, "tokens": tokens, "divergence_before": float(before),
        "divergence_after": float(lowest),
    }  # fmt: skip


def _parameters(model):
    """Parameters of the decoder blocks and the final norm."""
    anatomy = anatomy_of(model)
    found = {p: None for module in [*anatomy.layers, anatomy.norm] for p in module.parameters()}
    return [p for p in found if p.is_floating_point()]


def _order(n, random_state):
    """Numbers of windows, in a new random order in every round."""
    rng = np.random.default_rng(random_state)
    while True:
        yield from rng.permutation(n).tolist()


def _divergence(model, dense, probe, block):
    """Mean divergence of a block, with gradients."""
    device, total = input_device(model), 0.0
    heads = [m.get_output_embeddings() for m in (dense, model)]
    inputs, mask = block.inputs(device), block.mask.to(device)
    with half_products(device):
        with torch.no_grad():
            wanted = dense.base_model(**inputs, use_cache=False).last_hidden_state
        given = model.base_model(**inputs, use_cache=False).last_hidden_state
    for row, keep in enumerate(mask):
        with torch.no_grad():
            whole = probe.predict(heads[0], wanted[row][keep], None)
            words = Words.of(whole)
            target = whole if words is None else probe.predict(heads[0], wanted[row][keep], words)
        total = total + (target.exp() * (target - probe.predict(heads[1], given[row][keep], words))).sum()
    return total / block.n_tokens
