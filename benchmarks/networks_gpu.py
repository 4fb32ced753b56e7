"""Networks on one GPU: the decomposition of a model of 7B parameters, layer by layer and as a whole.

    PYTHONPATH=. python benchmarks/networks_gpu.py            all problems with checks and floors, then a table
    PYTHONPATH=. python benchmarks/networks_gpu.py --small    the same code on a small problem, on any device

Layers: 32 x (10240 tokens x 22016 signals), 128 components each, cube contrast, at most 300 steps. Whole model: 10240
tokens x 704512 signals, 128 components. The data are planted (sparse, heavy-tailed maps, Gaussian courses, noise) in
bfloat16 and are on the device when the clock starts; z-scoring is timed. Every run asserts that the maps are
orthonormal, that the planted networks are found, and that the maps are those of a float64 reference. Engine: the
estimators' engine on the device against the CPU, on independent runs that share planted networks (2 x 1024 tokens x
200,000 signals, 32 components), and on runs that are copies of one, where it has to fall back. Needs torch, numpy and
scipy.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from llmbrain.networks.engines import ica
from llmbrain.networks.engines import layered as batch
from llmbrain.networks.engines.contrasts import Cube
from llmbrain.networks.engines.group import group_ica
from llmbrain.networks.engines.ica import draw_rotations
from llmbrain.networks.engines.linalg import polar_factor, symmetric_decorrelation


def planted(n_tokens, n_signals, n_networks, device, seed, snr=0.5, density=0.03, dtype=torch.bfloat16, maps_seed=None):
    """One layer and what z-scoring leaves of its planted maps, which runs of one ``maps_seed`` share."""
    generator = torch.Generator(device).manual_seed(seed if maps_seed is None else maps_seed)
    uniform = torch.rand(n_networks, n_signals, generator=generator, device=device)
    sizes = torch.empty(n_networks, n_signals, device=device).exponential_(generator=generator)
    signs = torch.randint(0, 2, (n_networks, n_signals), generator=generator, device=device) * 2 - 1
    maps = (uniform < density) * sizes * signs
    maps *= snr / (maps.square().sum() / n_signals).sqrt()
    if maps_seed is not None:
        generator.manual_seed(seed)
    x = torch.empty(n_tokens, n_signals, dtype=dtype, device=device)
    for part in x.split(512):
        courses = torch.randn(len(part), n_networks, generator=generator, device=device)
        noise = torch.randn(part.shape, generator=generator, device=device)
        part.copy_(noise.addmm_(courses, maps))
    return x, maps / (1 + maps.square().sum(0)).sqrt()


def match(a, b):
    """Best one-to-one absolute correlations of maps."""
    a, b = (m.double() - m.double().mean(1, keepdim=True) for m in (a, b))
    a, b = (m / torch.linalg.vector_norm(m, dim=1, keepdim=True) for m in (a, b))
    table = (a @ b.T).abs().cpu().numpy()
    return table[linear_sum_assignment(-table)]


def reference(x, k, max_iter=300, tol=1e-4):
    """The same model in float64 throughout, with full eigendecompositions."""
    x = x.double()
    x = (x - x.mean(0)) / x.std(0)
    values, vectors = torch.linalg.eigh(x @ x.T)
    rows = vectors[:, -k:].T @ x
    rows -= rows.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(rows @ rows.T / x.shape[1])
    z = (vectors / values.sqrt()).T @ rows
    w = draw_rotations(1, k, 1)[0].to(x.device)
    for step in range(1, max_iter + 1):  # noqa: B007
        y = w @ z
        new = symmetric_decorrelation((y**3) @ z.T / z.shape[1] - 3 * (y * y).mean(1)[:, None] * w)
        limit = ((new * w).sum(1).abs() - 1).abs().max()
        w = new
        if limit < tol:
            break
    return w @ z, step


ROWS = []  # of the final table


def row(problem, seconds, floor="", found="", against=""):
    """Add a line to the table."""
    ROWS.append(f"| {problem} | **{seconds:.2f}** | {floor} | {found} | {against} |")


class Clock:
    """Seconds on the device."""

    def __init__(self, device):
        self.device = device

    def __call__(self, function, repeat=1):
        times, result = [], None
        for _ in range(repeat):
            del result
            self.wait()
            start = time.perf_counter()
            result = function()
            self.wait()
            times.append(time.perf_counter() - start)
        return min(times), result, times

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def floors(device, clock, small):
    """Measured rates: copying, products in bfloat16 and float32."""
    n = 1 << (22 if small else 31)
    a = torch.zeros(n, dtype=torch.bfloat16, device=device)
    seconds, _, _ = clock(lambda: a.clone(), 3)
    bandwidth = 4 * n / seconds
    del a
    m = 256 if small else 8192
    rates = []
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(m, m, device=device).to(dtype)
        seconds, _, _ = clock(lambda a=a: a @ a, 5)
        rates.append(2 * m**3 / seconds)
    print(f"measured: copy {bandwidth / 1e12:.2f} TB/s, bfloat16 {rates[0] / 1e12:.0f} Tflop/s, "
          f"float32 {rates[1] / 1e12:.1f} Tflop/s")  # fmt: skip
    return bandwidth, rates


def least_time(shape, k, steps, n_power, bandwidth, rates, extra=32):
    """Lower bound of the seconds of each phase: the larger of the times of its memory traffic and its products."""
    n_layers, n_tokens, n_signals = shape
    p, data = k + extra, n_layers * n_tokens * n_signals
    cleaning = 3 * 2 * data / bandwidth  # two reads, one write
    passes = 2 * n_power + 2
    power = max(passes * 2 * data / bandwidth, passes * 2 * data * p / rates[0])
    white = n_layers * k * n_signals
    step = max(3 * 4 * white / bandwidth, 4 * white * k / rates[1])  # reads Z, writes and reads y once
    return cleaning, power, steps * step


def describe(label, times, floor, result, n_power):
    steps = result.n_iter.float()
    print(
        f"{label}: {min(times):.3f} s (all {[round(t, 3) for t in times]}), {n_power} power iterations; steps mean "
        f"{steps.mean():.0f}, most {int(steps.max())}; {int(result.converged.sum())} of {len(steps)} converged"
    )
    print(f"  floor: cleaning {floor[0]:.3f} + subspace {floor[1]:.3f} + FastICA {floor[2]:.3f} = {sum(floor):.3f} s; "
          f"{min(times) / sum(floor):.1f} x the floor")  # fmt: skip


def check(result, truths, need):
    """Assert that maps are orthonormal and planted networks found; mean and worst correlation over all layers."""
    v, all_found = result.maps.shape[-1], []
    for i, truth in enumerate(truths):
        maps = result.maps[i].double()
        error = (maps @ maps.T / v - torch.eye(len(maps), device=maps.device)).abs().max().item()
        found = match(truth, maps)
        all_found.append(found)
        if i < 3 or i == len(truths) - 1:
            print(f"  layer {i}: orthonormal to {error:.1e}; planted networks found with |r| mean {found.mean():.4f}, "
                  f"worst {found.min():.4f}")  # fmt: skip
        assert error < 1e-3, f"layer {i}: maps are not orthonormal, {error:.1e}"
        assert torch.isfinite(maps).all()
        assert found.mean() > need, f"layer {i}: planted networks were found with {found.mean():.3f} only"
    return f"{np.mean(all_found):.3f} ({np.min(all_found):.3f})"


def _subspaces(layers, k, n_power):
    for group in batch._groups(layers, k):
        yield batch.leading_signals(group, k, n_iter=n_power)


def phases(layers, k, clock, n_power):
    """Time of each phase on its own."""
    t0, _, _ = clock(lambda: [batch.standardize_(x) for x in layers])
    t1, found, _ = clock(lambda: list(_subspaces(layers, k, n_power)))
    t2, (z, _), _ = clock(lambda: batch.whiten_rows(torch.cat([f[0] for f in found])))
    starts = draw_rotations(len(z), k, 0, z.device)[:, None]
    t3, (w, *_), _ = clock(lambda: ica.batched_fastica(z, starts))
    t4, _, _ = clock(lambda: ica._batched_step(Cube(), z, w))
    t5, _, _ = clock(lambda: polar_factor(w))
    print(f"  phases: z-score {t0:.3f}, subspace {t1:.3f}, whitening {t2:.3f}, FastICA {t3:.3f} s; a step of the cube "
          f"{1e3 * t4:.2f} ms, one polar factor {1e3 * t5:.2f} ms")  # fmt: skip


def layered(args, device, clock, rates):
    n_layers, t, s, k = (4, 300, 900, 8) if args.small else (32, 10240, 22016, 128)
    for n_networks, label in ((k, "as many networks as components"), (k // 2, "half as many networks")):
        layers, truths = zip(*(planted(t, s, n_networks, device, seed, snr=args.snr) for seed in range(n_layers)))
        batch.layered_ica([x[:256] for x in layers[:2]], min(k, 16))  # libraries and kernels are loaded once
        _, result, times = clock(lambda layers=layers: batch.layered_ica(layers, k, n_power=args.power), args.repeat)
        floor = least_time((n_layers, t, s), k, float(result.n_iter.float().mean()), args.power, *rates)
        title = f"{n_layers} layers x {t} x {s}, {k} components, {label}"
        describe(title, times, floor, result, args.power)
        of_planted, against = check(result, truths, args.need), []
        phases(layers, k, clock, args.power)
        for i in (0,) if n_networks < k else (0, n_layers // 2):
            exact, steps = reference(layers[i], k)
            r, of_truth = match(exact, result.maps[i]), match(truths[i], exact)
            stable = np.sort(r)[-n_networks:]
            print(f"  layer {i} against float64 ({steps} steps): |r| of {n_networks} networks mean {stable.mean():.4f} "
                  f"(worst {stable.min():.4f}); all {k} components {r.mean():.4f}; float64 finds the planted ones with "
                  f"{of_truth.mean():.4f}")  # fmt: skip
            assert stable.mean() >= 0.99, "the maps are not those of the float64 reference"
            against.append(f"{stable.mean():.4f}")
        row(title, min(times), _floor(times, floor), of_planted, ", ".join(against))
        if n_networks == k and args.public:
            public(layers[0], k, clock)
        del layers, truths, result


def public(x, k, clock):
    """Published method for one layer: a full SVD, then FastICA with an eigendecomposition per step."""

    def run():
        z = x.float()
        u, _, _ = torch.linalg.svd(z.T, full_matrices=False)
        rows = u[:, :k].T.contiguous()
        rows = rows - rows.mean(1, keepdim=True)
        u, sv, _ = torch.linalg.svd(rows, full_matrices=False)
        z = (u / sv).T @ rows * rows.shape[1] ** 0.5
        w = draw_rotations(1, k, 0)[0].to(z)
        for _ in range(300):
            y = w @ z
            new = symmetric_decorrelation((y**3) @ z.T / z.shape[1] - 3 * (y * y).mean(1)[:, None] * w)
            limit = float(((new * w).sum(1).abs() - 1).abs().max())
            w = new
            if limit < 1e-4:
                break
        return w @ z

    seconds, _, _ = clock(run)
    print(f"  the published way (full SVD, then FastICA) for one layer: {seconds:.2f} s")
    row("published way (full SVD, then FastICA), **one** layer, same run", seconds)


def _floor(times, floor):
    return f"{sum(floor):.3f}, {min(times) / sum(floor):.1f} x"


def whole(args, device, clock, rates):
    t, s, k = (300, 5000, 8) if args.small else (10240, 704512, 128)
    x, truth = planted(t, s, k, device, 1, snr=args.snr)
    _, result, times = clock(lambda: batch.layered_ica([x], k, n_power=args.power), args.repeat)
    floor = least_time((1, t, s), k, float(result.n_iter.float().mean()), args.power, *rates)
    title = f"whole model, {t} x {s}, {k} components"
    describe(title, times, floor, result, args.power)
    row(title, min(times), _floor(times, floor), check(result, [truth], args.need))
    phases([x], k, clock, args.power)


def engine(args, device, clock, _):
    """The engine of the estimators on the device against the CPU: the same maps from runs in host memory."""
    t, s, k = (200, 2000, 5) if args.small else (1024, 200_000, 32)
    cpu = torch.device("cpu")
    made = [planted(t, s, k, cpu, 7 + i, snr=args.snr, dtype=torch.float32, maps_seed=7) for i in range(2)]
    truth, runs = made[0][1], [x.numpy() for x, _ in made]
    copies = [runs[0], np.ascontiguousarray(runs[0][::-1])]
    for options in ({"group": "tokens"}, {"group": "runs"}, {}, {"contrast": "logcosh"}):
        title = ", ".join(f"{a}={b}" for a, b in options.items()) or "defaults"
        _compare(f"{title}: 2 x {t} x {s}", runs, truth, k, options, args, device, clock)
    for options in ({"group": "runs"}, {}):  # a flat spectrum: the runs share everything equally well
        title = ", ".join(f"{a}={b}" for a, b in options.items()) or "defaults"
        _compare(f"{title}, copies: 2 x {t} x {s}", copies, truth, k, options, args, device, clock, flat=True)


def _compare(title, runs, truth, k, options, args, device, clock, flat=False):
    """Time one decomposition on the device, and assert that its maps are those of the CPU and the planted ones."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seconds, fast, _ = clock(lambda: group_ica(runs, k, device=device, **options))
        start = time.perf_counter()
        slow = group_ica(runs, k, **options)
        on_cpu = time.perf_counter() - start
    said = sum("share more directions" in str(w.message) for w in caught)
    r, found = (
        match(torch.from_numpy(slow.maps), torch.from_numpy(fast.maps)),
        match(truth, torch.from_numpy(fast.maps)),
    )
    print(f"engine, {title}: {seconds:.2f} s on the device, {on_cpu:.2f} s on the CPU; maps |r| worst {r.min():.5f}, "
          f"planted {found.mean():.4f}; group {fast.group}, {fast.converged.sum()} starts converged"
          f"{', fell back' if fast.flat else ''}")  # fmt: skip
    assert fast.group == slow.group and fast.converged.any()
    assert r.min() > 0.99, "the maps are not those of the CPU"
    assert found.mean() > (args.need if not flat else 0.9 * args.need), f"planted networks: {found.mean():.3f} only"
    assert fast.flat == slow.flat == flat and said == 2 * flat, "copies of a run must be noticed, and nothing else"
    row(f"estimators' engine, {title}, {k} components, 10 starts; CPU {on_cpu:.1f} s", seconds,
        found=f"worst \\|r\\| with the CPU's maps {r.min():.4f}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", nargs="*", default=["layers", "whole", "engine"], help="layers, whole, engine")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--public", action="store_true", help="also time a full SVD and FastICA for one layer")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--power", type=int, default=8, help="power iterations")
    parser.add_argument("--snr", type=float, default=0.5)
    parser.add_argument(
        "--need", type=float, default=0.8, help="smallest accepted mean correlation with the planted networks"
    )
    args = parser.parse_args()
    args.need = min(args.need, 0.6) if args.small else args.need  # a few tokens find less
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}")
    torch.set_float32_matmul_precision("highest")
    clock = Clock(device)
    rates = floors(device, clock, args.small)
    for problem in args.problem:
        {"layers": layered, "whole": whole, "engine": engine}[problem](args, device, clock, rates)
    print("\n| problem | seconds | floor (bytes and operations) | planted \\|r\\| mean (worst) | against float64 |")
    print("| --- | --- | --- | --- | --- |", *ROWS, sep="\n")
    if device.type == "cuda":
        print(f"peak of device memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
