"""Reconstruction: refit all linears of a pruned MLP to the output of the dense one by least squares, layer by layer.

With gates ``s_j(z)`` and readers ``u_j`` a gated MLP writes ``sum_j d_j s_j(z) (u_j . z)``: linear in the ``d_j``, and,
with the ``d_j`` fixed, linear in the ``u_j``. The gates enter through their derivative (one Gauss-Newton step). Each
problem is solved by conjugate gradients, whose early stop, chosen on held-out tokens, is the regularisation.
"""

from dataclasses import dataclass

import torch

from ..models.linears import weight_of
from ..models.surgery import set_linear
from ..parallel import all_reduce, broadcast, main_process
from ..stats.moments import Moments
from ..stats.precision import full_precision
from .compensation import choose_ridge, compensate, frozen

__all__ = ["READERS", "Samples", "conjugate_gradients", "reconstruct"]


# Which readers of the MLP are refitted, by the option ``reconstruct``.
READERS = {"none": (), "up": ("up",), "all": ("up", "gate")}
_ROUNDS = 2  # how often readers and writer are refitted in turn
_REMEMBERED = 2 << 30  # bytes of factors that are kept between the steps of one refit


@dataclass
class Samples:
    """Tokens of one layer in blocks without padding.

    ``inputs`` and ``targets`` (the wanted output) have shape (n_tokens, width), ``weights`` (n_tokens,); ``held`` tells
    for each block whether it is held out. Several processes hold other tokens of the layer.
    """

    inputs: list
    targets: list
    weights: list
    held: list

    def add(self, inputs, targets, weights, mask, held=None):
        """Add a block, split in two if some of its tokens are held out.

        ``inputs`` and ``targets`` have shape (n_windows, n_longest, width), the others (n_windows, n_longest);
        ``mask`` marks real tokens.
        """
        for out in (False, True):
            chosen = (mask & held if out else mask & ~held) if held is not None else mask
            if bool(chosen.any()) and (held is not None or not out):
                self.inputs.append(inputs[chosen])
                self.targets.append(targets[chosen])
                self.weights.append(weights[chosen])
                self.held.append(out)

    def judges(self):
        """Blocks on which errors are measured: those that are held out, or all if none is in any process."""
        held = self.part(True)
        return held if bool(all_reduce(torch.tensor(float(len(held))))) else self.part(False)

    def part(self, held):
        """Blocks that are held out, or those that are not."""
        return [b for b in zip(self.inputs, self.targets, self.weights, self.held) if b[3] == held]


def conjugate_gradients(apply, right, precondition, n_steps, watch=None):
    """Solve ``A x = right`` for a positive definite ``A``; return the iterate with the lowest ``watch``.

    ``apply(p)`` is ``A p``. ``watch(x)`` is a held-out error, returned for each step; iteration stops when it has risen
    twice.

    Examples
    --------
    >>> a = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    >>> x, _ = conjugate_gradients(lambda p: a @ p, torch.tensor([2.0, 4.0]), lambda r: r, 2)
    >>> [round(v, 5) for v in x.tolist()]
    [1.0, 1.0]
    """
    x = torch.zeros_like(right)
    best, errors, risen = x, [] if watch is None else [watch(x)], 0
    residual = right.clone()
    z = precondition(residual)
    direction, rho = z.clone(), (residual * z).sum()
    for _ in range(n_steps):
        if not float(rho) > 0:
            break
        moved = apply(direction)
        step = rho / (direction * moved).sum()
        x = x + step * direction
        residual = residual - step * moved
        if watch is not None:
            errors.append(watch(x))
            if errors[-1] < min(errors[:-1]):
                best, risen = x, 0
            else:
                risen += 1
                if risen == 2:
                    break
        z = precondition(residual)
        rho, last = (residual * z).sum(), rho
        direction = z + rho / last * direction
    return (x if watch is None else best), errors


class _Gated:
    """One MLP as a function of its weights."""

    def __init__(self, part):
        self.part, self.activation = part, part.activation
        # in a plain MLP the only reader passes the activation function, as the gate does in a gated one
        self.up, self.gate = (part.up, part.gate) if part.is_gated else (None, part.up)

    def rows(self, reader):
        module, rows = reader.module, slice(reader.start, reader.stop)
        return weight_of(module)[rows].float(), None if module.bias is None else module.bias[rows].float()

    def read(self, z, reader, change=None):
        weight, bias = self.rows(reader)
        if change is not None:
            weight = weight + change
        out = z @ weight.T
        return out if bias is None else out + bias

    def hidden(self, z, up_change=None, gate_change=None):
        h = self.activation(self.read(z, self.gate, gate_change))
        return h if self.up is None else h * self.read(z, self.up, up_change)

    def factor(self, z, which):
        """Derivative of the neurons with respect to the output of a reader."""
        if which == "up":
            return self.activation(self.read(z, self.gate))
        g = self.read(z, self.gate)
        with torch.enable_grad():
            leaf = g.detach().requires_grad_(True)
            slope = torch.autograd.grad(self.activation(leaf).sum(), leaf)[0]
        return slope if self.up is None else slope * self.read(z, self.up)


@torch.no_grad()
def reconstruct(part, samples, *, readers=("up",), n_steps=8, damping=1e-3):
    """Refit ``readers`` and writer of a sliced MLP in turn, in place.

    ``up`` is an exact least-squares problem; ``gate`` (and the single reader of a plain MLP) is linearised. ``damping``
    penalises the change, as a share of the mean curvature. Returns the held-out error after each accepted refit, as a
    share of the error before.
    """
    mlp = _Gated(part.now())
    with full_precision():
        errors = [_held_error(mlp, samples)]
        for _ in range(_ROUNDS):
            for which in readers:
                if which == "up" and mlp.up is None:
                    continue
                _refit_reader(mlp, which, samples, n_steps, damping, errors)
            _refit_writer(mlp, samples, errors)
            if len(errors) > 3 and errors[-1] > 0.998 * errors[-3]:
                break
    return [e / max(errors[0], 1e-300) for e in errors]


def _writer(mlp):
    writer = mlp.part.writer
    return weight_of(writer).float(), None if writer.bias is None else writer.bias.float()


def _held_error(mlp, samples, up=None, gate=None):
    """Weighted mean squared error on held-out blocks, or on all if none is held out."""
    weight, bias = _writer(mlp)
    total = count = 0.0
    for z, y, w, _ in samples.judges():
        gap = mlp.hidden(z.float(), up, gate) @ weight.T - y.float()
        gap = gap if bias is None else gap + bias
        total += float((gap.square().sum(1) * w).sum(dtype=torch.float64))
        count += float(w.sum(dtype=torch.float64))
    total, count = all_reduce(torch.tensor([total, count], dtype=torch.float64)).tolist()
    return total / max(count, 1e-300)


def _refit_reader(mlp, which, samples, n_steps, damping, errors):
    weight, bias = _writer(mlp)
    reader = mlp.up if which == "up" else mlp.gate
    blocks = samples.part(False)
    width, n_units = mlp.rows(reader)[0].shape[1], weight.shape[1]
    gram = torch.zeros(width, width, device=weight.device)
    curvature = torch.zeros(n_units, device=weight.device)
    right = torch.zeros(n_units, width, device=weight.device)
    count, factors = 0.0, []
    remember = sum(len(z) for z, *_ in blocks) * n_units * 4 <= _REMEMBERED
    for z, y, w, _ in blocks:
        z = z.float()
        factor = mlp.factor(z, which)
        if remember:
            factors.append(factor)
        gap = y.float() - mlp.hidden(z) @ weight.T
        gap = gap if bias is None else gap - bias
        right += (((gap * w[:, None]) @ weight) * factor).T @ z
        gram += (z * w[:, None]).T @ z
        curvature += (factor.square() * w[:, None]).sum(0)
        count += float(w.sum())
    gram, right, curvature = all_reduce(gram), all_reduce(right), all_reduce(curvature)
    count = float(all_reduce(torch.tensor(count, dtype=torch.float64)))
    curvature = curvature * weight.square().sum(0) / count
    gram, right = gram / count, right / count
    scale = gram.diagonal().mean()
    curvature = curvature.clamp_min(1e-6 * curvature.mean())
    penalty = damping * scale * curvature.mean()
    inverse = torch.linalg.inv(gram.double() + 1e-2 * float(scale) * torch.eye(width, device=gram.device)).float()

    def apply(change):
        out = penalty * change if main_process() else torch.zeros_like(change)
        for i, (z, _, w, _) in enumerate(blocks):
            z = z.float()
            factor = factors[i] if remember else mlp.factor(z, which)
            pushed = (factor * (z @ change.T)) @ weight.T
            out = out + (((pushed * w[:, None]) @ weight) * factor).T @ z / count
        return all_reduce(out)

    def watch(change):
        return _held_error(mlp, samples, **{which: change})

    change, seen = conjugate_gradients(apply, right, lambda r: (r / curvature[:, None]) @ inverse, n_steps, watch)
    if min(seen) < errors[-1]:
        change = broadcast(change)
        target = weight_of(reader.module)
        target[reader.start : reader.stop] += change.to(target.dtype)
        errors.append(min(seen))


def _refit_writer(mlp, samples, errors):
    """Refit the writer by affine least squares on the current neurons; keep it only if the held-out error falls."""
    weight, bias = _writer(mlp)
    n_units, width = weight.shape[1], weight.shape[0]
    sides = [Moments(n_units, width, device=weight.device) for _ in range(2)]
    for z, y, w, held in zip(samples.inputs, samples.targets, samples.weights, samples.held):
        h = mlp.hidden(z.float())
        gap = y.float() - h @ weight.T
        sides[int(held)].add(h, gap if bias is None else gap - bias, w)
    sides = [side.all_reduce() for side in sides]
    fit = frozen(sides[0])
    every = torch.arange(n_units)
    best, seen = choose_ridge(weight, fit, sides[1] if sides[1].n else fit, every)
    error = min(e for e in seen if e == e)
    if error < errors[-1]:
        refit = compensate(weight, fit, every, "affine", best)
        new_bias = refit.bias if bias is None else refit.bias + bias
        set_linear(mlp.part.writer, broadcast(refit.weight), broadcast(new_bias))
        errors.append(error)
