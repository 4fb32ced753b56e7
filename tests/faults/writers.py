"""Everything that publishes a result, its readers, and what an undisturbed run makes."""

import hashlib
import re
import shutil
from functools import partial
from pathlib import Path

from gguf import GGUFReader
from room import Answer, Lost, Unclear, Wrong, command

from llmbrain import cli

EARLIER = ("nothing", "an earlier result")  # what is there before


# ------------------------------------------------------------------------------------------------------------ writers
def publishers(room):
    """Everything that publishes a result: what it does in a folder, given further options of an earlier result."""
    text = ("--text", room.corpus, "--test-text", room.heldout)
    grid = ("--model", room.model, *text, "--scores", "flap", "--allocations", "uniform", "--compensations", "none",
            "--context", 64)  # fmt: skip
    prune = ("prune", "--model", room.model, *text, "--recipe", "flap", "--allocation", "uniform", "--out", "PRUNED")
    fingerprint = ("fingerprint", room.model, "--text", room.corpus, "--n-texts", 6, "--out", "f.safetensors")
    _, networks, lesion, report = room.stations("STUDY")
    commands = {
        "record": (room.record("STUDY"), None),
        "record int16": (room.record("STUDY", "--storage", "int16", "--site", "mlp,attention"), None),
        "networks": (networks, ("--random-state", 5)),
        "lesion": (lesion, ("--random-state", 5)),
        "report": (report, ()),
        "compare": (("compare", "STUDY", room.second, "--n-draws", 5), ("--random-state", 5)),
        "fingerprint": ((*fingerprint, "--n-neurons", 2), ("--n-neurons", 3)),
        "grid": (("grid", *grid, "--ratios", "0.2", "--out", "grid.tsv"), ("--ratios", "0.3")),
        "grid figure": (("grid", *grid, "--ratios", "0.2", "--out", "grid.tsv", "--figure", "g.svg"), ()),
        **{f"prune {kind}": ((*prune, "--format", kind), ("--ratio", 0.4)) for kind in ("hetero", "padded", "gguf")},
    }
    found = {name: (partial(_run, args), earlier) for name, (args, earlier) in commands.items()}
    return {**found, "labels": (_label, ("rejected",)), "mask": (_mask, (1,)), "order": (_order, (1,))}


def placed(args, folder):
    """Arguments with the places of a case: what a command writes, and the study that it works on."""
    places = ("STUDY", "PRUNED", "f.safetensors", "grid.tsv", "g.svg")
    return [folder / a if isinstance(a, str) and a in places else a for a in args]


def _run(args, folder, *more):
    return command(*placed(args, folder), *more)


def _quietly(work, *args):
    try:
        work(*args)
    except Exception as error:
        code, said = cli._explain(error)  # as a command would end
        return Answer(code, "", f"llmbrain: {said}")
    return Answer(0, "", "")


def _label(folder, decision="accepted"):
    from llmbrain.networks import NetworkSet
    from llmbrain.networks.labels import HandLabels

    networks = NetworkSet.load(folder / "STUDY")
    labels = HandLabels.blank(networks).set(0, decision=decision, name=decision)
    return _quietly(labels.save, folder / "STUDY", networks.name)


def _mask(folder, number=0):
    import llmbrain as lb
    from llmbrain.networks import NetworkSet

    masks = NetworkSet.load(folder / "STUDY").masks(1.5)
    one = lb.NeuronMask(masks[0].values, masks[0].geometry, name=f"network {number}")
    other = one.matched_control(random_state=number)  # of the same size, so that only its content tells it
    return _quietly(other.save, folder / "my mask.nii.gz")


def _order(folder, seed=0):
    import numpy as np

    from llmbrain.networks import NetworkSet
    from llmbrain.topography import Topography

    geometry = NetworkSet.load(folder / "STUDY").geometry
    draw = np.random.default_rng(seed)
    cells = np.concatenate([draw.permutation(np.prod(geometry.shape[1:]))[:size] for size in geometry.sizes])
    return _quietly(Topography(cells, geometry, {"source": f"seed {seed}"}).save, folder / "my order.nii.gz")


def prepare(room, name, folder):
    """Put the study that a writer needs into a folder, without what it writes."""
    folder.mkdir(exist_ok=True)
    later = {"networks": ("*canica*", "*lesion*", "report*"), "lesion": ("*lesion*", "report*"), "report": ("report*",)}
    if name in (*later, "compare", "labels", "mask", "order"):
        shutil.copytree(room.study, folder / "STUDY")
        for pattern in later.get(name, ()):
            for path in list((folder / "STUDY").rglob(pattern)):
                path.unlink()


# ------------------------------------------------------------------------------------------------------------- readers
def read(room, name, folder):
    """Let the reader of a result look at it: it accepts what is there, or says what to do."""
    if (folder / "STUDY" / "study.json").exists():
        command("info", folder / "STUDY", "--check").worked()
    if (folder / "PRUNED").exists():
        if "gguf" in name:  # of an architecture that only llama.cpp reads
            GGUFReader(folder / "PRUNED" / "model.gguf")
        else:
            command("evaluate", folder / "PRUNED", "--text", room.heldout, "--context", 64).worked()
    if (folder / "f.safetensors").exists():
        command("fingerprint", folder / "f.safetensors", folder / "f.safetensors").worked()
    if name == "labels":
        from llmbrain.networks import NetworkSet
        from llmbrain.networks.labels import HandLabels

        HandLabels.load(folder / "STUDY", NetworkSet.load(folder / "STUDY"))
    if (folder / "my mask.nii.gz").exists():
        import llmbrain as lb

        lb.NeuronMask.load(folder / "my mask.nii.gz")
    if (folder / "my order.nii.gz").exists():
        from llmbrain.topography import Topography

        Topography.load(folder / "my order.nii.gz")


def contents(folder, hidden=True):
    """Hash of each file, without the seconds that a table of a grid or a description may hold."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (hidden or not path.name.startswith(".")):
            data = path.read_bytes()
            rows = [line.split(b"\t") for line in data.splitlines()] if name == "grid.tsv" else [[]]
            if b"seconds" in rows[0]:
                column = rows[0].index(b"seconds")
                data = b"\n".join(b"\t".join(row[:column] + row[column + 1 :]) for row in rows)
            data = re.sub(rb'"seconds": ("[0-9a-f]+"|[0-9.]+)', b"", data) if name.endswith(".json") else data
            found[name] = hashlib.sha256(data).hexdigest()
        elif path.is_dir() and ".part." in path.name:
            found[name] = "a folder"
    return found


class Writer:
    """A writer, the result it replaces, and what an undisturbed run of it makes.

    Attributes
    ----------
    earlier : str
        What is there before, one of EARLIER.
    before : pathlib.Path
        Folder as it is before the writer runs.
    old, new : dict
        Contents before, and after an undisturbed run.
    """

    def __init__(self, room, name, work, earlier):
        self.room, self.name, self.work, self.earlier = room, name, work, EARLIER[earlier is not None]
        self.before = room.folder / f"{name} over {self.earlier}"
        if self.before.is_dir():
            shutil.rmtree(self.before)
        prepare(room, name, self.before)
        if earlier is not None:
            work(self.before, *earlier).worked()
            if name == "report":
                page = self.before / "STUDY" / "report.html"
                page.write_text(page.read_text().replace("</body>", "<p>earlier</p></body>"))
        folder = self.copy()
        work(folder).worked()
        self.old, self.new = contents(self.before), contents(folder)
        again = self.copy()
        work(again).worked()
        self.varies = {k for k in self.new.keys() | contents(again) if contents(again).get(k) != self.new.get(k)}

    def copy(self, folder=None):
        """Copy the folder as it is before the writer runs."""
        return Path(shutil.copytree(self.before, folder or self.room.fresh("files")))

    def finished(self, folder):
        """Run the writer again after an attack: it must make what an undisturbed run makes, and leave nothing over."""
        answer = self.work(folder)
        if answer.code or answer.error:
            raise Lost(f"cannot be resumed: {answer.err or answer.error}")
        found = contents(folder)
        wrong = [k for k in found.keys() | self.new if found.get(k) != self.new.get(k) and k not in self.varies]
        left = [k for k in wrong if k not in self.new]
        if left:
            raise Unclear(f"{left} is left over")
        if wrong:
            raise Wrong(f"{wrong} differs after the command was repeated")

    def old_or_new(self, folder):
        """Check that every file that the writer changes is the earlier one, or every one is the new one."""
        found = contents(folder, hidden=False)
        frame = ("dataset_description", "descriptions.tsv", "participants", "README", ".bidsignore", "study.json")
        skip = lambda k: k in self.varies or "/." in f"/{k}" or any(part in k for part in frame)  # noqa: E731
        changed = {k for k in self.old.keys() | self.new if self.old.get(k) != self.new.get(k) and not skip(k)}
        for state in (self.old, self.new):
            if all(found.get(k) == state.get(k) for k in changed):
                return
        gone = [k for k in self.old.keys() & self.new if k in changed and k not in found]
        if gone:
            raise Lost(f"{gone} is gone")
        raise Wrong(f"{sorted(k for k in changed if found.get(k) != self.old.get(k))} is not of one result")
