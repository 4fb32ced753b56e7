"""Attacks on lesions and other work with hooks: interruptions at lines, copies, threads, other models."""

import copy
import random
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


LESIONS = ("lesions/context", "lesions/positions", "models/hooks", "contextlib")
OTHERS = ("models/hooks", "recording/capture", "pruning/walk", "pruning/allocation", "pruning/blockwise",
          "pruning/descent", "pruning/recover", "stats/precision", "evaluation/", "viewer/work", "lesions/batched",
          "contextlib")  # fmt: skip


def _lines(work, stop_at=None, files=LESIONS):
    """Count the lines of some files that ``work`` runs; raise KeyboardInterrupt at one of them."""
    n = 0

    def trace(frame, event, arg):
        nonlocal n
        name = frame.f_code.co_filename
        if "transformers" in name or not any(part in name for part in files):
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


# -- other work with hooks --------------------------------------------------------------------------------------------
N_LINES = 60  # of each work


@KINDS.register("interrupted work", long=True)
def interrupted_work(room, n_lines=N_LINES):
    """Work that is interrupted at a line leaves the user's model as it was: weights, modes, settings, forward."""
    for name, work in works(room).items():
        for part in sorted(random.Random(name).random() for _ in range(n_lines)):
            yield f"{name}: interrupt after {part:.2%} of its lines", partial(_interrupted_work, work, part)


def works(room):
    """Work that hooks into a model or changes it for a while."""
    from room import texts
    from tiny import tiny_tokenizer

    import llmbrain as lb
    from llmbrain.evaluation import generate_texts
    from llmbrain.lesions import LossTask
    from llmbrain.lesions.statistics import neuron_statistics
    from llmbrain.pruning import Recipe

    tokenizer, some = tiny_tokenizer(), texts(3, 5)
    trial = Recipe("flap", "trial", "affine", {"context": 32})
    fit = Recipe.named("best").with_(options={"context": 32, "max_tokens": 120, "block_steps": 3, "n_evaluations": 4})

    def prune(model, recipe, **more):
        lb.prune(model, tokenizer, some, 0.2, recipe=recipe, progress=False, measure=False, **more)

    def study(model):
        lb.LesionStudy([_mask(model)], tasks=[LossTask(some[:1], max_tokens=40)], n_controls=1).run(model, tokenizer)

    return {
        "record": lambda model: lb.record(model, tokenizer, some, room.fresh(), max_tokens=60, progress=False),
        "perplexity": lambda model: lb.perplexity(model, tokenizer, some, context=32),
        "prune": lambda model: prune(model, trial),
        "fit blocks": lambda model: prune(model, fit),
        "recover": lambda model: prune(model, trial, recover=0.002),
        "generate": lambda model: generate_texts(model, tokenizer, ["the cat"], max_new_tokens=4),
        "lesion study": study,
        "statistics": lambda model: neuron_statistics(model, tokenizer, some[:1], n_samples=5),
    }


def _trained():
    """A model that is trained, except for one part of it."""
    model = _model().train()
    model.model.layers[1].mlp.eval()
    return model


def _state(model):
    modules = list(model.modules())
    plain = [(m.training, "forward" in vars(m), len(m._forward_hooks) + len(m._forward_pre_hooks)) for m in modules]
    flags = [(p.shape, p.requires_grad) for p in model.parameters()]
    return _logits(model), (plain, flags, model.config.to_json_string(), model.generation_config.to_json_string())


def _unchanged(model, before):
    import torch

    logits, rest = _state(model)
    if not torch.equal(logits, before[0]) or rest != before[1]:
        raise Wrong("the model has changed")


def _interrupted_work(work, part):
    model = _trained()
    before = _state(model)
    total = _lines(partial(work, model), files=OTHERS)
    _unchanged(model, before)
    _lines(partial(work, model), 1 + int(part * total), OTHERS)
    _unchanged(model, before)
