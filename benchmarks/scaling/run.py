"""How much faster several processes are than one: the five figures of docs/scaling.md, side by side in one run.

    python benchmarks/scaling/run.py --processes 1 4                     all pieces of work on four GPUs against one
    python benchmarks/scaling/run.py record prune --processes 1 2        some of them on two
    python benchmarks/scaling/run.py --small --processes 1 2             small problems on CPUs, with gloo

Every piece runs in turn with each number of processes, ``--rounds`` times, and the best counts. Prints the seconds, the
ratio to the first number, and the efficiency per process.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

WORK = ("lesion", "networks", "layers", "prune", "record")
HERE = Path(__file__).resolve().parent


def measure(work, n_processes, args):
    """Seconds of one piece of work, the best repetition of one launch, or NaN if it failed."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    options = ["--repeats", str(args.repeats), "--controls", str(args.controls), *(["--small"] if args.small else [])]
    command = [*launcher, str(HERE / "work.py"), work, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"work"')]
    if done.returncode or not lines:
        print(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}", flush=True)
        return float("nan")
    return min(json.loads(lines[-1])["seconds"])


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", choices=[*WORK, []], default=[])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1, help="in every launch, after the first of which all is warm")
    parser.add_argument("--controls", type=int, default=100, help="of the lesion study, whose cost is proportional")
    args = parser.parse_args()
    print("| work | processes | seconds | times faster | efficiency |\n| --- | --- | --- | --- | --- |")
    for work in args.work or WORK:
        found = {n: [] for n in args.processes}
        for _ in range(args.rounds):
            for n, seconds in found.items():
                seconds.append(measure(work, n, args))
        first = args.processes[0]
        for n, seconds in found.items():
            faster = min(found[first]) / min(seconds)
            print(f"| {work} | {n} | {min(seconds):.2f} | {faster:.2f} | {faster * first / n:.0%} |", flush=True)


if __name__ == "__main__":
    main()
