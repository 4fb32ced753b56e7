"""Measure what the report of a large study costs: time, memory, and the size of the page.

    python benchmarks/report.py                                          # 32 layers x 11008 neurons, 64 networks
    python benchmarks/report.py --layers 30 --width 1536 --networks 20   # the demo model's size

Writes a study folder with planted networks (a real one of this size would need a real model), then times
``generate_report`` on it twice: the first call also finds and saves the display order of neurons.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from synthetic import (  # noqa: E402
    DOSE_INFO,
    activations,
    dose_table,
    events,
    lesion_tables,
    localizer,
    order_curve,
    planted_maps,
    prune_table,
    time_courses,
)  # fmt: skip

from llmbrain import __version__  # noqa: E402
from llmbrain.dataset import Study  # noqa: E402
from llmbrain.dataset.checksums import checksums  # noqa: E402
from llmbrain.dataset.results import write_result  # noqa: E402
from llmbrain.files import sha256, with_hashes, write_json, write_tsv  # noqa: E402
from llmbrain.geometry import NeuronGeometry  # noqa: E402
from llmbrain.lesions.dose import DoseResponse  # noqa: E402
from llmbrain.lesions.result import LesionResult  # noqa: E402
from llmbrain.networks.evidence.order import Order  # noqa: E402
from llmbrain.networks.localizer.localize import Localization  # noqa: E402
from llmbrain.networks.result import NetworkSet  # noqa: E402
from llmbrain.recording.writer import RunWriter  # noqa: E402
from llmbrain.reporting import generate_report  # noqa: E402


def main():
    """Measure and print."""
    args = arguments()
    if args.folder:
        Path(args.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        study = write_study(Path(folder) / "study", args)
        for name in ("with a new display order", "again"):
            start, work = time.perf_counter(), time.process_time()
            report = generate_report(study.root)
            path = report.save()
            seconds, size = time.perf_counter() - start, path.stat().st_size / 1e6
            work = time.process_time() - work
            assert "recording" in report.sections, "the planted recording cannot be read"
            print(f"{name}: {seconds:.1f} s ({work:.1f} of processor), {size:.1f} MB, {len(report.sections)} sections")
        if args.keep:
            shutil.copy(path, args.keep)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, study included")


def arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32, help="layers of the model")
    parser.add_argument("--width", type=int, default=11008, help="neurons per layer")
    parser.add_argument("--networks", type=int, default=64, help="planted networks")
    parser.add_argument("--tokens", type=int, default=250, help="tokens of each of two runs")
    parser.add_argument("--keep", default=None, help="copy of the last page")
    parser.add_argument("--folder", default=None, help="folder for the study, which is removed at the end")
    return parser.parse_args()


def write_study(root, args):
    """A whole study, made of planted networks."""
    geometry = NeuronGeometry.from_sizes([args.width] * args.layers)
    model = {"id": "planted", "revision": None, "architecture": "none", "n_layers": args.layers, "weights_hash": "0"}
    study = Study.create(root, model, {"name": "planted", "hash": "0"})
    maps = planted_maps(geometry, args.networks)
    courses = []
    for run in (1, 2):
        frame = events(args.tokens, first_document=100 * run).drop(columns="run")
        courses.append(time_courses(frame, args.networks, seed=run))
        write_run(study, geometry, run, frame, activations(maps, courses[-1], seed=run))
    info = {"method": "CanICA", "runs": [1, 2], "parameters": {"n_init": 10, "random_state": 0}}
    NetworkSet(maps, geometry, info=info, time_courses=courses).save(study)
    table, controls = lesion_tables(args.networks, tasks=("loss", "loss:code"), n_controls=99)
    items = table[["network", "task", "effect"]].assign(item="a", kind="code", weight=1.0, intact=2.0)
    for frame in (table, controls, items):
        frame["network"] = [f"network-{k:02d}" for k in frame["network"]]
    LesionResult(table, controls, items, {"random_state": 0}).save(study)
    write_result(study, "pruning", "canica", {"prune_table": prune_table()}, {})
    found = localizer(geometry, maps[3])
    q = np.where(found.selected, 0.01, 0.9)
    items = pd.DataFrame({"item": list("abcd"), "condition": ["code", "code", "prose", "prose"]})
    Localization(found.z, found.z, q, q, ("code", "prose"), items, {"unit": "item"}).save(study, geometry)
    DoseResponse(dose_table(8), dose_table(8)[["network", "strength", "effect"]], DOSE_INFO).save(study)
    Order(15, 310, 300, order_curve(), None, {}).save(study)
    return study


def write_run(study, geometry, run, frame, activity):
    """One run with its sidecar and events."""
    writer = RunWriter(study.path("bold", run=run), geometry, len(activity))
    writer.write(0, np.pad(activity, ((0, 0), (0, 1))))
    writer.close()
    written = frame.assign(token=frame["token"].str.replace("\n", "\\n"))
    write_tsv(study.path("events", run=run), written)
    sidecar = {
        "ModelID": "planted", "WeightsHash": "0", "Site": "mlp", "Geometry": geometry.to_dict(), "DataType": "float32",
        "NumberOfTokens": len(activity), "Run": run, "LibraryVersions": {"llmbrain": __version__},
        "Checksums": checksums(writer.sums), "EventsHash": sha256(study.path("events", run=run)),
    }  # fmt: skip
    write_json(study.path("bold_json", run=run), with_hashes(sidecar))


if __name__ == "__main__":
    main()
