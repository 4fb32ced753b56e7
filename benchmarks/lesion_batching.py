"""Compare batched lesions with one lesion at a time: equality of the losses, speed, and the bound on the speed.

    python benchmarks/lesion_batching.py                                  # the demo model on the CPU
    python benchmarks/lesion_batching.py --device cuda --conditions 400 --tokens-per-document 200 --profile
    python benchmarks/lesion_batching.py --layers 20 30                   # lesions that begin late share more layers

"One at a time" runs every condition alone, with the package's own context manager and the whole text as one batch. The
modes alternate, so that a slowdown of the machine affects all of them. The bound is the time that the matrix
products of the lesioned layers and of the head would take at the speed of a large product on the same machine;
``--profile`` shows where the rest of the time goes. Times are processor seconds on a CPU (steady on a shared machine)
and wall seconds on a GPU.
"""

import argparse
import contextlib
import time

import numpy as np
import torch

from llmbrain import load_corpus, load_model
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions.batched import Passes, condition_losses, row_mode, start_of
from llmbrain.lesions.kinds import Edit
from llmbrain.lesions.scoring import default_batch_tokens
from llmbrain.masks import NeuronMask
from llmbrain.models.sites import find_sites
from llmbrain.text import text_windows


def main():
    """Measure and print."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, tokenizer = load_model(args.model, device=args.device, dtype=args.dtype)
    sites = find_sites(model)
    geometry = NeuronGeometry.from_sites(sites, "mlp")
    corpus = load_corpus(args.corpus, split="heldout" if args.corpus == "demo" else None)
    sequences, _ = text_windows(corpus, tokenizer, args.context, per_document=args.tokens_per_document)
    edits = lesions(geometry, args)
    tokens = sum(len(s) for s in sequences)
    counted = sum(s.n_scored for s in sequences)
    max_tokens = args.max_tokens or default_batch_tokens(model)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}, {args.dtype}\n"
        f"{len(edits)} lesions x {tokens} tokens in {len(sequences)} sequences; passes of at most {max_tokens} tokens; "
        f"auto mode: {row_mode(model, sites, edits)}"
    )
    seconds, results = {mode: [] for mode in args.modes}, {}
    for repeat in range(args.repeats + 1):
        for mode in args.modes:
            few = edits[: max(2, len(edits) // 8)] if repeat == 0 else edits  # the first round warms up
            start = clock(args.device)
            with precision(args):
                passes = Passes(10**9 if mode == "single" else max_tokens, mode)
                results[mode] = condition_losses(model, sites, sequences, few, passes)
            if repeat:
                seconds[mode].append(clock(args.device) - start)
    bound = matrix_seconds(model, sites, edits, tokens, args)
    reference = results[args.modes[-1]].sum(axis=1) / counted
    per = "/core" if args.device == "cpu" else ""
    print(f"bound by matrix products: {bound:.2f} s")
    for mode in args.modes:
        best = min(seconds[mode])
        off = np.abs(results[mode].sum(axis=1) / counted - reference).max()
        print(
            f"{mode:8s} {best:8.2f} s  {(1 + len(edits)) * tokens / best:9.0f} tokens/s{per}  "
            f"{min(seconds[args.modes[-1]]) / best:5.2f} x {args.modes[-1]}  {best / bound:5.2f} x bound  "
            f"largest difference {off:.1e} nats per token"
        )
    if args.profile:
        some = edits[: max(2, max_tokens // max(tokens, 1))]
        print(profile(lambda: condition_losses(model, sites, sequences, some, Passes(max_tokens, "rows")), args))


def precision(args):
    """Run matrix products in half precision with ``--autocast``."""
    if args.autocast is None:
        return contextlib.nullcontext()
    return torch.autocast(args.device, dtype=getattr(torch, args.autocast))


GROUPS = {
    "matrix products": ("mm", "linear", "matmul", "gemm"),
    "attention": ("attention", "flash", "fmha"),
    "softmax of the head": ("log_softmax", "nll_loss", "cross_entropy"),
    "copies and casts": ("copy", "_to_copy", "cat", "index", "repeat", "clone", "memcpy", "memset"),
}


def profile(work, args):
    """Return the shares of the time by operation, as one line."""
    from torch.profiler import ProfilerActivity

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (args.device == "cuda")
    with precision(args), torch.profiler.profile(activities=activities) as found:
        work()
        clock(args.device)
    which = "self_device_time_total" if args.device == "cuda" else "self_cpu_time_total"
    shares = dict.fromkeys([*GROUPS, "elementwise and the rest"], 0.0)
    for event in found.key_averages():
        if args.device == "cuda" and not event.key.startswith("aten::"):
            continue  # the kernels themselves, counted once already with the operation that started them
        name = next((g for g, words in GROUPS.items() if any(w in event.key.lower() for w in words)), None)
        shares[name or "elementwise and the rest"] += getattr(event, which)
    total = sum(shares.values()) or 1.0
    return "time by operation: " + ", ".join(f"{name} {value / total:.0%}" for name, value in shares.items())


def lesions(geometry, args):
    """Make random lesions in a range of layers."""
    rng = np.random.default_rng(0)
    first, last = args.layers or (0, geometry.n_layers)
    inside = (geometry.layer_of >= first) & (geometry.layer_of < last)
    return [
        Edit(NeuronMask((rng.random(geometry.n_neurons) < args.share) & inside, geometry))
        for _ in range(args.conditions)
    ]


def matrix_seconds(model, sites, edits, tokens, args):
    """Return the time of the necessary products at the measured speed of a large one."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings().weight.numel()
    inside = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "head" not in n)
    a_layer = inside / config.num_hidden_layers
    n_layers = sum(len(sites) - start_of(e, sites) for e in edits) + len(sites)
    work = 2.0 * tokens * (n_layers * a_layer + (1 + len(edits)) * head)
    width = config.intermediate_size or 4 * config.hidden_size
    dtype = getattr(torch, args.autocast) if args.autocast else model.dtype
    rows = 2048 if args.device == "cpu" else 65536  # as many as a pass has
    x = torch.randn(rows, config.hidden_size, device=args.device, dtype=dtype)
    w = torch.randn(width, config.hidden_size, device=args.device, dtype=dtype)
    best = np.inf
    for _ in range(5):
        start = clock(args.device)
        for _ in range(20):
            torch.nn.functional.linear(x, w)
        best = min(best, (clock(args.device) - start) / 20)
    return work / (2.0 * x.shape[0] * w.numel() / best)


def clock(device):
    """Return processor seconds on a CPU, and wall seconds after synchronising on a GPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--corpus", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--autocast", choices=["bfloat16", "float16"])
    parser.add_argument("--profile", action="store_true", help="print where the time of mode rows goes")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--conditions", type=int, default=16)
    parser.add_argument("--share", type=float, default=0.015, help="share of the neurons in a lesion")
    parser.add_argument("--layers", type=int, nargs=2, metavar=("FIRST", "END"), help="lesion only these layers")
    parser.add_argument("--tokens-per-document", type=int, default=41)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--modes", nargs="+", default=["prefix", "rows", "single"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
