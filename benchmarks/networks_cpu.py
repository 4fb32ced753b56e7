"""Compare stock nilearn and the fast engine on the CPU, on the same files in one run.

    python benchmarks/networks_cpu.py                      every case, stock beside fast (about 65 minutes on 2 cores)
    python benchmarks/networks_cpu.py wide recovery        some cases
    python benchmarks/networks_cpu.py wide --fast-only     the fast engine alone; nothing is stored
    python benchmarks/networks_cpu.py --table              the tables of what is stored, as markdown

Every measurement is a fresh process that reads NIfTI files, so times include loading and cleaning, and the peak of
memory is its own. Results are stored at once (``benchmarks/results/networks_cpu.json``). To resume an interrupted run,
repeat the call; ``--again`` deletes the results of the named cases first. Planted data are sparse, heavy-tailed,
scattered maps with Gaussian courses under Gaussian noise.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "networks_cpu.json"
CASES = {
    # name: layers, neurons per layer, tokens, runs, components, planted networks, target (times faster)
    "small": (8, 1024, 256, 2, 8, 8, None),
    "wide": (32, 11008, 512, 1, 20, 64, 20),
    "group": (32, 10938, 256, 8, 64, 64, 10),
    "many": (20, 5000, 256, 8, 128, 64, 10),
}
DEMO = (8, 1024, 20)  # runs of the demo recording, tokens of each, components
SNRS = (0.08, 0.10, 0.12, 0.15, 0.20, 0.35, 0.50, 1.0)
EVERY = ("wide", "group", "many", "demo", "recovery", "parity")
SAME = {"group": "runs", "rows_per_run": 1}  # nilearn's model step by step
STOCK, FAST, FAST_SAME = "stock nilearn", "fast", "fast, nilearn's group model"

INTRODUCTION = """`python benchmarks/networks_cpu.py` on {machine}.
Each figure is the best of several fresh processes that read NIfTI files, stock and fast in turn; `n_init=10` for both.
Memory is the peak above what the imports take, in units of one float32 run. Every measurement, with the load of the
machine before it: `results/networks_cpu.json`."""
RECOVERY = """Planted networks found, mean \\|r\\| (worst), over a range of SNR (20 networks in 20,000 neurons, 4 runs
of 512 tokens, 3 starts):"""
PARITY = """Parity with the same settings (`solver_params=dict(group="runs", rows_per_run=1)`). Stability is Iq x
coverage x r of ICASSO over bootstrapped runs, the same draws for both engines; from 0.7 a network is stable."""


# -- data -----------------------------------------------------------------------------------------------------------
def write_case(folder, layers, width, n_tokens, n_runs, n_networks, snr=0.5, density=0.03, seed=0):
    """Write planted runs as NIfTI files and return their geometry, their paths and the planted maps."""
    import nibabel as nib

    from llmbrain.geometry import NeuronGeometry

    geometry = NeuronGeometry.from_sizes([width] * layers)
    rng = np.random.default_rng(seed)
    v = geometry.n_neurons
    maps = np.zeros((n_networks, v), np.float32)
    for row in maps:
        chosen = rng.choice(v, round(density * v), replace=False)
        row[chosen] = rng.laplace(size=len(chosen))
    maps *= snr / np.sqrt(np.square(maps).sum() / v)
    paths = []
    for r in range(n_runs):
        run = rng.standard_normal((n_tokens, n_networks), dtype=np.float32) @ maps
        for row in run:
            row += rng.standard_normal(v, dtype=np.float32)
        paths.append(str(Path(folder) / f"run{r}.nii"))
        nib.save(geometry.to_img(run), paths[-1])
    return geometry, paths, maps / np.sqrt(1 + np.square(maps).sum(0))


def demo_recording(folder, study=None, n_runs=DEMO[0], n_tokens=DEMO[1]):
    """Geometry and paths of runs of the demo model on the demo corpus, of one length."""
    import llmbrain as lb

    if study is None and not (Path(folder) / "study" / "study.json").is_file():
        model, tokenizer = lb.load_model("demo")
        corpus = lb.load_corpus("demo", split="train")
        options = {"max_tokens": n_runs * n_tokens, "tokens_per_run": n_tokens, "progress": False}
        lb.record(model, tokenizer, corpus, out=Path(folder) / "study", **options)
    recording = lb.open_recording(study or Path(folder) / "study")
    return recording.geometry, recording.paths[:n_runs], None


def n_tokens_of(paths):
    """Tokens of the longest run."""
    import nibabel as nib

    return max(nib.load(path).shape[3] for path in paths)


# -- one measurement ------------------------------------------------------------------------------------------------
def fit(engine, paths, geometry, n_components, n_init=10, seed=0):
    """Fit one engine: maps, steps of FastICA of every start (unknown of nilearn)."""
    if engine == STOCK:
        from nilearn.decomposition import CanICA

        found = CanICA(
            geometry.mask_img,
            n_components,
            smoothing_fwhm=None,
            threshold=None,
            n_init=n_init,
            random_state=seed,
            standardize="zscore_sample",
            detrend=False,
        ).fit(paths)
        return found.components_, None
    from llmbrain.networks import CanICA

    solver = SAME if engine == FAST_SAME else None
    found = CanICA(n_components, geometry=geometry, n_init=n_init, random_state=seed, solver_params=solver).fit(paths)
    return found.components_, found.n_iter_.tolist()


def child(spec):
    """Measure one fit in this process and print it as JSON."""
    from llmbrain.geometry import NeuronGeometry

    spec = json.loads(spec)
    geometry = NeuronGeometry.from_dict(spec["geometry"])
    import nilearn.decomposition  # noqa: F401  the price of the imports is not the engine's
    import torch  # noqa: F401

    import llmbrain.networks.canica  # noqa: F401

    base = memory("VmRSS")
    warnings.simplefilter("ignore")
    start, used = time.perf_counter(), time.process_time()
    maps, n_iter = fit(spec["engine"], spec["paths"], geometry, spec["n_components"])
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    extra = memory("VmHWM") - base
    np.save(spec["out"], maps)
    print(json.dumps({"seconds": seconds, "processor_seconds": processor, "extra_gib": extra, "n_iter": n_iter}))


def memory(field):
    """Resident memory of this process now (VmRSS) or at its highest (VmHWM), in GiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 2**20


def measure(folder, engine, geometry, paths, n_components):
    """One fit in a fresh process; its maps are left in the folder."""
    out = map_file(folder, engine)
    spec = {
        "engine": engine,
        "paths": [str(p) for p in paths],
        "geometry": geometry.to_dict(),
        "n_components": n_components,
        "out": str(out),
    }
    load = os.getloadavg()[0]
    command = [sys.executable, __file__, "--child", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {**json.loads(done.stdout.splitlines()[-1]), "load_before": round(load, 2)}


def map_file(folder, engine):
    """File of the maps of an engine."""
    return Path(folder) / f"maps-{''.join(c for c in engine if c.isalpha())}.npy"


def match(a, b):
    """Best one-to-one absolute correlations of maps, in the order of ``a``."""
    from scipy.optimize import linear_sum_assignment

    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (a, b))
    table = np.abs(a @ b.T)
    rows, cols = linear_sum_assignment(-table)
    return table[rows, cols]


# -- cases ----------------------------------------------------------------------------------------------------------
class Store:
    """Measurements in a JSON file."""

    def __init__(self, path, keep=True):
        self.path, self.keep = Path(path), keep
        self.data = json.loads(self.path.read_text()) if keep and self.path.is_file() else {}

    def case(self, name):
        """Measurements of one case."""
        return self.data.setdefault(name, {})

    def save(self):
        """Write the file under another name and rename it."""
        if not self.keep:
            return
        self.path.parent.mkdir(exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1) + "\n")
        part.replace(self.path)


def timed(name, store, folder, args):
    """One case of speed and memory, stock beside fast."""
    if name == "demo":
        geometry, paths, truth = demo_recording(folder, args.study)
        k, n_tokens = DEMO[2], n_tokens_of(paths)
        label = f"demo recording: {geometry.n_neurons} x {n_tokens} x {len(paths)} runs, {k} components"
        target = 10
    else:
        layers, width, n_tokens, n_runs, k, planted, target = CASES[name]
        geometry, paths, truth = write_case(folder, layers, width, n_tokens, n_runs, planted)
        label = f"{name}: {geometry.n_neurons} x {n_tokens} x {n_runs} runs, {k} components"
    case = store.case(name)
    run_gib = geometry.n_voxels * n_tokens * 4 / 2**30
    case.update(label=label, run_gib=run_gib, target=target, machine=machine())
    print(f"\n{label}, n_init 10; one float32 run is {run_gib:.2f} GiB", flush=True)
    engines = {FAST: args.repeat, FAST_SAME: args.repeat, STOCK: args.stock_repeat or (1 if name == "many" else 2)}
    if len(paths) == 1:
        del engines[FAST_SAME]  # of a single run the two group models are the same
    if args.fast_only:
        engines.pop(STOCK)
    for i in range(max(engines.values())):
        for engine, wanted in engines.items():  # in turn, so that all of them meet the same hours of the machine
            done = case.setdefault(engine, {"runs": []})
            if i < wanted and len(done["runs"]) <= i:
                done["runs"].append(measure(folder, engine, geometry, paths, k))
                _describe(done, np.load(map_file(folder, engine)), truth)
                print(f"  {engine:28s} {_line(done, run_gib)}", flush=True)
                store.save()
    for engine in (FAST, FAST_SAME):
        if STOCK in case and engine in case and all(map_file(folder, e).is_file() for e in (STOCK, engine)):
            r = match(np.load(map_file(folder, STOCK)), np.load(map_file(folder, engine)))
            case[engine]["against_stock"] = [float(x) for x in np.sort(r)]
            print(
                f"  {engine}: {speed_up(case, engine):.1f} x faster; maps against stock {r.mean():.3f}, {r.min():.3f}"
            )
    store.save()


def _describe(done, maps, truth):
    best = min(done["runs"], key=lambda r: r["seconds"])
    done.update({k: best[k] for k in ("seconds", "processor_seconds", "extra_gib", "n_iter")})
    if truth is not None:
        found = match(truth, maps)
        done["recovery"] = [float(found.mean()), float(found.min())]


def _line(done, run_gib):
    last = done["runs"][-1]
    found = f"recovery {done['recovery'][0]:.3f} (worst {done['recovery'][1]:.3f})" if "recovery" in done else ""
    return (
        f"{last['seconds']:8.2f} s (processor {last['processor_seconds']:.2f} s, load {last['load_before']})  memory "
        f"{last['extra_gib']:.2f} GiB = {last['extra_gib'] / run_gib:.2f} runs  {found}  "
        f"steps {sum(last['n_iter']) if last['n_iter'] else '-'}"
    )


def speed_up(case, engine):
    """Ratio of the best times of stock and fast."""
    return case[STOCK]["seconds"] / case[engine]["seconds"]


def recovery(store, folder, args):
    """Planted networks over a range of SNR: stock, exact Gram, rows per run, no reduction of runs, default."""
    from llmbrain.networks import group_ica

    case = store.case("recovery")
    models = {"exact": SAME, "more_rows": {"group": "runs"}, "tokens": {"group": "tokens"}, "default": {}}
    print("\nrecovery, mean (worst) |r|: stock, " + ", ".join(models))
    for snr in SNRS:
        key = f"{snr:g}"
        if key not in case:
            geometry, paths, truth = write_case(folder, 20, 1000, 512, 4, 20, snr=snr)
            runs = [geometry.to_array(p) for p in paths]
            found = {} if args.fast_only else {"stock": match(truth, fit(STOCK, paths, geometry, 20, n_init=3)[0])}
            for name, options in models.items():
                found[name] = match(truth, group_ica(runs, 20, n_init=3, warn=False, **options).maps)
            case[key] = {k: [float(f.mean()), float(f.min())] for k, f in found.items()}
            store.save()
        print(f"{snr:5.2f}  " + "   ".join(f"{a:.3f} ({b:.3f})" for a, b in case[key].values()), flush=True)


# -- parity ---------------------------------------------------------------------------------------------------------
def bootstrapped(engine, paths, geometry, k, n_repeats, seed=0):
    """Networks of resampled runs from other starts, for one engine: the same draws for both."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n_repeats):
        drawn = [paths[j] for j in rng.integers(len(paths), size=len(paths))]
        found.append(fit(engine, drawn, geometry, k, n_init=1, seed=i)[0])
    return found


def parity(store, folder, args):
    """The same settings on both engines: correlation of the maps, and how stable each of them is by either engine."""
    case = store.case("parity")
    for name in ("planted", "demo"):
        if name in case:
            continue
        where = Path(folder) / name
        where.mkdir(exist_ok=True)
        if name == "planted":  # 20 networks and 5 components too many
            geometry, paths, _ = write_case(where, 20, 1000, 256, 8, 20)
            k = 25
        else:
            geometry, paths, _ = demo_recording(where, args.study, 8, 512)
            k = 20
        case[name] = {"label": f"{geometry.n_neurons} neurons x {len(paths)} runs, {k} components", "table": []}
        case[name]["table"] = compare(paths, geometry, k, args.bootstraps)
        store.save()
    for name, found in case.items():
        print(f"\nparity, {name}: {found['label']}")
        for row in found["table"]:
            print("  " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()))


def compare(paths, geometry, k, n_repeats, n_init=3):
    """One row per component of stock nilearn: r with the fast engine's, stability by both, agreement of seeds."""
    from llmbrain.networks.evidence.stability import icasso, score_networks

    first = {engine: fit(engine, paths, geometry, k, n_init)[0] for engine in (STOCK, FAST_SAME)}
    index, r = partners(first[STOCK], first[FAST_SAME])
    scores = {}
    for engine, maps in first.items():
        clusters = icasso(bootstrapped(engine, paths, geometry, k, n_repeats), n_networks=k)
        scores[engine] = score_networks(maps, clusters)["stability"].to_numpy()
    again = match(first[STOCK], fit(STOCK, paths, geometry, k, n_init, seed=1)[0])
    own = match(first[FAST_SAME], fit(FAST_SAME, paths, geometry, k, n_init, seed=1)[0])
    return [
        {
            "r": float(r[i]),
            "stability_stock": float(scores[STOCK][i]),
            "stability_fast": float(scores[FAST_SAME][index[i]]),
            "seeds_stock": float(again[i]),
            "seeds_fast": float(own[index[i]]),
        }
        for i in np.argsort(-scores[STOCK])
    ]


def partners(a, b):
    """One-to-one partner in ``b`` of every map of ``a``, and their absolute correlation."""
    from llmbrain.networks.evidence.matching import match_maps

    found = match_maps(a, b)
    return found.index, np.abs(found.score)


# -- tables ---------------------------------------------------------------------------------------------------------
def tables(data):
    """All stored results as a section in markdown."""
    lines = ["## Networks on the CPU", "", INTRODUCTION.format(machine=machine())]
    timed_cases = [c for n, c in data.items() if n not in ("recovery", "parity") and STOCK in c and FAST in c]
    if timed_cases:
        head = (
            "neurons x tokens x runs, components",
            "stock nilearn",
            "fast engine",
            "**times faster** (target)",
            "fast with nilearn's group model",
            "peak memory in runs: fast, stock",
            "planted networks found, mean (worst): fast, stock",
            "maps against stock, same model: mean (worst)",
        )
        lines += ["", "| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
        lines += [_timed_row(case) for case in timed_cases]
    if data.get("recovery"):
        names = {
            "stock": "stock nilearn",
            "exact": "exact Gram matrix, same chain",
            "more_rows": "exact, 5 C rows per run",
            "tokens": "without reduction of runs",
            "default": "**default**",
        }
        lines += ["", RECOVERY, "", "| SNR | " + " | ".join(names.values()) + " |", "| --- " * (len(names) + 1) + "|"]
        for snr, row in sorted(data["recovery"].items(), key=lambda item: float(item[0])):
            cells = (f"{row[n][0]:.3f} ({row[n][1]:.3f})" if n in row else "" for n in names)
            lines.append(f"| {snr} | " + " | ".join(cells) + " |")
    if data.get("parity"):
        lines += ["", PARITY]
    for name, found in data.get("parity", {}).items():
        lines += ["", *_parity_lines(name, found)]
    return "\n".join(lines)


def _timed_row(case):
    fast, stock = case[FAST], case[STOCK]
    same = case.get(FAST_SAME, fast)
    runs = [f"{x['extra_gib'] / case['run_gib']:.2f}" for x in (fast, stock)]
    found = [f"{x['recovery'][0]:.3f} ({x['recovery'][1]:.3f})" if "recovery" in x else "-" for x in (fast, stock)]
    r = np.array(same.get("against_stock", [np.nan]))
    other = f"{same['seconds']:.1f} s, {speed_up(case, FAST_SAME):.1f} x" if FAST_SAME in case else "the same"
    faster = f"**{speed_up(case, FAST):.1f}**" + (f" ({case['target']})" if case["target"] else "")
    cells = [
        case["label"],
        f"{stock['seconds']:.1f} s",
        f"{fast['seconds']:.1f} s",
        faster,
        other,
        ", ".join(runs),
        ", ".join(found),
        f"{r.mean():.3f} ({r.min():.3f})",
    ]
    return "| " + " | ".join(cells) + " |"


def _parity_lines(name, found):
    yield f"Parity, {name}: {found['label']}."
    yield ""
    yield "| components that are | number | \\|r\\| with the other engine: mean, least | two seeds of stock | of fast |"
    yield "| --- | --- | --- | --- | --- |"
    table = {k: np.array([row[k] for row in found["table"]]) for k in found["table"][0]}
    stock, fast = table["stability_stock"] >= 0.7, table["stability_fast"] >= 0.7
    groups = {
        "stable by both": stock & fast,
        "unstable by both": ~stock & ~fast,
        "stable by stock alone": stock & ~fast,
        "stable by fast alone": ~stock & fast,
    }
    for label, chosen in groups.items():
        if chosen.any():
            r, a, b = (table[k][chosen] for k in ("r", "seeds_stock", "seeds_fast"))
            yield f"| {label} | {chosen.sum()} | {r.mean():.4f}, {r.min():.4f} | {a.mean():.3f} | {b.mean():.3f} |"


def machine():
    """The processor and the versions, in words."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "CPU")
    versions = ", ".join(f"{n} {version(n)}" for n in ("numpy", "torch", "scikit-learn", "nilearn"))
    return f"{len(os.sched_getaffinity(0))} cores of {name}; {versions}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", default=EVERY, help=", ".join((*EVERY, "small")))
    parser.add_argument("--fast-only", action="store_true", help="skip stock nilearn and store nothing")
    parser.add_argument("--repeat", type=int, default=3, help="processes of the fast engine; the best one counts")
    parser.add_argument("--stock-repeat", type=int, help="processes of stock nilearn; 2, and 1 of the case many")
    parser.add_argument("--bootstraps", type=int, default=12, help="resampled fits of each engine for parity")
    parser.add_argument("--study", help="recording of the demo corpus, instead of making one")
    parser.add_argument("--again", action="store_true", help="delete the stored results of these cases first")
    parser.add_argument("--table", action="store_true", help="only print the stored results")
    parser.add_argument("--results", default=RESULTS, help="where measurements are stored")
    parser.add_argument("--scratch", help="folder of the data, kept until a case is complete")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    store = Store(args.results, keep=not args.fast_only)
    if args.table:
        print(tables(store.data))
        return
    warnings.simplefilter("ignore")
    scratch = Path(args.scratch or Path(tempfile.gettempdir()) / "llmbrain-networks-cpu")
    for name in args.case:
        if args.again:
            store.data.pop(name, None)
        folder = scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        run = {"recovery": recovery, "parity": parity}.get(name)
        if run:
            run(store, folder, args)
        else:
            timed(name, store, folder, args)
        shutil.rmtree(folder)
    print("\n" + tables(store.data))


if __name__ == "__main__":
    main()
