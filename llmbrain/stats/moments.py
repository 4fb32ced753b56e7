"""Moments of a stream of vectors, such as activations: tokens are added block by block and are not kept."""

import copy

from ..exceptions import ParameterError, check_count
from ..parallel import all_reduce, broadcast, rank, reduce_to, world_size
from .precision import full_precision

_COLUMNS = 1024  # summed at a time on a CPU, so that their powers stay in the cache


class Moments:
    """Count, mean, variance, kurtosis and covariance of a stream of vectors, and its covariance with a second signal.

    Parameters
    ----------
    size : int
        Channels of the input ``x``.
    n_targets : int
        Channels of a second signal ``y`` whose covariance with ``x`` is wanted; needs ``full=True``.
    full : bool
        Keep the Gram matrix, ``size ** 2`` numbers. With False only variances are kept.
    order : {2, 4}
        Highest power that is summed; 4 gives the kurtosis and needs ``full=False``.
    device : torch.device or str, optional
        Device of the sums; blocks are moved to it.
    dtype : torch.dtype, optional
        Type in which blocks are multiplied and the Gram matrix is kept; float32 by default.

    Attributes
    ----------
    n : int
        Tokens added, not counting those of weight 0.
    weight : float
        Sum of their weights; equals ``n`` without weights.
    shift, target_shift : torch.Tensor or None
        Subtracted from ``x`` and ``y`` before they are summed: the means of the first block.
    sums : dict of torch.Tensor
        Weighted sums over tokens of ``d = x - shift`` and ``e = y - target_shift``: ``first`` (d), ``second`` (d ** 2,
        or d d^T with ``full``), ``third``, ``fourth``, ``target`` (e), ``target_square`` (e ** 2) and ``cross``
        (e d^T). All are float64 except the two matrices, which have the type ``dtype``.

    Notes
    -----
    A large mean would consume the digits of a small variance; the shift prevents that.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 4.0]])
    >>> moments = Moments(2)
    >>> moments.add(x[:2])
    >>> moments.add(x[2:])
    >>> moments.mean.tolist(), moments.covariance[0, 1].item()
    ([3.0, 4.0], 1.3333333333333333)
    """

    def __init__(self, size, n_targets=0, *, full=True, order=2, device=None, dtype=None):
        import torch

        check_count("size", size)
        check_count("n_targets", n_targets, 0)
        if order not in (2, 4) or (full and order == 4) or (n_targets and not full):
            raise ParameterError(
                f"order={order}, full={full}, n_targets={n_targets}: order must be 2 or 4; order=4 needs full=False, "
                "and targets need full=True."
            )
        self.size, self.n_targets, self.full, self.order = int(size), int(n_targets), bool(full), order
        self.device, self.dtype = torch.device(device or "cpu"), dtype or torch.float32
        self.n, self.weight = 0, 0.0
        self.shift = self.target_shift = None

        def zeros(*shape, dtype=torch.float64):
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self.sums = {"first": zeros(size)}
        self.sums["second"] = zeros(size, size, dtype=self.dtype) if full else zeros(size)
        if order == 4:
            self.sums |= {"third": zeros(size), "fourth": zeros(size)}
        if n_targets:
            self.sums |= {"target": zeros(n_targets), "target_square": zeros(n_targets)}
            self.sums["cross"] = zeros(n_targets, size, dtype=self.dtype)

    def add(self, x, y=None, weights=None):
        """Add a block of tokens.

        Parameters
        ----------
        x : torch.Tensor, shape (..., size)
        y : torch.Tensor, shape (..., n_targets)
            Required if there are targets.
        weights : torch.Tensor, shape (...), optional
            Weight of each token; 0 excludes it, for example padding.
        """
        import torch

        if (y is None) == bool(self.n_targets):
            raise ParameterError(
                f"y is {'missing' if y is None else 'given'}, but these moments have {self.n_targets} targets."
            )
        with torch.no_grad(), full_precision():
            x = x.reshape(-1, self.size).to(self.device, self.dtype)
            y = None if y is None else y.reshape(-1, self.n_targets).to(self.device, self.dtype)
            if weights is not None:
                weights = weights.reshape(-1).to(self.device, self.dtype)
                used = weights > 0
                if not bool(used.all()):
                    x, weights = x[used], weights[used]
                    y = None if y is None else y[used]
            if not len(x):
                return
            if self.shift is None:
                self.shift = x.mean(0)
                self.target_shift = None if y is None else y.mean(0)
            self.n += len(x)
            self.weight += float(len(x) if weights is None else weights.double().sum())
            weights = None if weights is None else weights[:, None]
            if self.full:
                self._add_products(x, y, weights)
            else:
                self._add_powers(x, weights)

    def _add_products(self, x, y, weights):
        x = x - self.shift
        wx = x if weights is None else x * weights
        _add_to(self.sums["first"], wx)
        self.sums["second"].addmm_(wx.T, x)
        if y is not None:
            y = y - self.target_shift
            wy = y if weights is None else y * weights
            self.sums["cross"].addmm_(wy.T, x)
            _add_to(self.sums["target"], wy)
            _add_to(self.sums["target_square"], wy * y)

    def _add_powers(self, x, weights):
        step = _COLUMNS if self.device.type == "cpu" else self.size
        for start in range(0, self.size, step):
            part = slice(start, start + step)
            d = x[:, part] - self.shift[part]
            power = d if weights is None else d * weights
            for i, total in enumerate(self.sums.values()):
                power = power * d if i else power
                _add_to(total[part], power)

    def merge(self, other):
        """Return the moments of both streams together, on this object's device."""
        kinds = [(m.size, m.n_targets, m.full, m.order) for m in (self, other)]
        if kinds[0] != kinds[1]:
            raise ParameterError(
                f"Moments of different kinds cannot be merged: (size, n_targets, full, order) is {kinds[0]} and "
                f"{kinds[1]}."
            )
        if self.shift is None or other.shift is None:
            return (other if self.shift is None else self).to(self.device)
        total = copy.copy(self)
        total.n, total.weight = self.n + other.n, self.weight + other.weight
        moved = other.to(self.device)._sums_about(self.shift, self.target_shift)
        total.sums = {name: moved[name].add_(kept).to(kept.dtype) for name, kept in self.sums.items()}
        return total

    def all_reduce(self):
        """Return the moments of all processes together, the same bits in each; alone, of this one.

        See :mod:`llmbrain.parallel`. All processes must call this, also those that have added no token.
        """
        return self._reduced(all_reduce)

    def reduce_to(self, owner):
        """Return the moments of all processes together in the process ``owner``; elsewhere they are undefined."""
        return self._reduced(lambda tensor: reduce_to(tensor, owner))

    def _reduced(self, add_up):
        import torch

        if world_size() == 1:
            return self
        counts = torch.zeros(world_size(), 2, dtype=torch.float64)
        counts[rank()] = torch.tensor([self.n, self.weight], dtype=torch.float64)
        all_reduce(counts)
        if not counts[:, 0].any():
            return self
        first = int(counts[:, 0].nonzero()[0])  # the first process that has tokens gives the shift

        def shift_of(own, size):
            own = torch.zeros(size, dtype=self.dtype, device=self.device) if own is None else own.clone()
            return broadcast(own, first)

        target_shift = shift_of(self.target_shift, self.n_targets) if self.n_targets else None
        total = self.about(shift_of(self.shift, self.size), target_shift)
        total.n, total.weight = int(counts[:, 0].sum()), float(counts[:, 1].sum())
        for name in total.sums:
            add_up(total.sums[name])
        return total

    def about(self, shift, target_shift=None):
        """Return the same moments with sums about another shift ``(size,)`` and target shift ``(n_targets,)``."""
        new = copy.copy(self)
        new.shift, new.target_shift = shift, target_shift
        if self.shift is not None:  # else nothing was added yet, and all sums are 0
            new.sums = self._sums_about(shift, target_shift)
        new.sums = {name: new.sums[name].to(kept.dtype, copy=True) for name, kept in self.sums.items()}
        return new

    def _sums_about(self, shift, target_shift):
        """Compute the sums about another shift, as new float64 tensors."""
        import torch

        old = {name: value.double() for name, value in self.sums.items()}
        step = self.shift.double() - shift.double()
        first = old["first"] + self.weight * step
        new = {"first": first}
        if self.full:
            new["second"] = torch.outer(old["first"], step).add_(torch.outer(step, first)).add_(old["second"])
        else:
            new["second"] = old["second"] + step * (old["first"] + first)
        if self.order == 4:
            one, two, three = old["first"], old["second"], old["third"]
            new["third"] = three + step * (3 * two + step * (3 * one + step * self.weight))
            new["fourth"] = old["fourth"] + step * (
                4 * three + step * (6 * two + step * (4 * one + step * self.weight))
            )
        if self.n_targets:
            jump = self.target_shift.double() - target_shift.double()
            new["target"] = old["target"] + self.weight * jump
            new["target_square"] = old["target_square"] + jump * (old["target"] + new["target"])
            new["cross"] = torch.outer(old["target"], step).add_(torch.outer(jump, first)).add_(old["cross"])
        return new

    def to(self, device=None, dtype=None):
        """Return a copy of these moments on another device, or with matrices of another type."""
        import torch

        new = copy.copy(self)
        new.device = self.device if device is None else torch.device(device)
        new.dtype = dtype or self.dtype
        for name in ("shift", "target_shift"):
            value = getattr(self, name)
            setattr(new, name, None if value is None else value.to(new.device, new.dtype, copy=True))
        new.sums = {
            name: value.to(new.device, new.dtype if value.ndim == 2 else torch.float64, copy=True)
            for name, value in self.sums.items()
        }
        return new

    def _mean_of(self, name):
        """Return the weighted mean over tokens of what ``sums[name]`` adds up, float64."""
        if not self.weight:
            raise ParameterError("No token has been added yet.")
        if name not in self.sums:
            raise ParameterError(
                f"These moments have no {name!r} sums. Use Moments(order=4) for the kurtosis, n_targets= for a "
                "second signal."
            )
        return self.sums[name].double() / self.weight

    @property
    def mean(self):
        """Mean of ``x``, shape (size,), float64."""
        first = self._mean_of("first")
        return self.shift.double() + first

    @property
    def target_mean(self):
        """Mean of ``y``, shape (n_targets,), float64."""
        target = self._mean_of("target")
        return self.target_shift.double() + target

    @property
    def variance(self):
        """Variance of each channel, shape (size,), float64 (divided by n, never negative)."""
        mean = self._mean_of("first")
        second = self.sums["second"].diagonal() if self.full else self.sums["second"]
        return (second.double() / self.weight - mean**2).clamp_min(0)

    @property
    def second_moment(self):
        """Mean square of each channel, shape (size,), float64."""
        return self.variance + self.mean**2

    @property
    def kurtosis(self):
        """Excess kurtosis of each channel, shape (size,), float64; 0 for a Gaussian and for a constant channel."""
        one, two, three, four = map(self._mean_of, ("first", "second", "third", "fourth"))
        fourth = four - 4 * one * three + 6 * one**2 * two - 3 * one**4
        variance = self.variance
        return (fourth / variance**2).where(variance > 1e-12, 3.0) - 3.0

    @property
    def covariance(self):
        """Covariance of ``x``, shape (size, size), float64 (divided by n)."""
        if not self.full:
            raise ParameterError("Only variances were kept. Use Moments(full=True) for covariances.")
        mean = self._mean_of("first")
        matrix = self.sums["second"].double()
        matrix = (matrix + matrix.T) / (2 * self.weight)
        return matrix.sub_(mean.outer(mean))

    @property
    def gram(self):
        """Uncentred second moments ``E[x x^T]``, shape (size, size), float64."""
        mean = self.mean
        return self.covariance.add_(mean.outer(mean))

    @property
    def cross_covariance(self):
        """Covariance of ``y`` with ``x``, shape (n_targets, size), float64."""
        cross = self._mean_of("cross")
        return cross.sub_(self._mean_of("target").outer(self._mean_of("first")))

    @property
    def target_variance(self):
        """Variance of each target channel, shape (n_targets,), float64."""
        return (self._mean_of("target_square") - self._mean_of("target") ** 2).clamp_min(0)


def _add_to(total, values):
    total += values.sum(0, dtype=total.dtype)
