"""Calibrate, score, compensate and save a model of 7B shape; print the time and memory of every stage.

    python benchmarks/pruning_7b.py --device cuda --out /dev/shm/pruned

Random weights (the arithmetic does not depend on their values), bfloat16, 64 windows of 2,048 random tokens.
"""

import argparse
import shutil
import time

import numpy as np
import torch

SHAPES = {  # width, neurons, layers, heads, key/value heads, vocabulary
    "7b": (4096, 11008, 32, 32, 32, 32000),
    "8b": (4096, 14336, 32, 32, 8, 128256),
    "tiny": (64, 172, 4, 4, 2, 300),
}
FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip


def main():  # noqa: PLR0915 - one stage after the other
    """Run all stages and print the time and memory of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="7b", choices=SHAPES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--score", default="flap")
    parser.add_argument("--allocation", default="schur")
    parser.add_argument("--compensation", default="affine")
    parser.add_argument("--block-steps", type=int, default=0)
    parser.add_argument("--round-to", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--out", default="/dev/shm/pruned-7b")
    args = parser.parse_args()
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmbrain.pruning import Pruner, Recipe
    from llmbrain.text import Window

    times, start = {}, time.perf_counter()

    def lap(name):
        nonlocal start
        if args.device == "cuda":
            torch.cuda.synchronize()
        times[name] = time.perf_counter() - start
        memory = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if args.device == "cuda" else ""
        print(f"{name}: {times[name]:.1f} s{memory}", flush=True)
        start = time.perf_counter()

    config = LlamaConfig(
        **dict(zip(FIELDS, SHAPES[args.shape])),
        max_position_embeddings=max(args.context, 2048),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(args.device):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    lap("building the model")
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ids = torch.randint(0, config.vocab_size, (args.windows, args.context)).numpy()
    windows = [Window(row, np.ones(args.context)) for row in ids]
    options = {
        "context": args.context, "batch_size": args.batch_size, "round_to": args.round_to,
        "block_steps": args.block_steps,
    }  # fmt: skip
    begin = time.perf_counter()
    recipe = Recipe(args.score, args.allocation, args.compensation, options)
    pruner = Pruner(model, None, windows)
    pruner.measurements.of(recipe).survey(schur=args.allocation == "schur")
    lap("survey: calibration and scores")
    pruned = pruner.prune(recipe, args.ratio, inplace=True)
    lap("cut: allocation, least squares, slicing")
    pruned.save_pretrained(args.out)
    lap("saving")
    print(pruned)
    print(f"all: {time.perf_counter() - begin:.1f} s")
    shutil.rmtree(args.out)


if __name__ == "__main__":
    main()
