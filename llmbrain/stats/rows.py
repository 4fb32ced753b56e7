"""Moments of few vectors, such as the tokens of a short text: the vectors are kept, and matrices made of them."""

from ..exceptions import ParameterError
from .precision import full_precision


class Rows:
    """Vectors that are kept, with the reading side of full :class:`~llmbrain.stats.Moments`.

    Of fewer vectors than channels they take less memory than the Gram matrix, and least squares on them need a matrix
    of vectors by vectors only.

    Parameters
    ----------
    size : int
        Channels of the input ``x``.
    n_targets : int
        Channels of a second signal ``y``.
    device : torch.device or str, optional
        Device of the vectors.

    Attributes
    ----------
    n : int
        Vectors kept, those of weight 0 excluded.
    weight : float
        Sum of their weights.

    Examples
    --------
    >>> import torch
    >>> rows = Rows(3)
    >>> rows.add(torch.tensor([[1.0, 2.0, 0.0], [3.0, 6.0, 0.0]]))
    >>> rows.mean.tolist(), (rows.centred.T @ rows.centred).round().tolist()
    ([2.0, 4.0, 0.0], [[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    """

    full = True

    def __init__(self, size, n_targets=0, *, device=None):
        import torch

        self.size, self.n_targets, self.device = int(size), int(n_targets), torch.device(device or "cpu")
        self._blocks, self._made = [], {}
        self.n, self.weight = 0, 0.0

    def add(self, x, y=None, weights=None):
        """Add a block of vectors; arguments as for :meth:`llmbrain.stats.Moments.add`."""
        import torch

        if (y is None) == bool(self.n_targets):
            raise ParameterError(
                f"y is {'missing' if y is None else 'given'}, but these rows have {self.n_targets} targets."
            )
        x = x.detach().reshape(-1, self.size).to(self.device, torch.float32)
        weights = x.new_ones(len(x)) if weights is None else weights.reshape(-1).to(x)
        used = weights > 0
        y = x.new_zeros(len(x), 0) if y is None else y.detach().reshape(-1, self.n_targets).to(x)
        self._keep((x[used], y[used], weights[used]))

    def _keep(self, block):
        self._blocks.append(block)
        self._made = {}
        self.n += len(block[2])
        self.weight += float(block[2].double().sum())

    def merge(self, other):
        """Return the rows of both."""
        both = Rows(self.size, self.n_targets, device=self.device)
        for block in (*self._blocks, *other._blocks):
            both._keep(block)
        return both

    def _centre(self):
        """Means, and the vectors without them, scaled so that the products of rows are covariances."""
        import torch

        if not self.weight:
            raise ParameterError("No token has been added yet.")
        if not self._made:
            x, y, weights = (torch.cat(parts) for parts in zip(*self._blocks))
            self._blocks = [(x, y, weights)]
            for name, values in (("x", x), ("y", y)):
                first = values.mean(0)  # subtracted first: a large mean would consume the digits of a weighted sum
                moved = values - first
                step = (moved * weights[:, None]).sum(0, dtype=torch.float64) / self.weight
                moved -= step.float()
                self._made[name] = first.double() + step, moved.mul_((weights / self.weight).sqrt()[:, None])
        return self._made

    @property
    def mean(self):
        """Mean of ``x``, shape (size,), float64."""
        return self._centre()["x"][0]

    @property
    def target_mean(self):
        """Mean of ``y``, shape (n_targets,), float64."""
        return self._centre()["y"][0]

    @property
    def centred(self):
        """Scaled deviations of ``x`` from its mean, shape (n, size), float32."""
        return self._centre()["x"][1]

    @property
    def target_centred(self):
        """Scaled deviations of ``y`` from its mean, shape (n, n_targets), float32."""
        return self._centre()["y"][1]

    @property
    def covariance(self):
        """Covariance of ``x``, shape (size, size), float64 (divided by n)."""
        return self._product(self.centred, self.centred)

    @property
    def cross_covariance(self):
        """Covariance of ``y`` with ``x``, shape (n_targets, size), float64."""
        return self._product(self.target_centred, self.centred)

    @property
    def variance(self):
        """Variance of each channel, shape (size,), float64."""
        return self.centred.double().square().sum(0)

    @property
    def target_variance(self):
        """Variance of each target channel, shape (n_targets,), float64."""
        return self.target_centred.double().square().sum(0)

    def _product(self, left, right):
        with full_precision():
            return (left.T @ right).double()
