"""Second-order statistics of activations, streamed: tokens pass by and are never kept."""

from functools import cached_property

import torch

from .precision import full_precision

__all__ = [
    "Moments",
    "frozen",
    "held_out_masks",
    "held_out_share",
]


class Moments:
    """Weighted mean, variance, covariance and cross-covariance of a stream of vectors.

    Products are summed in float32 around a fixed shift (the mean of the first block), so that a large mean does not
    eat the digits of a small variance; everything that is asked for afterwards comes out in float64.

    Parameters
    ----------
    size : int
        Channels of the input ``x``.
    n_targets : int, optional
        Channels of a second signal ``y`` whose covariance with ``x`` is wanted too.
    full : bool
        False keeps mean and variance only, which costs ``size`` numbers instead of ``size ** 2``.
    device : torch.device or str, optional
        Where the sums lie.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 4.0]])
    >>> moments = Moments(2)
    >>> moments.update(x[:2]); moments.update(x[2:])
    >>> moments.mean.tolist(), moments.covariance[0, 1].item()
    ([3.0, 4.0], 1.3333333333333333)
    """

    def __init__(self, size, n_targets=0, *, full=True, device=None):
        self.size, self.n_targets, self.full = int(size), int(n_targets), bool(full)
        self.device = torch.device(device or "cpu")
        self.n = 0
        self.weight = 0.0
        self._shift = self._target_shift = None
        self._sum = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        shape = (self.size, self.size) if full else (self.size,)
        self._square = torch.zeros(shape, dtype=torch.float32, device=self.device)
        if n_targets:
            self._target_sum = torch.zeros(n_targets, dtype=torch.float64, device=self.device)
            self._cross = torch.zeros((n_targets, self.size), dtype=torch.float32, device=self.device)
            self._target_square = torch.zeros(n_targets, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def update(self, x, y=None, weights=None):
        """Add a block of tokens.

        Parameters
        ----------
        x : torch.Tensor, shape (..., size)
        y : torch.Tensor, shape (..., n_targets), optional
        weights : torch.Tensor, shape (...), optional
            What each token counts; 0 leaves it out (padding).
        """
        x = x.reshape(-1, self.size).to(self.device, torch.float32)
        y = None if y is None else y.reshape(-1, self.n_targets).to(self.device, torch.float32)
        if weights is not None:
            weights = weights.reshape(-1).to(self.device, torch.float32)
            used = weights > 0
            if not bool(used.all()):
                x, weights = x[used], weights[used]
                y = None if y is None else y[used]
        if not len(x):
            return
        if self._shift is None:
            self._shift = x.mean(0)
            self._target_shift = None if y is None else y.mean(0)
        x = x - self._shift
        wx = x if weights is None else x * weights[:, None]
        self.n += len(x)
        self.weight += float(len(x) if weights is None else weights.double().sum())
        self._sum += wx.sum(0, dtype=torch.float64)
        with full_precision():
            if self.full:
                self._square.addmm_(wx.T, x)
            else:
                self._square += (wx * x).sum(0)
            if y is not None:
                y = y - self._target_shift
                wy = y if weights is None else y * weights[:, None]
                self._cross.addmm_(wy.T, x)
                self._target_sum += wy.sum(0, dtype=torch.float64)
                self._target_square += (wy * y).sum(0, dtype=torch.float64)

    def __add__(self, other):
        """Moments of both streams together; they must share their kind."""
        total = Moments(self.size, self.n_targets, full=self.full, device=self.device)
        for name in ("n", "weight"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        total._shift, total._target_shift = self._shift, self._target_shift
        step = (other._shift - self._shift).double()
        x_sum = other._sum + other.weight * step
        total._sum = self._sum + x_sum
        if self.full:
            moved = torch.outer(other._sum, step) + torch.outer(step, x_sum)
        else:
            moved = other._sum * step + step * x_sum
        total._square = (self._square.double() + other._square.double() + moved).float()
        if self.n_targets:
            jump = (other._target_shift - self._target_shift).double()
            total._target_sum = self._target_sum + other._target_sum + other.weight * jump
            moved = torch.outer(other._target_sum, step) + torch.outer(jump, x_sum)
            total._cross = (self._cross.double() + other._cross.double() + moved).float()
            total._target_square = (
                self._target_square + other._target_square + 2 * jump * other._target_sum + other.weight * jump**2
            )
        return total

    def _need(self):
        if not self.weight:
            raise ValueError("No token has been seen yet.")

    @property
    def mean(self):
        """Mean of ``x``, shape (size,), float64."""
        self._need()
        return self._shift.double() + self._sum / self.weight

    @property
    def target_mean(self):
        """Mean of ``y``, shape (n_targets,), float64."""
        self._need()
        return self._target_shift.double() + self._target_sum / self.weight

    @property
    def variance(self):
        """Variance of each channel, shape (size,), float64 (divided by n, never negative)."""
        self._need()
        square = self._square.diagonal() if self.full else self._square
        return (square.double() / self.weight - (self._sum / self.weight) ** 2).clamp_min(0)

    @property
    def second_moment(self):
        """Mean square of each channel, shape (size,), float64."""
        return self.variance + self.mean**2

    @property
    def covariance(self):
        """Covariance of ``x``, shape (size, size), float64 (divided by n)."""
        self._need()
        if not self.full:
            raise ValueError("Only variances were kept; make Moments(full=True) for covariances.")
        mean = self._sum / self.weight
        matrix = self._square.double()
        matrix = (matrix + matrix.T) / (2 * self.weight)
        return matrix.sub_(torch.outer(mean, mean))

    @property
    def gram(self):
        """Uncentred second moments ``E[x x^T]``, shape (size, size), float64."""
        mean = self.mean
        return self.covariance.add_(torch.outer(mean, mean))

    @property
    def cross_covariance(self):
        """Covariance of ``y`` with ``x``, shape (n_targets, size), float64."""
        self._need()
        if not self.n_targets:
            raise ValueError("No target signal was given.")
        outer = torch.outer(self._target_sum / self.weight, self._sum / self.weight)
        return self._cross.double() / self.weight - outer

    @property
    def target_variance(self):
        """Variance of each target channel, shape (n_targets,), float64."""
        self._need()
        return (self._target_square / self.weight - (self._target_sum / self.weight) ** 2).clamp_min(0)


class _Frozen:
    """Moments to which nothing is added any more: every matrix is worked out once, when it is first asked for."""

    def __init__(self, moments):
        self._moments = moments

    def __getattr__(self, name):
        return getattr(self._moments, name)

    @cached_property
    def mean(self):
        return self._moments.mean

    @cached_property
    def covariance(self):
        return self._moments.covariance

    @cached_property
    def target_mean(self):
        return self._moments.target_mean

    @cached_property
    def cross_covariance(self):
        return self._moments.cross_covariance


def frozen(moments):
    """The same moments, which remember what was asked of them; drop the result to free the memory."""
    return moments if isinstance(moments, _Frozen) else _Frozen(moments)


def held_out_share(n_blocks, share=0.125):
    """Which calibration blocks are held out to choose regularisation: spread evenly, at least one when there are two.

    Returns
    -------
    list of bool
        True where a block is held out.

    Examples
    --------
    >>> held_out_share(8, 0.25)
    [False, False, False, True, False, False, False, True]
    """
    n_held = 0 if n_blocks < 2 or not share else max(1, round(n_blocks * share))
    held = {round((i + 1) * n_blocks / n_held) - 1 for i in range(n_held)}
    return [i in held for i in range(n_blocks)]


def held_out_masks(masks, share=0.125, *, segment=64, few=8):
    """Which calibration tokens are held out: whole blocks, windows where there are few blocks, segments of few windows.

    Below 4,096 tokens more are held out, so that about 500 are left to judge by, but never more than three tenths.

    Parameters
    ----------
    masks : list of torch.Tensor of bool, shape (n_windows, n_longest)
        Real tokens of each block.
    share : float
    segment : int
        Tokens of a segment.
    few : int
        With fewer blocks, windows are held out; with fewer windows, segments.

    Returns
    -------
    list of torch.Tensor of bool, shape (n_windows, n_longest)

    Examples
    --------
    >>> [int(m.sum()) for m in held_out_masks([torch.ones(2, 1024, dtype=torch.bool)])]
    [512]
    >>> held_out_masks([torch.ones(4, 8, dtype=torch.bool)] * 2, 0.25)[0].all(1).tolist()
    [False, False, False, True]
    """
    n_tokens = sum(int(m.sum()) for m in masks)
    share = max(share, min(0.3, 512 / max(n_tokens, 1))) if share else 0.0
    if len(masks) >= few:
        return [m.clone() if held else torch.zeros_like(m) for m, held in zip(masks, held_out_share(len(masks), share))]
    if sum(map(len, masks)) >= few:
        held = iter(held_out_share(sum(map(len, masks)), share))
        return [torch.tensor([next(held) for _ in m], device=m.device)[:, None] & m for m in masks]
    lengths = [int(row.sum()) for m in masks for row in m]
    size = max(1, min(segment, n_tokens // 16))
    pieces = [-(-n // size) for n in lengths]
    chosen = held_out_share(sum(pieces), share) if n_tokens > 1 else [False] * sum(pieces)
    found, start, row = [], 0, 0
    for m in masks:
        mask = torch.zeros_like(m)
        for i in range(len(m)):
            for j in range(pieces[row]):
                mask[i, j * size : (j + 1) * size] = chosen[start + j]
            start, row = start + pieces[row], row + 1
        found.append(mask & m)
    return found
