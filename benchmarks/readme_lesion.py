"""Lesion networks of the README's example on more held-out text, with more controls.

    python benchmarks/readme_lesion.py --networks 5 --autocast bfloat16

Recording and networks are those of the README: 12,000 tokens of the demo corpus, CanICA with 20 components, seed 0. An
interrupted run goes on where it stopped.
"""

import argparse
import time
from pathlib import Path

import llmbrain as lb
from llmbrain.lesions import LossTask

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, nargs="+", default=[5])
    parser.add_argument("--families", nargs="+", default=["layer", "layer+importance"])
    parser.add_argument("--controls", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=5000, help="held-out tokens")
    parser.add_argument("--autocast", choices=["bfloat16", "float16"])
    parser.add_argument("--out", type=Path, default=Path("results/readme_lesion"))
    args = parser.parse_args()
    model, tokenizer = lb.load_model("demo")
    text, held_out = lb.load_corpus("demo"), lb.load_corpus("demo", split="heldout")
    args.out.mkdir(parents=True, exist_ok=True)
    runs = lb.record(model, tokenizer, text, out=args.out / "study", max_tokens=12_000)
    masks = lb.CanICA(n_components=20, random_state=0).fit(runs).networks_.masks(threshold=3.0)
    for number in args.networks:
        start, cpu = time.perf_counter(), time.process_time()
        study = lb.LesionStudy(
            masks[number], [LossTask(held_out, max_tokens=args.tokens, passage=64)], n_controls=args.controls,
            controls=args.families, random_state=0, options={"autocast": args.autocast},
        )  # fmt: skip
        result = study.run(model, tokenizer, checkpoint=args.out / f"network{number}.npz")
        table = args.out / f"network{number}.tsv"
        result.table.to_csv(table, sep="\t", index=False)
        print(result.summary())
        print(
            f"{masks[number]}; {time.perf_counter() - start:.0f} s, {time.process_time() - cpu:.0f} processor seconds"
        )
        print(f"table at {table}", flush=True)
