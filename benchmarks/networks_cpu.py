"""Networks on the CPU: stock nilearn and the fast engine on the same files, in one run.

    python benchmarks/networks_cpu.py                     all cases, stock beside fast (about an hour on 2 cores)
    python benchmarks/networks_cpu.py wide --fast-only    one case, the fast engine alone
    python benchmarks/networks_cpu.py recovery            recovery of planted networks over a range of SNR

Every measurement is a fresh process that reads NIfTI files, so times hold loading and cleaning, and the peak of memory
is its own. Data are planted: sparse, heavy-tailed, scattered maps with Gaussian courses under Gaussian noise.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

CASES = {
    # name: layers, neurons a layer, tokens, runs, components, planted networks
    "small": (8, 1024, 256, 2, 8, 8),
    "wide": (32, 11008, 512, 1, 20, 64),
    "group": (32, 10938, 256, 8, 64, 64),
    "many": (20, 5000, 256, 8, 128, 64),
    "demo": (30, 1536, 4096, 4, 20, 20),
}


def write_case(folder, layers, width, n_tokens, n_runs, _, n_networks, snr=0.5, density=0.03, seed=0):
    """Write the runs of a case as NIfTI files and return their paths and the planted maps."""
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


def fit(engine, paths, geometry, n_components, n_init=10, group="auto"):
    """Fit one engine: maps, steps of FastICA, share of converged starts."""
    if engine == "nilearn":
        from nilearn.decomposition import CanICA

        found = CanICA(
            geometry.mask_img,
            n_components,
            smoothing_fwhm=None,
            threshold=None,
            n_init=n_init,
            random_state=0,
            standardize="zscore_sample",
            detrend=False,
        ).fit(paths)
        return found.components_, None
    from llmbrain.networks import CanICA

    solver = {"group": "runs", "rows_per_run": 1} if group == "same" else {"group": group}
    found = CanICA(n_components, geometry=geometry, n_init=n_init, solver_params=solver).fit(paths)
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
    start = time.perf_counter()
    maps, n_iter = fit(spec["engine"], spec["paths"], geometry, spec["n_components"], group=spec["group"])
    seconds = time.perf_counter() - start
    extra = memory("VmHWM") - base
    np.save(spec["out"], maps)
    print(json.dumps({"seconds": seconds, "extra_gib": extra, "n_iter": n_iter}))


def memory(field):
    """Resident memory of this process now (VmRSS) or at its highest (VmHWM), in GiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 2**20


def measure(folder, engine, geometry, paths, n_components, group="auto", repeat=1):
    """Best of several fresh processes."""
    out = str(Path(folder) / f"{engine}-{group}.npy")
    spec = {
        "engine": engine,
        "paths": paths,
        "geometry": geometry.to_dict(),
        "n_components": n_components,
        "group": group,
        "out": out,
    }
    results = []
    for _ in range(repeat):
        done = subprocess.run(
            [sys.executable, __file__, "--child", json.dumps(spec)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    best = min(results, key=lambda r: r["seconds"])
    best["all_seconds"] = [round(r["seconds"], 2) for r in results]
    return best, np.load(out)


def match(a, b):
    """Best one-to-one absolute correlations of maps."""
    from scipy.optimize import linear_sum_assignment

    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (a, b))
    table = np.abs(a @ b.T)
    rows, cols = linear_sum_assignment(-table)
    return table[rows, cols]


def run_case(name, fast_only, repeat, folder):
    """One case, stock beside fast."""
    case = CASES[name]
    geometry, paths, truth = write_case(folder, *case)
    run_gib = geometry.n_voxels * case[2] * 4 / 2**30
    shape = f"{geometry.n_neurons} neurons x {case[2]} tokens x {case[3]} runs, {case[4]} components, n_init 10"
    print(f"\n{name}: {shape}; one float32 run is {run_gib:.2f} GiB", flush=True)
    rows = [("fast", "torch", "auto"), ("fast, nilearn's group model", "torch", "same")]
    if case[3] == 1:
        rows = rows[:1]
    if not fast_only:
        rows.append(("stock nilearn", "nilearn", "-"))
    maps, seconds = {}, {}
    for label, engine, group in rows:
        best, maps[label] = measure(
            folder, engine, geometry, paths, case[4], group, 1 if engine == "nilearn" else repeat
        )
        seconds[label] = best["seconds"]
        found = match(truth, maps[label])
        print(
            f"  {label:28s} {best['seconds']:8.2f} s {best['all_seconds']}  memory {best['extra_gib']:.2f} GiB = "
            f"{best['extra_gib'] / run_gib:.2f} runs  recovery {found.mean():.3f} (worst {found.min():.3f})  "
            f"steps {sum(best['n_iter']) if best['n_iter'] else '-'}",
            flush=True,
        )
    if not fast_only:
        for label, _, _ in rows[:-1]:
            r = match(maps["stock nilearn"], maps[label])
            print(
                f"  {label}: {seconds['stock nilearn'] / seconds[label]:.1f} x faster; maps against stock: mean |r| "
                f"{r.mean():.3f}, worst {r.min():.3f}"
            )


def recovery():
    """Planted networks over a range of SNR: stock, same group model, rows per run, all tokens."""
    from llmbrain.networks import group_ica

    print("SNR    stock   same model   runs, 5 C rows   default (tokens or runs)")
    for snr in (0.08, 0.10, 0.12, 0.15, 0.20, 0.35, 0.50, 1.0):
        with tempfile.TemporaryDirectory() as folder:
            geometry, paths, truth = write_case(folder, 20, 1000, 512, 4, 20, 20, snr=snr)
            runs = [geometry.to_array(p) for p in paths]
            stock, _ = fit("nilearn", paths, geometry, 20, n_init=3)
            found = [match(truth, stock)]
            for options in ({"group": "runs", "rows_per_run": 1}, {"group": "runs"}, {}):
                found.append(match(truth, group_ica(runs, 20, n_init=3, warn=False, **options).maps))
        print(f"{snr:4.2f}  " + "   ".join(f"{f.mean():.3f} ({f.min():.3f})" for f in found), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", default=["wide", "group", "many", "recovery"], help=", ".join(CASES))
    parser.add_argument("--fast-only", action="store_true")
    parser.add_argument("--repeat", type=int, default=3, help="processes of the fast engine; the best one counts")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    for name in args.case:
        if name == "recovery":
            warnings.simplefilter("ignore")
            recovery()
            continue
        with tempfile.TemporaryDirectory() as folder:
            run_case(name, args.fast_only, args.repeat, folder)


if __name__ == "__main__":
    main()
