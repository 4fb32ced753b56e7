"""Neurons shared over processes: each holds consecutive columns of all runs, and sums over neurons are added up."""

import torch

from ...exceptions import ParameterError
from ...parallel import all_reduce, broadcast, rank, reduce_to, world_size


class Columns:
    """The neurons of this process, ``first:last`` of ``n_neurons``; all of them unless they are ``shared``.

    All processes call a method together, in the same order, and never from the workers of
    :mod:`~llmbrain.networks.engines.parallel`. Where the neurons are not shared, every method returns its argument.
    """

    def __init__(self, n_neurons=None, shared=False):
        self.n_neurons = n_neurons
        self.n_owners = world_size() if shared else 1
        if self.n_owners > 1 and n_neurons < self.n_owners:
            raise ParameterError(
                f"{self.n_owners} processes cannot share {n_neurons} neurons. Start at most {n_neurons} processes."
            )
        self.cuts = _cuts(n_neurons or 0, self.n_owners)
        self.first, self.last = self.cuts[rank() if self.is_shared else 0]

    @property
    def is_shared(self):
        """Whether other processes hold other neurons."""
        return self.n_owners > 1

    def of(self, source):
        """Return a run with the columns of this process."""
        return source.part(self.first, self.last) if self.is_shared else source

    def count(self, rows):
        """Return the number of neurons of rows ``(..., n_own)`` in all processes."""
        return self.n_neurons if self.is_shared else rows.shape[-1]

    def total(self, sums, owner=None):
        """Add up sums over the neurons of all processes, in place; with ``owner`` the total is known only there."""
        if not self.is_shared:
            return sums
        return all_reduce(sums) if owner is None else reduce_to(sums, owner)

    def number(self, value):
        """Return the sum of one number over all processes."""
        return float(self.total(torch.tensor(value, dtype=torch.float64)))

    def largest(self, values):
        """Return the largest values of all processes."""
        if not self.is_shared:
            return values
        table = values.new_zeros(self.n_owners, *values.shape)
        table[rank()] = values
        return all_reduce(table).amax(0)

    def norm(self, own):
        """Return norms over all neurons from those over the neurons of this process."""
        return self.total(own.double().square()).sqrt().to(own.dtype) if self.is_shared else own

    def agreed(self, values, owner=0):
        """Replace the values by those of the process ``owner``.

        Small matrices are computed in every process. Other hardware may round otherwise, and all must take the same
        decisions.
        """
        return broadcast(values.contiguous(), owner) if self.is_shared else values

    def agreed_number(self, value):
        """Return the number of the first process."""
        return float(self.agreed(torch.tensor(value, dtype=torch.float64)))

    def whole(self, rows):
        """Return rows ``(..., n_own)`` with the neurons of all processes, on the CPU, to which they are copied once."""
        if not self.is_shared:
            return rows.cpu()
        if rows.dtype == torch.bool:  # not all backends send these
            return self.whole(rows.to(torch.uint8)).bool()
        out = rows.new_empty(*rows.shape[:-1], self.n_neurons)
        for owner, (first, last) in enumerate(self.cuts):
            own = rows if owner == rank() else rows.new_empty(*rows.shape[:-1], last - first)
            out[..., first:last] = broadcast(own.contiguous(), owner)
        return out.cpu()


def _cuts(n_neurons, n_owners):
    """First neuron of each owner, and the one after its last: equal shares."""
    return [(n_neurons * k // n_owners, n_neurons * (k + 1) // n_owners) for k in range(n_owners)]


WHOLE = Columns()
