"""Check budgets: prune a model by a share of its parameters, of its bytes and of its time, and measure the result.

    python benchmarks/pruning_budget.py --model demo --share 0.15 --out results
    python benchmarks/pruning_budget.py --model random --share 0.3 --out results

For a budget of time (``ratio_of="latency"``), the number of neurons to remove follows from measured times: of the
linears of the MLPs at several widths, and of a forward pass. Afterwards the dense and the pruned model read the same
--length tokens in turn, and the shortest passes are compared with the budget. ``random`` is a model with random weights
and wide MLPs. Times hold for one machine and its load; nothing is asserted.
"""

import argparse
import time
from pathlib import Path

BUDGETS = ("all", "bytes", "latency")


def random_model(hidden=768, width=3072, layers=4):
    """Build a Llama with random weights that spends most of its time in its MLPs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048, hidden_size=hidden, intermediate_size=width, num_hidden_layers=layers, num_attention_heads=12,
        max_position_embeddings=1024,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def load(name, n_tokens, context):
    """A model, its tokenizer (None for random weights), and calibration windows."""
    import numpy as np

    from llmbrain.text import Window, load_corpus, text_windows

    if name == "random":
        rng, every = np.random.default_rng(0), np.ones(context)
        return random_model(), None, [Window(rng.integers(0, 2048, context), every) for _ in range(n_tokens // context)]
    from llmbrain.models import load_model

    model, tokenizer = load_model(name)
    text = "\n\n".join(load_corpus("demo").texts)
    return model, tokenizer, text_windows([text], tokenizer, context, max_tokens=n_tokens)[0]


def seconds_in_turn(models, length, rounds):
    """Shortest forward pass of each model; they take turns, so that other load affects all alike."""
    from llmbrain.pruning.budget import forward_seconds

    found = [[] for _ in models]
    for _ in range(rounds):
        for one, times in zip(models, found):
            times.append(forward_seconds(one, n_tokens=length, repeats=1))
    return [min(times) for times in found]


def main():
    """Prune to every budget, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="what load_model takes, or 'random'")
    parser.add_argument("--share", type=float, default=0.15, help="share to remove, for each budget")
    parser.add_argument("--allocation", default="schur", help="'search' takes longest")
    parser.add_argument("--compensation", default="bias")
    parser.add_argument("--evaluations", type=int, default=30, help="evaluations of the search")
    parser.add_argument("--round-to", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1024, help="calibration tokens")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--length", type=int, default=512, help="tokens of a measured pass")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", default="results")
    args = parser.parse_args()

    import pandas as pd
    import torch

    from llmbrain import prune
    from llmbrain.files import write_tsv

    start = time.perf_counter()
    model, tokenizer, windows = load(args.model, args.tokens, args.context)
    options = {"context": args.context, "round_to": args.round_to, "n_evaluations": args.evaluations}
    rows = []
    for budget in BUDGETS:
        pruned = prune(
            model, tokenizer, windows, args.share, recipe="fast", ratio_of=budget, allocation=args.allocation,
            compensation=args.compensation, options=options, measure=False, progress=False,
        )  # fmt: skip
        s = pruned.summary
        dense, smaller = seconds_in_turn([model, pruned.model], args.length, args.rounds)
        removed = {
            "all": s["total_parameters_removed"], "bytes": s["bytes_removed"], "latency": 1 - smaller / dense,
        }  # fmt: skip
        rows.append(
            {
                "model": args.model, "budget": budget, "asked": args.share, "got": removed[budget],
                "neurons_removed": s["neurons_removed"], "parameters_removed": removed["all"],
                "bytes_removed": removed["bytes"], "time_removed": removed["latency"], "seconds_before": dense,
                "seconds_after": smaller, "narrowest": min(s["n_kept"]), "widest": max(s["n_kept"]),
                "allocation": args.allocation, "length": args.length, "threads": torch.get_num_threads(),
            }
        )  # fmt: skip
        print(f"{budget}: requested {args.share:.0%}, removed {removed[budget]:.1%}", flush=True)
    table = pd.DataFrame(rows)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    write_tsv(Path(args.out) / f"budget_{Path(args.model).stem}_{args.allocation}.tsv", table)
    print(table.round(3).to_string(index=False))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
