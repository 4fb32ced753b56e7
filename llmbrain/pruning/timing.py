"""What a smaller model gains in speed: tokens per second for reading and for writing, measured.

A budget of latency (``prune(ratio_of="latency")``) becomes a number of neurons before they are allotted, as if all
layers lost the same share: the allocations and the search count neurons, not seconds. Where a layer's time is not in
proportion to its width (small widths on a GPU, widths that are no multiple of 64), measure the result with
:func:`forward_seconds`.
"""

import statistics
import time

import torch

from ..models.anatomy import weight_of
from ..models.inputs import input_device, longest_context
from ..models.surgery import prunable_mlps

__all__ = ["forward_seconds", "layer_latency", "measure_speed"]


@torch.no_grad()
def measure_speed(model, *, batch_sizes=(1, 8), prompt=256, new_tokens=32, repeats=3, seed=0):
    """Tokens per second of a model, reading a prompt and generating one by one apart.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    batch_sizes : sequence of int
        Sequences at a time. At 1 a GPU mostly waits for launches: smaller matrices are then not faster.
    prompt, new_tokens : int
        Tokens that are read, and written, in each sequence; fewer are read where the model holds fewer.
    repeats : int
        The median is reported; one more run before them is not counted.
    seed : int
        Of the prompts, which are random tokens.

    Returns
    -------
    pandas.DataFrame
        A row a batch size: ``batch_size, prompt, prefill_tokens_per_second, decode_tokens_per_second, weight_bytes,
        cache_bytes, device, dtype, narrowest, widest``.
    """
    import pandas as pd

    device = input_device(model)
    generator = torch.Generator().manual_seed(seed)
    prompt = max(1, min(prompt, longest_context(model, 2048) - new_tokens))
    widths = [p.size for p in prunable_mlps(model)]
    rows = []
    for n in batch_sizes:
        ids = torch.randint(0, model.get_input_embeddings().num_embeddings, (n, prompt), generator=generator).to(device)
        runs = [_run(model, ids, new_tokens, device) for _ in range(repeats + 1)][1:]
        rows.append(
            {
                "batch_size": n,
                "prompt": prompt,
                "prefill_tokens_per_second": n * prompt / statistics.median(r[0] for r in runs),
                "decode_tokens_per_second": n * new_tokens / statistics.median(r[1] for r in runs),
                "weight_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
                "cache_bytes": runs[0][2],
                "device": torch.cuda.get_device_name(device)
                if device.type == "cuda"
                else f"cpu, {torch.get_num_threads()} threads",
                "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
                "narrowest": min(widths),
                "widest": max(widths),
            }
        )
    return pd.DataFrame(rows)


def _run(model, ids, new_tokens, device):
    """Seconds for the prompt, seconds for the new tokens, bytes of the cache."""
    start = _now(device)
    output = model(ids, use_cache=True)
    middle = _now(device)
    cache = output.past_key_values
    for _ in range(new_tokens):
        output = model(output.logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
    return middle - start, _now(device) - middle, _cache_bytes(cache)


def _cache_bytes(cache):
    total = 0
    for layer in getattr(cache, "layers", []):
        for name in ("keys", "values"):
            tensor = getattr(layer, name, None)
            if torch.is_tensor(tensor):
                total += tensor.numel() * tensor.element_size()
    return total


@torch.no_grad()
def forward_seconds(model, *, n_tokens=512, repeats=5, seed=0):
    """Seconds of a forward pass over one sequence, the shortest of some after one that is not counted.

    The shortest, because whatever else a machine does can only add to it.
    """
    device = input_device(model)
    n_tokens = min(n_tokens, longest_context(model, 2048))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.get_input_embeddings().num_embeddings, (1, n_tokens), generator=generator).to(device)
    return _shortest([lambda: model(ids, use_cache=False)], device, repeats)[0]


@torch.no_grad()
def layer_latency(part, widths, *, n_tokens=512, repeats=15, seed=0):
    """Seconds that the linears of an MLP take at several widths: the shortest of some runs, the widths taking turns.

    Parameters
    ----------
    part : Mlp
    widths : sequence of int
    n_tokens : int
    repeats : int
    seed : int

    Returns
    -------
    list of float
    """
    weight = weight_of(part.writer)
    generator = torch.Generator().manual_seed(seed)
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
    return _shortest(runs, weight.device, repeats)


def _shortest(runs, device, repeats):
    """Shortest of each, after one round that is not counted; they take turns, so that a busy moment hits all alike."""
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
