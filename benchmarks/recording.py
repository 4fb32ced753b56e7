"""Measure what recording costs compared with the plain forward pass, and what bounds it.

    python benchmarks/recording.py                                        # the demo model on the CPU
    python benchmarks/recording.py --model llama-7b --device cuda --dtype bfloat16 --folder /dev/shm \\
        --tokens 8192 --tokens-per-run 4096 --parts --variants full int16 every8 layers4 moments

Plain passes and recordings of the same batches alternate, so that a slowdown of the machine affects both. The plain
pass also computes what recording needs (all logits, no cache). The script prints the medians over the repeats of the
tokens per second, and the share of the plain speed that recording reaches; with --parts, also how fast bytes leave the
GPU and reach files.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

import llmbrain
from llmbrain.lesions import neuron_statistics
from llmbrain.recording import RecordingOptions, record
from llmbrain.recording.job import prepare
from llmbrain.recording.writer import RunWriter
from llmbrain.text import Corpus

VARIANTS = {
    "full": {},
    "int16": {"storage": "int16"},
    "every8": {"every": 8},
    "layers4": {"layers": range(4)},
    "moments": {},  # statistics of every neuron, no file
}


def main():
    """Measure and print."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, tokenizer, corpus = subject(args)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}, {args.dtype}")
    if args.parts:
        for folder in args.folder:
            parts(args, folder)
    for folder in args.folder:
        for name in args.variants if folder == args.folder[0] else args.variants[:1]:
            print(f"-- {name} -> {folder or 'the temporary folder'}", flush=True)
            measure(model, tokenizer, corpus, args, name, folder)


def measure(model, tokenizer, corpus, args, name, folder):
    """Plain passes and recordings in turn; prints the medians."""
    options = {
        "max_tokens": args.tokens,
        "tokens_per_run": args.tokens_per_run,
        "batch_size": args.batch_size,
        "storage": args.storage,
        "every": args.every,
        "site": args.sites if len(args.sites) > 1 else args.sites[0],
    }
    if args.layers:
        options["layers"] = range(args.layers)
    options |= VARIANTS[name]
    options["max_tokens"] //= options["every"]  # so that every variant reads about as much
    statistics_only = name == "moments"
    job = prepare(model, tokenizer, corpus, RecordingOptions(**options))
    print(job.forecast)
    plain(job, args)  # warm up
    rows = []
    for _ in range(args.repeats):
        rows.append((*plain(job, args), *recorded(model, tokenizer, corpus, options, statistics_only, folder)))
        print(
            f"plain {job.plan.n_fed / rows[-1][0]:.1f} tokens/s, recording {job.plan.n_fed / rows[-1][2]:.1f}; "
            f"processor time {rows[-1][1]:.1f} s and {rows[-1][3]:.1f} s",
            flush=True,
        )
    median_plain, plain_cpu, median_recording, recording_cpu = (statistics.median(column) for column in zip(*rows))
    ratios = sorted(row[0] / row[2] for row in rows)
    n_fed = job.plan.n_fed
    written = 0 if statistics_only else job.forecast.bytes
    print(
        f"median: plain {n_fed / median_plain:.1f} tokens/s, recording {n_fed / median_recording:.1f}, "
        f"share {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}), "
        f"{written / median_recording / 2**20:.0f} MiB/s written; "
        f"share by processor time {plain_cpu / recording_cpu:.3f}",
        flush=True,
    )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="what load_model takes, or llama-7b for a random one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gpus", type=int, default=1, help="number of GPUs to spread llama-7b over")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--tokens-per-run", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=None, help="record only this number of layers, from the first on")
    parser.add_argument("--every", type=int, default=1, help="record only every n-th token")
    parser.add_argument("--storage", default="float32", help="float32 or int16")
    parser.add_argument("--sites", nargs="+", default=["mlp"])
    parser.add_argument("--parts", action="store_true", help="also measure the bus and the disk; writes 8 GiB")
    parser.add_argument("--variants", nargs="+", default=["full"], choices=list(VARIANTS), help="variants to measure")
    parser.add_argument("--folder", nargs="+", default=[None], help="folders for the temporary recordings")
    return parser.parse_args()


def subject(args):
    """The model, its tokenizer, and enough texts."""
    if args.model != "llama-7b":
        model, tokenizer = llmbrain.load_model(args.model, device=args.device, dtype=args.dtype)
        return model, tokenizer, llmbrain.load_corpus("demo")
    import sys

    from transformers import LlamaConfig, LlamaForCausalLM

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from tiny import tiny_tokenizer

    torch.set_default_dtype(getattr(torch, args.dtype))
    with torch.device(args.device):  # the defaults of LlamaConfig are those of the 7B model
        model = LlamaForCausalLM(LlamaConfig()).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    if args.gpus > 1:
        from accelerate import dispatch_model

        places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb"), 0)
        places |= dict.fromkeys(("model.norm", "lm_head"), args.gpus - 1)
        n_layers = model.config.num_hidden_layers
        places |= {f"model.layers.{i}": i * args.gpus // n_layers for i in range(n_layers)}
        model = dispatch_model(model, places, main_device=0)
    words = ["the", "state", "of", "all", "neurons", "at", "one", "token", "is", "a", "volume", "in", "a", "run"]
    n_texts = max(8, args.tokens * args.every // 2000)
    texts = [" ".join(words[(7 * i + j * (1 + i % 5)) % len(words)] for j in range(1000)) for i in range(n_texts)]
    return model, tiny_tokenizer(), Corpus(llmbrain.load_corpus(texts).documents, "words")


def plain(job, args):
    """Seconds (by the clock, of the processor) that the forward passes of a recording take without it."""
    start = now()
    with torch.no_grad():
        for run in job.plan.runs:
            for batch, *_ in job.batches(run):
                job.model(**batch.inputs(args.device), use_cache=False)
    if args.device != "cpu":
        torch.cuda.synchronize()
    return since(start)


def parts(args, folder, n_bytes=1 << 30):
    """Print how fast bytes move: off the GPU, and into files of a folder."""
    if args.device != "cpu":
        on_device = torch.empty(n_bytes, dtype=torch.uint8, device=args.device)
        pinned = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
        for _ in range(2):
            torch.cuda.synchronize()
            start = time.perf_counter()
            pinned.copy_(on_device, non_blocking=True)
            torch.cuda.synchronize()
        print(f"GPU to pinned memory: {n_bytes / 2**30 / (time.perf_counter() - start):.1f} GiB/s")
    piece = np.random.default_rng(0).integers(0, 255, n_bytes // 16, np.uint8)
    folder = Path(tempfile.mkdtemp(dir=folder))
    for n_threads, n_files in ((1, 1), (4, 1), (4, 4), (16, 16)):
        files = [os.open(folder / f"{n_threads}-{i}", os.O_CREAT | os.O_WRONLY) for i in range(n_files)]
        start = time.perf_counter()
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(lambda i, f=files: os.pwrite(f[i % len(f)], piece, i * len(piece)), range(16)))
        seconds = time.perf_counter() - start
        print(f"writing, {n_threads} threads into {n_files} files: {n_bytes / 2**30 / seconds:.1f} GiB/s")
        for file in files:
            os.close(file)
    geometry = llmbrain.NeuronGeometry.from_sizes([11008] * 32)
    rows = np.broadcast_to(np.random.default_rng(0).normal(size=geometry.n_voxels).astype(np.float32), (11, 352256))
    rows = np.ascontiguousarray(rows)
    for way in (RunWriter.put, RunWriter.put_mapped):
        for n_threads in (1, 4, 16):
            writer = RunWriter(folder / "run.nii", geometry, 11 * 128, reserve=False)
            start = time.perf_counter()
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(lambda i, w=writer, p=way: p(w, 11 * i, rows), range(128)))
            seconds = time.perf_counter() - start
            print(f"{way.__name__} into one run, {n_threads} threads: {writer.n_bytes / 2**30 / seconds:.1f} GiB/s")
            writer.abandon()
    shutil.rmtree(folder)


def now():
    return time.perf_counter(), time.process_time()


def since(start):
    return tuple(b - a for a, b in zip(start, now()))


def recorded(model, tokenizer, corpus, options, statistics_only, folder):
    """The same that recording takes, from the texts to the last sidecar."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    try:
        start = now()
        if statistics_only:
            neuron_statistics(model, tokenizer, corpus, max_tokens=options["max_tokens"], context=1024)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return since(start)
        record(model, tokenizer, corpus, folder / "study", progress=False, **options)
        return since(start)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
