"""The fault matrix: try every kind of attack and count what held, was lost, silently wrong, or unclear.

``python tests/faults/matrix.py`` runs the long part: every case of every kind. ``--quick`` leaves out the long kinds
and tries a part of the others; ``--most N`` tries N cases of each kind, always the same ones; ``--kind`` chooses kinds
by a part of their name. ``--out`` writes the table as Markdown. ``--log`` names a file with one line for each case that
was tried: with it, the same command resumes where it stopped, and tries again what did not hold.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import attacks
import disks
import hooks
import places
import processes
import renames
import values
from room import Broken, Lost, Room, TooLong, Unclear, Wrong

KINDS = attacks.KINDS
QUICK = 8  # cases of each kind
SECONDS = 240  # that an attack may take
COLUMNS = {"lost": Lost, "silently wrong": Wrong, "unclear": Unclear}

__all__ = ["KINDS", "attacks", "disks", "hooks", "judge", "places", "processes", "renames", "table", "values"]


def judge(attack):
    """Try one attack; return None if the package held, or the outcome and what happened."""

    def late(*_):
        raise TooLong(f"it did not end within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        attack()
    except TooLong as late_attack:
        return "unclear", str(late_attack)
    except Broken as broken:
        name = next((n for n, kind in COLUMNS.items() if isinstance(broken, kind)), "unclear")
        return name, str(broken)
    except Exception:
        return "unclear", "traceback: " + traceback.format_exc(limit=-4)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None


def cases(kind, room, most=None):
    """The attacks of a kind: all of them, one after the other, or ``most``, which are always the same ones."""
    return chosen(KINDS[kind](room), most)


def chosen(attacks, most=None):
    """All of some attacks, or ``most`` of them."""
    if most is None:
        return attacks
    found = list(attacks)
    return random.Random(0).sample(found, most) if most < len(found) else found


class Log:
    """What became of each case that was tried, by kind and name; in a file, if one is given."""

    def __init__(self, path=None):
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self.path, self.found = path, {tuple(one[:2]): one[2] for one in map(json.loads, lines)}

    def holds(self, kind, name):
        """Whether a case was tried and held."""
        return self.found.get((kind, name), "") is None

    def add(self, kind, name, outcome):
        """Note how a case ended: None, or what broke."""
        self.found[kind, name] = outcome
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps([kind, name, outcome]) + "\n")

    def rows(self):
        """Counts by kind."""
        rows = {}
        for (kind, _), outcome in self.found.items():
            row = rows.setdefault(kind, {"cases": 0, "held": 0, **dict.fromkeys(COLUMNS, 0)})
            row["cases"] += 1
            row[outcome or "held"] += 1
        return rows


def table(rows):
    """The counts as a table in Markdown."""
    names = ["cases", "held", *COLUMNS]
    lines = ["| kind | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    total = {name: sum(row[name] for row in rows.values()) for name in names}
    for kind, row in {**rows, "all": total}.items():
        lines.append(f"| {kind} | " + " | ".join(str(row[name]) for name in names) + " |")
    return "\n".join(lines) + "\n"


def main():
    """Run the attacks that the command line chooses; the exit code is 1 if one did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", action="append", help="part of the name of a kind; repeat for several")
    parser.add_argument("--quick", action="store_true", help="a few cases of each kind that is not long")
    parser.add_argument("--most", type=int, help="cases of each kind; by default, all")
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--log", type=Path, help="file with the cases that were tried, to go on with the others")
    options = parser.parse_args()
    log = Log(options.log)
    with tempfile.TemporaryDirectory(prefix="llmbrain-faults-") as folder:
        room = Room(folder)
        for kind in KINDS:
            wanted = not options.kind or any(part in kind for part in options.kind)
            if not wanted or (options.quick and KINDS[kind].long):
                continue
            start = time.perf_counter()
            for name, attack in cases(kind, room, QUICK if options.quick else options.most):
                if log.holds(kind, name):
                    continue
                outcome = judge(attack)
                log.add(kind, name, outcome and outcome[0])
                if outcome:
                    print(f"{outcome[0].upper()}: {kind}: {name}: {outcome[1].strip()[-600:]}", flush=True)
                room.clean()
            row = log.rows().get(kind, {"held": 0, "cases": 0})
            print(f"{kind}: {row['held']}/{row['cases']} held, {time.perf_counter() - start:.0f} s", flush=True)
            if options.out:
                options.out.write_text(table(log.rows()), encoding="utf-8")
    print(table(log.rows()))
    return int(any(row["held"] < row["cases"] for row in log.rows().values()))


if __name__ == "__main__":
    sys.exit(main())
