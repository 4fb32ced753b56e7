"""Order, sign and time courses of maps, computed without a second copy of them."""

import numpy as np
import torch

from ...stats.precision import full_precision
from .linalg import product
from .parallel import block_map, run_blocks, temporary, workers
from .reduction import strides


def rotate(w, z):
    """Replace ``Z`` by ``W Z``, block by block of neurons."""

    def block(where):
        part = z[:, where]
        part.copy_(product(w, part, out=temporary(*part.shape, device=z.device)))

    run_blocks(block, strides(z))


def reorder(rows, order):
    """Permute the rows of a matrix in place."""
    order, done = order.tolist(), set()
    for start in range(len(order)):
        if start in done:
            continue
        kept, i = rows[start].clone(), start
        while order[i] != start:
            rows[i] = rows[order[i]]
            done.add(i)
            i = order[i]
        rows[i] = kept
        done.add(i)


def order_and_sign(data, maps):
    """Sort unit-variance maps by the variance they explain, make the peaks positive, scale to unit norm."""
    columns, v = data.columns, data.columns.n_neurons
    highest, lowest = columns.largest(torch.stack([maps.amax(1), -maps.amin(1)]))
    signs = torch.where(highest < lowest, -1.0, 1.0).to(maps)
    maps *= signs[:, None]
    courses = [c / v for c in run_products(data, maps)]
    energy = torch.stack([c.square().sum(0) for c in courses]).sum(0)
    variance = energy * v / max(data.sum_of_squares(), 1e-30) if data.standardize else energy / energy.sum()
    order = columns.agreed(torch.argsort(variance, descending=True, stable=True))
    reorder(maps, order)
    maps /= columns.norm(torch.linalg.vector_norm(maps, dim=1, keepdim=True))
    courses = [(c[:, order] * v**0.5).float().cpu().numpy() for c in courses]
    return maps, order.cpu(), signs[order], courses, variance[order].cpu().numpy()


def order_maps(data, maps):
    """Sort maps ``(n_components, n_neurons)`` by the variance they explain alone, with positive peaks and unit norm.

    The maps are an array, or a tensor on the device of the data, which is overwritten.
    Returns the maps, their courses in each run by least squares ``(n_tokens, n_components)``, and the share of the
    variance of the cleaned data that each map explains. Neurons are in reading order; where they are shared, those of
    this process.
    """
    columns = data.columns
    if not isinstance(maps, torch.Tensor):
        maps = torch.from_numpy(np.array(maps, np.float32)).to(data.device)
    with full_precision():
        highest, lowest = columns.largest(torch.stack([maps.amax(1), -maps.amin(1)]))
        maps *= torch.where(highest < lowest, -1.0, 1.0)[:, None]
        norms = columns.norm(torch.linalg.vector_norm(maps, dim=1, keepdim=True))
        maps /= torch.where(norms > 0, norms, 1)
        with workers(data.device):
            products = run_products(data, maps)
        energy = sum(p.square().sum(0) for p in products)
        total = data.sum_of_squares() if data.standardize else float(energy.sum())
        order = columns.agreed(torch.argsort(energy, descending=True, stable=True))
        reorder(maps, order)
        square = columns.total(product(maps, maps.T).double())
        inverse = torch.linalg.pinv(square, hermitian=True)
        courses = [product(p[:, order], inverse).float().cpu().numpy() for p in products]
    return maps.cpu().numpy(), courses, (energy / max(total, 1e-30))[order].cpu().numpy()


def least_squares_courses(data, maps):
    """Time courses of any maps ``(n_components, n_neurons)`` in each run, as nilearn's maps masker computes them.

    Maps need not be orthogonal; maps that are zero everywhere get zero courses.
    """
    maps = torch.from_numpy(np.ascontiguousarray(maps, np.float32)).to(data.device)
    inverse = torch.linalg.pinv(product(maps, maps.T).double(), hermitian=True)
    with workers(data.device):
        return [(c @ inverse).float().cpu().numpy() for c in run_products(data, maps)]


def run_products(data, maps):
    """``X_r @ maps.T`` for every run, float64, in one pass.

    Where the neurons are shared, ``maps`` are those of this process, and sums ``(n_tokens, n_maps)`` are exchanged.
    """
    return [data.columns.total(products) for products in _own_products(data, maps)]


def _own_products(data, maps):
    """Sums over the neurons of this process."""
    totals = [torch.zeros(n, len(maps), dtype=torch.float64, device=data.device) for n in data.n_tokens]
    if any(map(data.is_long, range(len(totals)))):

        def courses(piece):
            r, first, last = piece
            totals[r][first:last] = product(data.piece(*piece), maps.T)

        run_blocks(courses, data.pieces())
        return totals

    def parts(block):
        rows = maps[:, block[0] : block[1]].T
        out = temporary(data.n_rows, len(maps), device=data.device).split(data.n_tokens)
        for r, x in data.each(*block):
            product(x, rows, out=out[r])
        return out

    for part in block_map(parts, data.blocks(max(data.n_tokens))):
        for total, p in zip(totals, part):
            total += p
    return totals
