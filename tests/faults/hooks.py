"""Attacks on lesions: interruptions at every line, copies, threads, other models."""

import copy
import sys
from functools import partial

from attacks import KINDS
from room import Lost, Wrong

OPTIONS = {
    "zero": {},
    "scale": {"how": "scale", "value": 2.0},
    "clamp at the last token": {"how": "clamp", "value": 0.5, "positions": "last"},
    "add to the prompt": {"how": "add", "value": 1.0, "positions": "prompt"},
    "retain": {"how": "retain"},
}


def _model(name="llama"):
    from tiny import tiny_model

    return tiny_model(name)


def _logits(model):
    import torch

    with torch.no_grad():
        return model(torch.arange(10)[None]).logits


def _mask(model):
    import numpy as np

    import llmbrain as lb

    geometry = lb.NeuronGeometry.from_model(model)
    return lb.NeuronMask(np.random.default_rng(0).random(geometry.n_neurons) < 0.3, geometry)


@KINDS.register("hooks")
def hooks(room):
    """A lesion that is interrupted, copied or left in any way changes the model in its block only."""
    for kind, options in OPTIONS.items():
        n_lines = _lines(lambda o=options: _block(_model(), o))
        for n in range(1, n_lines + 1):
            yield f"{kind}: interrupt at line {n} of {n_lines}", partial(_interrupted, options, n)
        yield f"{kind}: copy inside the block", partial(_copied, options)
        yield f"{kind}: an exception inside the block", partial(_failed, options)
        yield f"{kind}: entered twice", partial(_nested, options)
        yield f"{kind}: a generator that is never finished", partial(_dropped, options)


def _block(model, options):
    import llmbrain as lb

    with lb.lesion(model, _mask(model), **options):
        _logits(model)


def _lines(work, stop_at=None):
    """Count the lines of the package's lesions that ``work`` runs; raise KeyboardInterrupt at one of them."""
    n = 0

    def trace(frame, event, arg):
        nonlocal n
        name = frame.f_code.co_filename
        if not any(part in name for part in ("lesions/context", "lesions/positions", "models/hooks", "contextlib")):
            return None
        if event == "line":
            n += 1
            if n == stop_at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return n


def _interrupted(options, n):
    model = _model()
    expected = _logits(model)
    _lines(lambda: _block(model, options), n)
    _same(model, expected)


def _same(model, expected):
    import torch

    from llmbrain.lesions import is_lesioned

    if is_lesioned(model) or not torch.equal(_logits(model), expected):
        raise Wrong("the lesion stays in the model")


def _copied(options):
    import llmbrain as lb

    model = _model()
    expected = _logits(model)
    with lb.lesion(model, _mask(model), **options):
        _logits(model)
        twin = copy.deepcopy(model)
    _same(twin, expected)
    _same(model, expected)


def _failed(options):
    import llmbrain as lb

    model = _model()
    expected = _logits(model)
    try:
        with lb.lesion(model, _mask(model), **options):
            _logits(model)
            raise KeyError("mine")
    except KeyError:
        _same(model, expected)
        return
    raise Lost("the user's own error is gone")


def _nested(options):
    import torch

    import llmbrain as lb

    model = _model()
    expected, lesion = _logits(model), lb.lesion(model, _mask(model), **options)
    with lesion:
        once = _logits(model)
        with lb.lesion(model, _mask(model), how="scale", value=1.0):
            _logits(model)
        if not torch.equal(_logits(model), once):
            raise Wrong("the outer lesion ended with the inner one")
    with lesion:
        if not torch.equal(_logits(model), once):
            raise Wrong("the second block differs from the first")
    _same(model, expected)


def _dropped(options):
    import llmbrain as lb

    model = _model()
    expected = _logits(model)

    def parts():
        with lb.lesion(model, _mask(model), **options):
            _logits(model)
            yield 1
            yield 2

    generator = parts()
    next(generator)
    del generator
    _same(model, expected)
