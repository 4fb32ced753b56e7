"""What pruning does to the networks of the demo model: kept, split and lost, and the effect of their lesions.

    python benchmarks/compare_pruned.py out                              about 10 minutes on one core
    python benchmarks/compare_pruned.py out --ratios 0.2 0.5 --lesions 6

Records the model and its pruned versions (recipe ``fast``, calibrated on other texts of the demo corpus) on the same
texts, finds networks in each and compares them. The networks of the dense model with the best matches in the first
pruned one are then silenced in both, on held-out text. The yardstick is the dense model itself, with networks from
another seed. To resume an interrupted run, repeat the command.
"""

import argparse
import copy
import time
from pathlib import Path

import llmbrain as lb
from llmbrain.dataset import find_results
from llmbrain.lesions import LossTask
from llmbrain.reporting import generate_group_report
from llmbrain.text import Corpus, Document


def subjects(model, tokenizer, calibration, ratios):
    """Yield ``(label, model, seed)``: the dense model, the same with another seed, and the pruned ones."""
    yield "dense", model, 0
    yield "seed1", model, 1
    for ratio in ratios:
        settings = {"recipe": "fast", "allocation": "power", "options": {"max_tokens": 4096}, "progress": False}
        pruned = lb.prune(copy.deepcopy(model), tokenizer, calibration, ratio=ratio, **settings).model
        yield f"pruned{round(100 * ratio)}", pruned, 0


def networks_of(runs, n_components, seed):
    """Find the networks of a recording, or read those that an interrupted call has found."""
    if not find_results(runs.study, "networks"):
        lb.CanICA(n_components, n_init=5, random_state=seed).fit(runs).networks_.save(runs.study)
    return lb.NetworkSet.load(runs.study)


def lesion(found, fitted, tokenizer, options):
    """Silence the best matched networks of the dense model, and their matches in the first pruned one."""
    names = ("dense", f"pruned{round(100 * options.ratios[0])}")
    pairs = found.pairs.query(f"model == 'sub-{names[0]}' and other == 'sub-{names[1]}'")
    best = pairs.sort_values("score", ascending=False).head(options.lesions)
    task = LossTask(lb.load_corpus("demo", split="heldout"), max_tokens=options.lesion_tokens, by_kind=False)
    for name, column in zip(names, ("network", "match")):
        model, masks, study = fitted[name]
        chosen = [masks[int(k)] for k in best[column]]
        lesions = lb.LesionStudy(chosen, [task], n_controls=options.n_controls, controls=["layer"], random_state=0)
        result = lesions.run(model, tokenizer, progress=False)
        result.save(study)
        print(result.table[["network", "intact", "effect", "control_mean", "control_max"]].round(3).to_string())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--n-texts", type=int, default=24)
    parser.add_argument("--lesions", type=int, default=6, help="number of pairs to silence; 0 leaves the lesions out")
    parser.add_argument("--lesion-tokens", type=int, default=240)
    parser.add_argument("--n-controls", type=int, default=5)
    options = parser.parse_args()
    demo = lb.load_corpus("demo")
    texts = Corpus([Document(d.text[:700], d.id, d.kind) for d in demo[: options.n_texts]], "openings")
    calibration = [d.text for d in demo[options.n_texts :]]
    model, tokenizer = lb.load_model("demo")
    fitted = {}
    for name, one, seed in subjects(model, tokenizer, calibration, options.ratios):
        start = time.perf_counter()
        runs = lb.record(one, tokenizer, texts, options.out, subject=name, tokens_per_run=8192, progress=False)
        found = networks_of(runs, options.n_components, seed)
        fitted[name] = one, found.masks(3.0), runs.study
        print(f"{name}: {runs.n_tokens} tokens, {time.perf_counter() - start:.0f} s", flush=True)
    studies = [study for _, _, study in fitted.values()]
    start = time.perf_counter()
    found = lb.compare_studies(studies)
    print(f"comparison: {time.perf_counter() - start:.1f} s")
    print(found.fates().to_string(index=False))
    print(found.similarity.round(3).to_string(), flush=True)
    if options.lesions:
        lesion(found, fitted, tokenizer, options)
        found = lb.compare_studies(studies)  # now with the effects
    found.save(studies[0])
    generate_group_report(options.out).save()
    columns = [c for c in found.pairs if not c.endswith(("_low", "_high"))]
    print(found.pairs.query("model == 'sub-dense'")[columns].round(3).to_string(index=False))
    print(found.shared.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
