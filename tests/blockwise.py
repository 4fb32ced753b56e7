"""Moments of arrays, added block by block as models give them."""

from llmbrain.stats.moments import Moments


def moments_of(x, y=None, block=97, weights=None, **kwargs):
    moments = Moments(x.shape[1], 0 if y is None else y.shape[1], **kwargs)
    for i in range(0, len(x), block):
        part = slice(i, i + block)
        moments.add(x[part], None if y is None else y[part], None if weights is None else weights[part])
    return moments
