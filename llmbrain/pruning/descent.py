"""Gradient steps on some parameters of a model: what fitting blocks and distillation share."""

import math
from contextlib import contextmanager

import torch

from ..models.hooks import restoring

__all__ = ["Descent", "copies", "put", "trained"]

_BETAS = (0.9, 0.95)
_WARMUP = 10  # steps until the full learning rate


class Descent:
    """AdamW without decay on float32 copies of parameters: half precision loses small steps.

    ``rates`` holds the learning rate of each parameter. Each step writes the new values into the model.
    """

    def __init__(self, parameters, rates):
        self.parameters, self.rates, self.n_steps = parameters, rates, 0
        self.masters = [p.detach().float().clone().requires_grad_() for p in parameters]
        groups = [{"params": [master], "lr": rate} for master, rate in zip(self.masters, rates)]
        self.optimizer = torch.optim.AdamW(groups, betas=_BETAS, weight_decay=0.0, fused=parameters[0].is_cuda)

    def step(self, gradients, done, largest=None):
        """Take one step; the rates rise at first, then fall as half a cosine with the share ``done`` of the work.

        ``largest`` is the norm to which gradients are clipped.
        """
        share = min(1.0, (self.n_steps + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        for master, gradient, rate, group in zip(self.masters, gradients, self.rates, self.optimizer.param_groups):
            master.grad, group["lr"] = gradient.float(), rate * share
        if largest is not None:
            torch.nn.utils.clip_grad_norm_(self.masters, largest)
        self.optimizer.step()
        put(self.parameters, self.masters)
        self.n_steps += 1


@contextmanager
def trained(model, parameters):
    """Only these parameters of the model ask for gradients inside the block; afterwards all flags are as before."""
    flags = {p: p.requires_grad for p in model.parameters()}

    def undo():
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None

    with restoring(undo):
        for parameter in flags:
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield


def copies(parameters):
    """Values of parameters, to be put back by :func:`put`."""
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def put(parameters, values):
    """Give parameters these values."""
    for parameter, value in zip(parameters, values):
        parameter.copy_(value)
