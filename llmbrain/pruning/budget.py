"""Budgets: what a ratio means in neurons, how large a model is, and how fast.

A budget of latency becomes a number of neurons before they are distributed over layers, as if all layers lost the same
share, because allocations count neurons, not seconds. Where the time of a layer is not proportional to its width
(small widths on a GPU, widths that are no multiple of 64), measure the result with :func:`forward_seconds`.
"""

import statistics
import time

import numpy as np
import torch

from ..exceptions import ParameterError
from ..models.anatomy import anatomy_of
from ..models.inputs import input_device, longest_context
from ..models.linears import features, weight_of
from ..models.surgery import prunable_mlps
from ..registry import Registry
from .allocation import uniform

PAIRS = 5  # of measurements that compare the speed of two models

# heads: the entry of count_parameters that a budget with heads is a share of; None if heads have no such budget.
# timed: whether the number of neurons is measured on this machine, which is too costly for a check.
RATIO_OF = Registry("ratio_of", heads=None, timed=False)


def check_ratio(ratio, ratio_of):
    """Return a ratio as a float, after checking it (0 removes nothing) and the name ``ratio_of``."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
        raise ParameterError(f"ratio={ratio!r} must be the share to remove, from 0 (remove nothing) to below 1.")
    RATIO_OF.check(ratio_of)
    return float(ratio)


def layer_floors(sizes, options):
    """Fewest neurons that each layer keeps, from the options ``floor`` and ``exempt``."""
    exempt = {i % len(sizes) for i in options.exempt}
    return np.array([n if i in exempt else max(1, round(options.floor * n)) for i, n in enumerate(sizes)])


def check_budget(model, parts, counts, ratio, ratio_of, options):
    """Raise an error for a budget that the model, the floors or the kind of ratio make impossible."""
    kind = RATIO_OF[ratio_of]
    if options.heads and kind.heads is None:
        named = " or ".join(repr(n) for n, m in RATIO_OF.items() if m.heads)
        raise ParameterError(f"heads=True needs a ratio of parameters, not of {ratio_of}. Use ratio_of={named}.")
    if not options.heads and not kind.timed:
        sizes = [part.size for part in parts]
        uniform(sizes, sum(sizes) - kind(model, parts, counts, ratio), floors=layer_floors(sizes, options))


@RATIO_OF.register("neurons")
def of_neurons(model, parts, counts, ratio):
    """MLP neurons."""
    return round(ratio * sum(part.size for part in parts))


@RATIO_OF.register("decoder", heads="decoder_parameters")
def of_decoder(model, parts, counts, ratio):
    """Parameters of the decoder blocks."""
    return _units_for(parts, ratio, counts["decoder_parameters"], "decoder parameters")


@RATIO_OF.register("all", heads="total_parameters")
def of_all(model, parts, counts, ratio):
    """All parameters."""
    return _units_for(parts, ratio, counts["total_parameters"], "all parameters")


@RATIO_OF.register("bytes", heads="total_parameters")
def of_bytes(model, parts, counts, ratio):
    """Bytes of all weights."""
    sizes = [part.writer.weight.element_size() for part in parts]
    return _units_for(parts, ratio, counts["bytes"], "the bytes", sizes)


def _units_for(parts, ratio, total, what, sizes=None):
    """Number of neurons that hold a share of a total, at the mean cost of a neuron."""
    n_units = sum(part.size for part in parts)
    costs = [part.unit_cost * size for part, size in zip(parts, sizes or [1] * len(parts))]
    cost, wanted = np.average(costs, weights=[part.size for part in parts]), ratio * total
    n_remove = round(wanted / cost)
    if n_remove >= n_units:
        _too_much(ratio, what, n_units * cost / wanted * ratio)
    return n_remove


def _too_much(ratio, what, most):
    raise ParameterError(f"ratio={ratio} of {what} is more than the MLP neurons hold. Use a ratio below {most:.2f}.")


@RATIO_OF.register("latency", timed=True)
def of_latency(model, parts, counts, ratio):
    """Time of a forward pass, measured on this machine."""
    shares = np.linspace(0, 1, 9)[1:]
    total, tables = forward_seconds(model), {}
    for part in parts:
        if part.size not in tables:
            times = layer_latency(part, [max(1, round(s * part.size)) for s in shares])
            # No width takes longer than a wider one; where it seems so, the machine was busy.
            tables[part.size] = np.minimum.accumulate(times[::-1])[::-1]
    seconds = sum(tables[part.size] for part in parts)
    wanted = seconds[-1] - ratio * total
    if wanted <= seconds[0]:
        _too_much(ratio, "the time of a forward pass", (seconds[-1] - seconds[0]) / total)
    kept = float(np.interp(wanted, seconds, shares)) if ratio else 1.0
    return round((1 - kept) * sum(part.size for part in parts))


def count_parameters(model, parts=None):
    """Count neurons, parameters and bytes.

    The keys are ``neurons``, ``mlp_parameters``, ``decoder_parameters`` (all blocks), ``total_parameters`` (tied
    weights counted once) and ``bytes``.
    """
    parts = prunable_mlps(model) if parts is None else parts
    mlp = {}
    for part in parts:
        for linear in part.linears:
            mlp.update({id(p): p.numel() for p in linear.parameters()})
    decoder = {id(p): p.numel() for layer in anatomy_of(model).layers for p in layer.parameters()}
    everything = {id(p): p for p in model.parameters()}
    return {
        "neurons": sum(features(part.writer)[0] for part in parts),
        "mlp_parameters": sum(mlp.values()),
        "decoder_parameters": sum(decoder.values()),
        "total_parameters": sum(p.numel() for p in everything.values()),
        "bytes": sum(p.numel() * p.element_size() for p in everything.values()),
    }


def compare_counts(before, after):
    """Combine counts before and after, and the share removed, in one flat dictionary."""
    table = {}
    for name in before:
        table[f"{name}_before"], table[f"{name}_after"] = before[name], after[name]
        table[f"{name}_removed"] = 1 - after[name] / before[name] if before[name] else 0.0
    return table


@torch.no_grad()
def measure_speed(model):
    """Measure tokens per second, for reading a prompt of random tokens and for generating token by token.

    The prompt is shortened to the context of the model. The second of two runs is reported.
    With one sequence a GPU mostly waits for launches, and smaller matrices are not faster.
    """
    embedding, device = model.get_input_embeddings(), input_device(model)
    longest = longest_context(model, 2048)
    new_tokens = max(1, min(8, longest // 2))
    prompt = max(1, min(128, longest - new_tokens))
    ids = torch.randint(0, embedding.num_embeddings, (1, prompt), generator=torch.Generator().manual_seed(0)).to(device)
    reading, writing = [_run(model, ids, new_tokens, device) for _ in range(2)][1]
    gpu = device.type == "cuda"
    return {
        "prefill_tokens_per_second": round(prompt / reading, 1),
        "decode_tokens_per_second": round(new_tokens / writing, 1),
        "device": torch.cuda.get_device_name(device) if gpu else f"cpu, {torch.get_num_threads()} threads",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "batch_size": 1, "prompt": prompt, "new_tokens": new_tokens,
    }  # fmt: skip


def compare_speed(before, after):
    """Measure the speed of two models in turn, so that load on the machine affects both alike.

    Returns the medians of :func:`measure_speed` for both, ``prefill_gain`` and ``decode_gain`` (the median ratio of
    after to before over the pairs) with ``..._low`` and ``..._high`` (the least and the largest), and ``repeats``, the
    number of pairs.
    """
    pairs = [[measure_speed(model) for model in (before, after)] for _ in range(PAIRS)]
    found = {}
    for what in ("prefill", "decode"):
        name = f"{what}_tokens_per_second"
        first, second = ([pair[k][name] for pair in pairs] for k in (0, 1))
        gains = sorted(b / a for a, b in zip(first, second))
        found |= {f"{name}_before": statistics.median(first), f"{name}_after": statistics.median(second)}
        found |= {f"{what}_gain": round(statistics.median(gains), 3)}
        found |= {f"{what}_gain_low": round(gains[0], 3), f"{what}_gain_high": round(gains[-1], 3)}
    same = {k: v for k, v in pairs[0][1].items() if not k.endswith("_per_second")}
    return {**found, **same, "repeats": PAIRS}


def _run(model, ids, new_tokens, device):
    """Seconds for the prompt, and for the new tokens."""
    start = _now(device)
    output = model(ids, use_cache=True)
    middle = _now(device)
    for _ in range(new_tokens):
        output = model(output.logits[:, -1:].argmax(-1), past_key_values=output.past_key_values, use_cache=True)
    return middle - start, _now(device) - middle


@torch.no_grad()
def forward_seconds(model, *, n_tokens=512, repeats=5):
    """Seconds of a forward pass over one sequence: the shortest of ``repeats``, after a warm-up."""
    device = input_device(model)
    n_tokens = min(n_tokens, longest_context(model, 2048))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.get_input_embeddings().num_embeddings, (1, n_tokens), generator=generator).to(device)
    return _shortest([lambda: model(ids, use_cache=False)], device, repeats)[0]


@torch.no_grad()
def layer_latency(part, widths, *, n_tokens=512):
    """Seconds that the linears of an MLP take at each of ``widths``: the shortest of 15, widths in turn."""
    weight = weight_of(part.writer)
    generator = torch.Generator().manual_seed(0)
    n_out = len(weight)
    runs = []
    for width in widths:
        z = torch.randn(n_tokens, n_out, generator=generator).to(weight.device, weight.dtype)
        h = torch.randn(n_tokens, width, generator=generator).to(weight.device, weight.dtype)
        readers = [weight_of(r.module)[:width].contiguous() for r in part.readers]
        down = weight[:, :width].contiguous()

        def run(z=z, h=h, readers=readers, down=down):
            for reader in readers:
                torch.nn.functional.linear(z, reader)
            torch.nn.functional.linear(h, down)

        runs.append(run)
    return _shortest(runs, weight.device, repeats=15)


def _shortest(runs, device, repeats):
    """Shortest time of each run, after a warm-up round. They take turns, so that load affects all alike.

    The shortest, because other load on the machine can only lengthen a time.
    """
    times = []
    for _ in range(repeats + 1):
        times.append([])
        for run in runs:
            start = _now(device)
            run()
            times[-1].append(_now(device) - start)
    return [min(column) for column in zip(*times[1:])]


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
