"""Time one command in two checkouts in turn, and compare the shortest and the median wall times.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py ../before . -- benchmarks/networks_cpu.py demo wide --fast-only --repeat 1
    python benchmarks/before_after.py ../before . -- benchmarks/recording.py --tokens 4000
    python benchmarks/before_after.py ../before . --repeat 1 -- -m llmbrain.cli run --model demo --out STUDY

What follows ``--`` is passed to Python in each checkout, with the checkout's own package first on the path. ``STUDY``
becomes a new folder for every run. The checkouts take turns and the first one alternates, so that a slowdown of the
machine affects both. ``--show`` prints the output of the commands, for benchmarks and stations that time themselves.
Run it on a quiet machine; both checkouts use the packages of the same environment.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds_of(checkout, command, show):
    """Run a Python command in a checkout; returns its wall time."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, *(str(Path(folder, "study")) if word == "STUDY" else word for word in command)]
        start = time.perf_counter()
        subprocess.run(words, cwd=checkout, env=environment, check=True, stdout=None if show else subprocess.DEVNULL)
        return time.perf_counter() - start


def main():
    """Print the times of both checkouts and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout of the earlier commit")
    parser.add_argument("after", type=Path, help="checkout of the later commit")
    parser.add_argument("command", nargs="+", help="arguments of python, after --")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each checkout")
    parser.add_argument("--show", action="store_true", help="print the output of the commands")
    args = parser.parse_args()
    checkouts = [args.before.resolve(), args.after.resolve()]
    times = {checkout: [] for checkout in checkouts}
    for turn in range(args.repeat):
        for checkout in checkouts[:: 1 if turn % 2 == 0 else -1]:
            times[checkout].append(seconds_of(checkout, args.command, args.show))
            print(f"{checkout.name}: {times[checkout][-1]:.2f} s", flush=True)
    for name, measure in (("shortest", min), ("median", statistics.median)):
        before, after = (measure(times[checkout]) for checkout in checkouts)
        print(f"{name}: {before:.2f} s before, {after:.2f} s after, ratio {after / before:.3f}")


if __name__ == "__main__":
    main()
