"""How long `fast` takes on a CPU, what its forecast says, and how far the pruned model diverges on development text.

    OMP_NUM_THREADS=1 python benchmarks/pruning_cpu.py --model demo
    OMP_NUM_THREADS=1 python benchmarks/pruning_cpu.py --model qwen2.5-coder-0.5b.gguf --curve-tokens 1024

Calibration and development text are those of pruning_models.py; the test text is not read. The divergence is that of
whole predictions, in nats per token, on four windows of the development text.
"""

import argparse
import time

from pruning_grid import clean, data_file
from pruning_models import REST

CONTEXT = 1024


def main():
    """Print one line."""
    import llmbrain as lb
    from llmbrain.models.speed import measure_machine
    from llmbrain.pruning import Recipe
    from llmbrain.pruning.allocation.probe import Probe
    from llmbrain.pruning.calibration import calibration_windows, group_blocks
    from llmbrain.pruning.expected import expected_seconds
    from llmbrain.pruning.measured import Measurements

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="what load_model takes")
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--calibration-tokens", type=int, default=2048)
    parser.add_argument("--start", type=int, default=0, help="first calibration token")
    parser.add_argument("--curve-tokens", type=int, help="option of the recipe")
    parser.add_argument("--calibration", help="text file")
    args = parser.parse_args()
    model, tokenizer = lb.load_model(args.model, device="cpu")
    text = clean(data_file(args.calibration, "wikitext-2/valid.unk.txt", "--calibration").read_text("utf-8"), "drop")
    ids = tokenizer(text, verbose=False, add_special_tokens=False)["input_ids"]
    calibration = tokenizer.decode(ids[args.start : args.start + args.calibration_tokens])
    recipe = Recipe.named("fast").with_(context=CONTEXT, curve_tokens=args.curve_tokens)
    speed = measure_machine(model)
    expected = expected_seconds(Measurements(model, tokenizer, calibration).of(recipe), speed, args.ratio)
    start, spent = time.perf_counter(), time.process_time()
    pruned = lb.prune(model, tokenizer, calibration, args.ratio, recipe=recipe, measure=False, progress=False)
    took, used = time.perf_counter() - start, time.process_time() - spent
    windows = calibration_windows(tokenizer, tokenizer.decode(ids[REST : REST + 12_000]), context=CONTEXT)
    probe = Probe(model, group_blocks([w for w in windows if len(w) == CONTEXT][:4], 1), n_leading=None)
    probe.model = pruned.model
    print(
        f"{args.model}: forecast {expected:.0f} s, took {took:.0f} s ({used:.0f} s of processor time), "
        f"divergence {probe.divergence():.4f} nats per token"
    )


if __name__ == "__main__":
    main()
