"""Several real models read the same ten texts: shared networks, a tree, fingerprints, and the time of a pair.

    python benchmarks/compare_real.py out demo gemma-3-270m.gguf qwen2.5-coder-0.5b.gguf

Each model is loaded once. It records the beginnings of ten texts of the demo corpus into one dataset, its networks are
found there, and its fingerprint is made on the same texts. Then all models are compared. Times are wall and processor
seconds without loading; a pair with ten texts takes the sum of two models and the comparison.
"""

import argparse
import itertools
import time
from pathlib import Path

import llmbrain as lb
from llmbrain.reporting import generate_group_report
from llmbrain.subjects.fingerprints import standard_texts
from llmbrain.text import Corpus, Document


def timed(name, function, *args, **options):
    """Run a function; print its wall and processor seconds."""
    wall, used = time.perf_counter(), time.process_time()
    result = function(*args, **options)
    print(f"{name}: {time.perf_counter() - wall:.0f} s, processor {time.process_time() - used:.0f} s", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", help="demo, folders, .gguf files")
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--n-texts", type=int, default=10)
    options = parser.parse_args()
    kinds = [document.kind for document in lb.load_corpus("demo")]
    texts = [
        Document(text, f"text-{i:02d}", kinds[i]) for i, text in enumerate(standard_texts("demo", options.n_texts))
    ]
    prints, studies = {}, []
    for source in options.models:
        name = Path(source).stem.replace(".", "").replace("-", "").replace("_", "")
        loaded = timed(f"{name}: load", lb.load_model, source, dtype="float32")
        settings = {"subject": name, "tokens_per_run": 8192, "progress": False}
        runs = timed(f"{name}: record", lb.record, *loaded, Corpus(texts, "ten"), options.out, **settings)
        canica = lb.CanICA(options.n_components, n_init=5, random_state=0)
        timed(f"{name}: networks of {runs.n_tokens} tokens", canica.fit, runs)
        canica.networks_.save(runs.study)
        studies.append(runs.study)
        prints[name] = timed(f"{name}: fingerprint", lb.fingerprint, *loaded, n_texts=options.n_texts)
        prints[name].save(options.out.parent / f"{name}.safetensors")
    found = timed("comparison", lb.compare_studies, studies)
    found.save(studies[0])
    generate_group_report(options.out).save()
    print(found.fates().to_string(index=False))
    print(found.similarity.round(3).to_string())
    print("tree:", found.tree.groups(2), round(found.tree.faithfulness, 3))
    table = found.shared.sort_values("isc", ascending=False)
    print(table[["network", "isc", "p", "q", "p_fwe", "n_kept", "words"]].round(3).to_string(index=False))
    for a, b in itertools.combinations(prints, 2):
        print(timed("two fingerprints", lb.compare_fingerprints, prints[a], prints[b]))


if __name__ == "__main__":
    main()
