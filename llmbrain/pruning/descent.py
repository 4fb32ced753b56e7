"""Gradient steps on some parameters of a model: what fitting blocks and distillation share."""

import math
from contextlib import contextmanager

import torch

from ..models.hooks import restoring

_BETAS = (0.9, 0.95)
_EPS = 1e-15  # gradients are multiplied with rates, so torch's 1e-8 would not be small
_WARMUP = 10  # steps until the full learning rate


class Descent:
    """AdamW without decay on float32 copies of parameters: half precision loses small steps.

    ``rates`` holds the learning rate of each parameter. Each step writes the new values into the model.
    """

    def __init__(self, parameters, rates):
        self.parameters, self.rates, self.n_steps = parameters, rates, 0
        self.units = [rate or 1.0 for rate in rates]
        # in units of their rates all copies share one rate, and one kernel updates them instead of one for each
        self.masters = [(p.detach().float() / u).requires_grad_() for p, u in zip(parameters, self.units)]
        fused = parameters[0].is_cuda
        self.optimizer = torch.optim.AdamW(self.masters, lr=1.0, betas=_BETAS, eps=_EPS, weight_decay=0.0, fused=fused)

    def step(self, gradients, done, largest=None):
        """Take one step; the rates rise at first, then fall as half a cosine with the share ``done`` of the work.

        ``largest`` is the norm to which gradients are clipped.
        """
        share = min(1.0, (self.n_steps + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        gradients = [gradient.float() for gradient in gradients]
        if largest is not None:
            norm = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]).norm()
            gradients = [gradient * (largest / norm).clamp(max=1.0) for gradient in gradients]
        for master, gradient in zip(self.masters, torch._foreach_mul(gradients, self.rates)):
            master.grad = gradient
        self.optimizer.param_groups[0]["lr"] = share
        self.optimizer.step()
        with torch.no_grad():
            put(self.parameters, torch._foreach_mul(self.masters, self.units))
        self.n_steps += 1


@contextmanager
def trained(model, parameters):
    """Let only these parameters of the model require gradients inside the block; afterwards all flags are as before."""
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
    torch._foreach_copy_(list(parameters), list(values))
