"""How the time of a decomposition grows with tokens, neurons, runs and components.

    python benchmarks/networks_growth.py                   every series
    python benchmarks/networks_growth.py tokens case       some series
    python benchmarks/networks_growth.py --largest 65536   stop the series of tokens early
    python benchmarks/networks_growth.py --study FOLDER    every layer of a study alone, 10 components

Planted data are sparse, heavy-tailed maps with Gaussian courses under Gaussian noise, in memory. Every series changes
one number of 8 runs of 1,024 tokens of 1,536 neurons with 20 components and 3 starts. Seconds of the wall and of the
processor are printed; on a busy machine only the second are comparable.
"""

import argparse
import time

import numpy as np

from llmbrain.networks import group_ica
from llmbrain.networks.engines.sources import ArraySource

SERIES = {
    "tokens": [("tokens per run", n, {"n_tokens": n}) for n in (1024, 4096, 16384, 65536, 131072)],
    "neurons": [("neurons", n, {"n_neurons": n}) for n in (384, 768, 1536, 3072, 6144, 12288)],
    "runs": [("runs", n, {"n_runs": n}) for n in (2, 4, 8, 16, 32)],
    "components": [("components", n, {"n_components": n}) for n in (5, 10, 20, 40, 80)],
    "case": [("tokens x runs", "4096 x 16", {"n_tokens": 4096, "n_runs": 16})],
}
BASE = {"n_tokens": 1024, "n_neurons": 1536, "n_runs": 8, "n_components": 20}
GROUPS = ("auto", "runs", "tokens")
CHUNK = 4096  # rows that are drawn once and repeated with other courses, so that a million tokens need little memory


def planted(n_tokens, n_neurons, n_runs, n_components, seed=0):
    """Runs as sources, which repeat a block of noise so that they need little memory, and the planted maps."""
    rng = np.random.default_rng(seed)
    maps = rng.laplace(size=(n_components, n_neurons)) * (rng.random((n_components, n_neurons)) < 0.05)
    maps = (maps / np.sqrt(np.square(maps).mean(1, keepdims=True).clip(1e-12)) / 2).astype(np.float32)
    runs = []
    for _ in range(n_runs):
        rows = min(n_tokens, CHUNK)
        block = rng.standard_normal((rows, n_components), dtype=np.float32) @ maps
        block += rng.standard_normal((rows, n_neurons), dtype=np.float32)
        runs.append(ArraySource(lambda block=block: _Repeated(block), n_tokens, n_neurons))
    return runs, maps


class _Repeated:
    """A block of rows that is repeated as often as is asked for."""

    def __init__(self, block):
        self.block = block

    def __getitem__(self, where):
        rows, columns = where
        if rows.stop <= len(self.block):
            return self.block[rows, columns]
        return self.block[np.arange(rows.start or 0, rows.stop) % len(self.block), columns]


def layers_of(study, groups):
    """Print the seconds in which every layer of a recording is decomposed alone, from memory."""
    import llmbrain as lb

    recording = lb.open_recording(study)
    runs, layer = [run.to_array() for run in recording], recording.geometry.layer_of
    parts = [[np.ascontiguousarray(run[:, layer == i], np.float32) for run in runs] for i in np.unique(layer)]
    for group in groups:
        start, used = time.perf_counter(), time.process_time()
        for part in parts:
            group_ica([ArraySource(lambda x=x: x, *x.shape) for x in part], 10, group=group, random_state=0)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        print(f"{len(parts)} layers, {group}: {seconds:.1f} s, {used:.1f} of processor time", flush=True)


def main():
    """Print one table per series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="*", default=list(SERIES), help=", ".join(SERIES))
    parser.add_argument("--largest", type=int, default=131072, help="largest number of tokens per run")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--study", help="decompose each layer of this recording, and nothing else")
    args = parser.parse_args()
    if args.study:
        layers_of(args.study, args.groups)
        return
    for name in args.series:
        print(f"\n| {SERIES[name][0][0]} | " + " | ".join(f"{g}: wall, processor (s)" for g in args.groups) + " |")
        print("| --- " * (len(args.groups) + 1) + "|")
        for _, shown, change in SERIES[name]:
            sizes = {**BASE, **change}
            if sizes["n_tokens"] > args.largest:
                continue
            runs, _ = planted(**sizes)
            cells = []
            for group in args.groups:
                start, used = time.perf_counter(), time.process_time()
                group_ica(runs, sizes["n_components"], group=group, n_init=3, warn=False)
                cells.append(f"{time.perf_counter() - start:.1f}, {time.process_time() - used:.1f}")
            print(f"| {shown} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
