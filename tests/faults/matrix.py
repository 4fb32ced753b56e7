"""The fault matrix: try every kind of attack and count what held, was lost, silently wrong, or unclear.

``python tests/faults/matrix.py`` runs the long part: every kind, and of the
largest kinds some cases, always the same ones. ``--quick`` leaves out the long kinds and tries a part of the
others; ``--most N`` tries N cases of each kind; ``--kind`` chooses kinds by a part of their name. ``--out`` writes the
table as Markdown.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import attacks
import hooks
import processes
from room import Broken, Lost, Room, TooLong, Unclear, Wrong

KINDS = attacks.KINDS
QUICK = 8  # cases of each kind
EVERYTHING = 10**9
SECONDS = 240  # that an attack may take
COLUMNS = {"lost": Lost, "silently wrong": Wrong, "unclear": Unclear}

__all__ = ["KINDS", "attacks", "hooks", "judge", "processes", "table"]


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
    """The attacks of a kind: all of them, or ``most``, which are always the same ones."""
    found = list(KINDS[kind](room))
    most = most or KINDS[kind].most or EVERYTHING
    return random.Random(0).sample(found, most) if most < len(found) else found


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
    parser.add_argument("--most", type=int, help="cases of each kind; by default, all, or some of the largest kinds")
    parser.add_argument("--out", type=Path, help="file for the table")
    chosen = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory(prefix="llmbrain-faults-") as folder:
        room = Room(folder)
        for kind in KINDS:
            wanted = not chosen.kind or any(part in kind for part in chosen.kind)
            if not wanted or (chosen.quick and KINDS[kind].long):
                continue
            start, found = time.perf_counter(), cases(kind, room, QUICK if chosen.quick else chosen.most)
            row = rows[kind] = {"cases": len(found), "held": 0, **dict.fromkeys(COLUMNS, 0)}
            for name, attack in found:
                outcome = judge(attack)
                row[outcome[0] if outcome else "held"] += 1
                if outcome:
                    print(f"{outcome[0].upper()}: {kind}: {name}: {outcome[1].strip()[-600:]}", flush=True)
                room.clean()
            print(f"{kind}: {row['held']}/{row['cases']} held, {time.perf_counter() - start:.0f} s", flush=True)
            if chosen.out:
                chosen.out.write_text(table(rows), encoding="utf-8")
    print(table(rows))
    return int(any(row["held"] < row["cases"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
