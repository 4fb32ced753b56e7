"""What pruning does to the networks of the demo model: kept, split and lost, and the effect of their lesions.

    python benchmarks/compare_pruned.py out                  about 10 minutes on 2 cores
    python benchmarks/compare_pruned.py out --ratio 0.5

Records the model and its pruned version (recipe ``fast``, calibrated on other texts of the demo corpus) on the same
texts, finds networks in each, compares them, and lesions the matched ones. A yardstick for the dense model is the same
comparison with itself under networks from another seed.
"""

import argparse
from pathlib import Path

import llmbrain as lb
from llmbrain.text import Corpus, Document


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--n-components", type=int, default=12)
    parser.add_argument("--n-texts", type=int, default=12)
    parser.add_argument("--lesion-tokens", type=int, default=0, help="0 leaves the lesions out")
    options = parser.parse_args()
    demo = lb.load_corpus("demo")
    texts = [Document(d.text[:1000], d.id, d.kind) for d in demo[: options.n_texts]]
    calibration = [d.text for d in demo[options.n_texts :]]
    model, tokenizer = lb.load_model("demo")
    pruned = lb.prune(
        model, tokenizer, calibration, ratio=options.ratio, recipe="fast", options={"max_tokens": 4096}
    ).model
    models = {"dense": (model, 0), "seed1": (model, 1), f"pruned{round(100 * options.ratio)}": (pruned, 0)}
    studies = []
    for name, (one, seed) in models.items():
        runs = lb.record(one, tokenizer, Corpus(texts, "openings"), options.out, subject=name, tokens_per_run=8192)
        canica = lb.CanICA(options.n_components, n_init=10, random_state=seed).fit(runs)
        canica.networks_.save(runs.study)
        studies.append(runs.study)
        if options.lesion_tokens:
            heldout = lb.load_corpus("demo", split="heldout")
            task = lb.lesions.LossTask(heldout, max_tokens=options.lesion_tokens)
            lesions = lb.LesionStudy(canica.masks(), tasks=[task], n_controls=5, random_state=0)
            lesions.run(one, tokenizer).save(runs.study)
    found = lb.compare_studies(studies)
    found.save(studies[0])
    lb.generate_report(studies[0]).save()
    print(found.fates().to_string(index=False))
    print(found.similarity.round(3).to_string())
    print(found.pairs.round(3).to_string(index=False))
    print(found.shared.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
