"""All stations on several real models, small: every command runs on each, and what it prints is plausible.

    make benchmark-smoke MODELS="gemma-3-270m.gguf qwen2.5-coder-0.5b.gguf"
    python benchmarks/smoke.py demo gemma-3-270m.gguf --out smoke

For each model: `llmbrain run --quick` on the demo corpus (recording, networks, lesions, pruning, report). Then
`llmbrain compare` of all studies, and fingerprints of each pair. These amounts are too small for any claim; the table
shows that nothing fails, how long it takes, and that the numbers are those of a working language model. To resume,
repeat the call.
"""

import argparse
import itertools
import math
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from llmbrain.dataset import Study
from llmbrain.lesions import LesionResult
from llmbrain.models import load_model


def main():
    """Run, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["demo"], help="what --model takes")
    parser.add_argument("--out", type=Path, default=Path("smoke"))
    parser.add_argument("--skip", nargs="*", default=[], choices=["compare", "fingerprint"])
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    rows, studies = [], {}
    for model in args.models:
        studies[model] = args.out / Path(model).stem.replace(".", "-")
        rows.append(whole_path(model, studies[model]))
        print(pd.DataFrame(rows).to_string(index=False), flush=True)
    if len(studies) > 1 and "compare" not in args.skip:
        print(f"compare: {timed('compare', *map(str, studies.values())):.0f} s")
    for pair in itertools.combinations(studies, 2) if "fingerprint" not in args.skip else ():
        print(f"fingerprint {' '.join(Path(model).stem for model in pair)}: {timed('fingerprint', *pair):.0f} s")


def timed(*command):
    """Seconds of one llmbrain command; its error ends everything."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "llmbrain", *command], check=True)
    return time.perf_counter() - start


def whole_path(model, folder):
    """Run the whole path, and return its main numbers after a check of each."""
    seconds = timed("run", "--quick", "--model", model, "--text", "demo", "--out", str(folder))
    study = Study.open(folder)
    lesions = LesionResult.load(study).table
    lesions = lesions[lesions.task == lesions.task.iloc[0]]
    pruned = pd.read_csv(study.find("prune_table")[0].path, sep="\t")
    uniform = math.log(load_model(model, device="cpu")[0].get_input_embeddings().weight.shape[0])
    found = {
        "model": Path(model).stem, "seconds": round(seconds), "intact loss": lesions.intact.iloc[0],
        "largest lesion": lesions.effect.max(), "its controls": lesions.loc[lesions.effect.idxmax()].control_mean,
        "dense perplexity": pruned.perplexity.min(), "recipes": len(pruned),
    }  # fmt: skip
    checks = {
        "the intact loss is that of a language model": 0 < found["intact loss"] < 0.7 * uniform,
        "every effect is finite": bool(lesions.effect.map(math.isfinite).all()),
        "every perplexity is finite": bool(pruned.perplexity.map(math.isfinite).all()),
        "there is a report": (folder / "report.html").is_file() or any(folder.rglob("report.html")),
    }
    wrong = [name for name, held in checks.items() if not held]
    if wrong:
        raise SystemExit(f"{model}: it does not hold that {' or that '.join(wrong)}.")
    return found


if __name__ == "__main__":
    main()
