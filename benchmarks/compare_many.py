"""Time of ``compare`` on a dataset of many models: 10 models x 20 networks x 20,000 words.

    python benchmarks/compare_many.py out                 about 3 minutes on one core, most of it to make the dataset
    python benchmarks/compare_many.py out --profile       where the time goes

The models are small and untrained, each with its own seed; they read both parts of the demo corpus. Only the
comparison is timed: opening the dataset, alignment on words, all pairs of models, the correlation between models, and
the tables.
"""

import argparse
import cProfile
import pstats
import time
from pathlib import Path

import transformers

import llmbrain as lb
from llmbrain.dataset import find_studies


def small_model(seed, vocabulary):
    """A Llama of three layers without training."""
    transformers.set_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def make_dataset(options):
    """Record all models that are not there yet, and find their networks."""
    corpus = lb.load_corpus("demo", split="all")
    _, tokenizer = lb.load_model("demo")
    for seed in range(options.models):
        if (options.out / f"sub-m{seed}").is_dir():
            continue
        model = small_model(seed, len(tokenizer))
        settings = {"subject": f"m{seed}", "tokens_per_run": 8192, "progress": False}
        runs = lb.record(model, tokenizer, corpus, options.out, **settings)
        lb.CanICA(options.networks, n_init=1, random_state=seed).fit(runs).networks_.save(runs.study)
        print(f"m{seed}: {runs.n_tokens} tokens", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    make_dataset(options)
    profile = cProfile.Profile()
    start, used = time.perf_counter(), time.process_time()
    if options.profile:
        profile.enable()
    found = lb.compare_studies(find_studies(options.out))
    profile.disable()
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    print(f"{len(found.info['models'])} models, {len(found.shared)} networks, {found.info['n_words']} words")
    print(f"{wall:.1f} s, of one core {cpu:.1f} s")
    if options.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(35)


if __name__ == "__main__":
    main()
