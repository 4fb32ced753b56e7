"""What a smaller model gains in speed: tokens per second for reading and for writing, measured."""

import statistics
import time

import torch

from .units import find_mlp_parts

__all__ = ["compare_speed", "measure_speed"]


@torch.no_grad()
def measure_speed(model, *, batch_sizes=(1, 8), prompt=256, new_tokens=32, repeats=3, seed=0):
    """Tokens per second of a model, reading a prompt and generating one by one apart.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    batch_sizes : sequence of int
        Sequences at a time. At 1 a GPU mostly waits for launches: smaller matrices are then not faster.
    prompt, new_tokens : int
        Tokens that are read, and written, in each sequence.
    repeats : int
        The median is reported; one more run before them is not counted.
    seed : int
        Of the prompts, which are random tokens.

    Returns
    -------
    pandas.DataFrame
        A row a batch size: ``batch_size, prefill_tokens_per_second, decode_tokens_per_second, weight_bytes,
        cache_bytes, device, dtype, narrowest, widest``.
    """
    import pandas as pd

    device = model.get_input_embeddings().weight.device
    generator = torch.Generator().manual_seed(seed)
    widths = [p.size for p in find_mlp_parts(model)]
    rows = []
    for n in batch_sizes:
        ids = torch.randint(0, model.get_input_embeddings().num_embeddings, (n, prompt), generator=generator).to(device)
        runs = [_run(model, ids, new_tokens, device) for _ in range(repeats + 1)][1:]
        rows.append(
            {
                "batch_size": n,
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


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def compare_speed(dense, pruned, **kwargs):
    """Speed of two models side by side.

    Parameters
    ----------
    dense, pruned : transformers.PreTrainedModel
    **kwargs
        For :func:`measure_speed`.

    Returns
    -------
    pandas.DataFrame
        Both, with a column ``model`` and the speed relative to the dense one.
    """
    import pandas as pd

    tables = [measure_speed(m, **kwargs).assign(model=name) for m, name in ((dense, "dense"), (pruned, "pruned"))]
    for name in ("prefill", "decode"):
        column = f"{name}_tokens_per_second"
        for table in tables:
            table[f"{name}_speedup"] = (table[column] / tables[0][column]).round(3)
    return pd.concat(tables, ignore_index=True)
