"""One of the five pieces of work of the scaling figures, as one of several processes; see run.py.

    torchrun --nproc-per-node 4 benchmarks/scaling/work.py lesion
    torchrun --nproc-per-node 2 benchmarks/scaling/work.py networks --small        a small problem, on any device

The first process prints the seconds of the work on one line, as JSON. Loading models, making data and
removing files are not timed.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import llmbrain as lb
from llmbrain import parallel

SEVEN_B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
SEVENTY_B = {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8,
}  # fmt: skip
SMALL = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 4, "num_attention_heads": 4}


def random_model(shape, device, vocabulary=32000):
    """A random Llama in bfloat16 (on a CPU float32) and the tokenizer of the demo model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    _, tokenizer = lb.load_model("demo", device="cpu")
    torch.manual_seed(0)
    kind = torch.bfloat16 if device != "cpu" else torch.float32
    config = LlamaConfig(**shape, vocab_size=max(vocabulary, len(tokenizer)), max_position_embeddings=4096)
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False), tokenizer


def texts(n_tokens):
    """Documents of about 400 random words, enough for a number of tokens."""
    rng = np.random.default_rng(0)
    words = " ".join(document.text for document in lb.load_corpus("demo")).split()
    return [" ".join(rng.choice(words, 400)) for _ in range(n_tokens // 300 + 1)]


def lesion(args, folder):
    """20 networks x 2 families x ``--controls`` controls on 20,000 tokens, the demo model in bfloat16."""
    model, tokenizer = lb.load_model(
        "demo", dtype="float32" if args.device == "cpu" else "bfloat16", device=args.device
    )
    geometry = lb.NeuronGeometry.from_model(model)
    rng, n_networks = np.random.default_rng(0), 3 if args.small else 20
    masks = [
        lb.NeuronMask(rng.random(geometry.n_neurons) < 0.015, geometry, name=f"network-{k}") for k in range(n_networks)
    ]
    n_tokens, n_controls = (120, 3) if args.small else (20_000, args.controls)
    task = lb.lesions.LossTask(texts(n_tokens), max_tokens=n_tokens)
    study = lb.LesionStudy(
        masks, [task], n_controls=n_controls, controls=["layer", "layer+importance"],
        options={"importance": rng.random(geometry.n_neurons)},
    )  # fmt: skip
    return lambda: study.run(model, tokenizer, progress=False)


def _runs(n_runs, n_tokens, n_neurons, device):
    """Runs in main memory, float32 ``(n_tokens, n_neurons)``: 16 sparse maps with courses of their own, and noise."""
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=draw, device=device)

    maps = normal(16, n_neurons) ** 3 * (torch.rand(16, n_neurons, generator=draw, device=device) < 0.05)
    runs = [np.empty((n_tokens, n_neurons), np.float32) for _ in range(n_runs)]
    for run in runs:
        for rows in np.array_split(run, -(-n_tokens // 512)):
            rows[:] = (normal(len(rows), 16) ** 3 @ maps + normal(*rows.shape)).cpu().numpy()
    return runs


def networks(args, folder):
    """10,240 tokens x 704,512 neurons in memory, 128 components."""
    shape, n_components = ((2, 128, 4000), 8) if args.small else ((1, 10_240, 704_512), 128)
    runs = _runs(*shape, args.device)
    return lambda: lb.CanICA(n_components, n_init=1, random_state=0, standardize=True, detrend=False).fit(runs)


def layers(args, folder):
    """32 layers x (10,240 tokens x 22,016 neurons), 128 components for each layer."""
    n_layers, n_tokens, width, k = (4, 128, 1000, 8) if args.small else (32, 10_240, 22_016, 128)
    geometry = lb.NeuronGeometry([width] * n_layers)
    runs = _runs(1, n_tokens, n_layers * width, args.device)
    return lambda: lb.CanICA(k, n_init=1, random_state=0, scope="layer", geometry=geometry).fit(runs)


def prune(args, folder, shape=None, n_tokens=131_072):
    """Survey and cut of a 7B shape by the recipe ``fast``."""
    model, tokenizer = random_model(SMALL if args.small else shape or SEVEN_B, args.device)
    options = {"max_tokens": 1024 if args.small else n_tokens, "context": 128 if args.small else 2048}
    calibration = texts(options["max_tokens"])
    return lambda: lb.prune(
        model, tokenizer, calibration, ratio=0.2, recipe="fast", options=options, measure=False, progress=False
    )


def record(args, folder, shape=None):
    """Recording of a 7B shape, every 8th token, into memory-backed files."""
    model, tokenizer = random_model(SMALL if args.small else shape or SEVEN_B, args.device)
    n_tokens = 3000 if args.small else 65_536
    read, context = texts(n_tokens), 256 if args.small else 1024
    options = {"every": 8, "context": context, "max_tokens": n_tokens // 8, "tokens_per_run": n_tokens // 8 // 16}

    def work():
        lb.record(model, tokenizer, read, folder / "study", progress=False, **options)

    return work


def record_70b(args, folder):
    """Recording of a 70B shape (random weights, bfloat16), or of its first --layers."""
    return record(args, folder, {**SEVENTY_B, "num_hidden_layers": args.layers})


def prune_70b(args, folder):
    """Survey and cut of a 70B shape, or of its first --layers, by the recipe ``fast`` on 32,768 tokens."""
    return prune(args, folder, {**SEVENTY_B, "num_hidden_layers": args.layers}, 32_768)


WORK = {f.__name__: f for f in (lesion, networks, layers, prune, record, record_70b, prune_70b)}


def main():
    """Prepare, repeat the work, and print the seconds of every repetition."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gpus-per-rank", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--controls", type=int, default=100, help="of the lesion study")
    parser.add_argument("--layers", type=int, default=SEVENTY_B["num_hidden_layers"], help="of the 70B shape")
    parser.add_argument("--device")
    args = parser.parse_args()
    with parallel.processes(gpus_per_rank=args.gpus_per_rank):
        args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        folder = Path(tempfile.gettempdir() if args.small or not args.folder.is_dir() else args.folder)
        folder = folder / "llmbrain-scaling"
        if parallel.main_process():
            folder.mkdir(exist_ok=True)
        parallel.barrier()
        work, seconds = WORK[args.work](args, folder), []
        for _ in range(args.repeats):
            if parallel.main_process():  # pages of 10 GiB take a while, and are no part of the work
                shutil.rmtree(folder / "study", ignore_errors=True)
            parallel.barrier()
            start = time.perf_counter()
            work()
            if args.device != "cpu":
                torch.cuda.synchronize()
            parallel.barrier()
            seconds.append(round(time.perf_counter() - start, 3))
        if parallel.main_process():
            shutil.rmtree(folder / "study", ignore_errors=True)
            gib = round(torch.cuda.max_memory_allocated() / 2**30, 1) if args.device != "cpu" else None
            facts = {"work": args.work, "processes": parallel.world_size(), "seconds": seconds, "gpu_gib": gib}
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
