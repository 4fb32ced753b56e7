"""Distillation of a cut model from the dense one, on the calibration text alone."""

import math
import time

import numpy as np
import torch

from ..models.anatomy import anatomy_of
from ..models.inputs import input_device
from .allocation.probe import Probe, Words
from .calibration import group_blocks, split_windows

__all__ = ["LEARNING_RATE", "N_CHECKS", "recover"]

LEARNING_RATE = 1e-4
_ROWS = 2  # windows of a step
_WARMUP = 10  # steps until the full learning rate
N_CHECKS = 8  # times the held-out divergence is measured


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
    probe, trained = Probe(dense, held), _trained(model)
    probe.model = model
    flags = {p: p.requires_grad for p in model.parameters()}
    seconds, used, steps, tokens = 60 * minutes, 0.0, 0, 0
    best, before = _copy(trained), probe.divergence()
    lowest = before
    try:
        for parameter in flags:
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        masters = [p.detach().float().clone().requires_grad_() for p in trained]  # half precision loses small steps
        optimizer = torch.optim.AdamW(masters, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        order, checks = _order(len(windows), random_state), 0
        while used < seconds:
            start = time.perf_counter()
            block = group_blocks([windows[next(order)] for _ in range(min(_ROWS, len(windows)))], _ROWS)[0]
            rate = min(1.0, (steps + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * min(used / seconds, 1.0)))
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
            loss = _divergence(model, dense, probe, block)
            for master, gradient in zip(masters, torch.autograd.grad(loss, trained)):
                master.grad = gradient.float()
            torch.nn.utils.clip_grad_norm_(masters, 1.0)
            optimizer.step()
            _put(trained, masters)
            steps, tokens = steps + 1, tokens + block.n_tokens
            used += time.perf_counter() - start
            if used >= seconds * (checks + 1) / N_CHECKS:
                checks += 1
                divergence = probe.divergence()
                if divergence < lowest:
                    best, lowest = _copy(trained), divergence
                if progress:
                    progress()
    finally:
        _put(trained, best)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
    return {
        "minutes": float(minutes), "steps": steps, "tokens": tokens, "divergence_before": float(before),
        "divergence_after": float(lowest),
    }  # fmt: skip


def _trained(model):
    """Parameters of the decoder blocks and the final norm."""
    anatomy = anatomy_of(model)
    found = {p: None for module in [*anatomy.layers, anatomy.norm] for p in module.parameters()}
    return [p for p in found if p.is_floating_point()]


def _copy(parameters):
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def _put(parameters, values):
    for parameter, value in zip(parameters, values):
        parameter.copy_(value)


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
