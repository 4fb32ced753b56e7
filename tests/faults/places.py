"""Places: without rights, with odd names, behind links, of another kind than expected."""

import contextlib
import errno
import os
import shutil
from functools import partial
from pathlib import Path

from attacks import KINDS
from processes import fork
from room import Answer, Broken, Lost, Unclear, Wrong, command
from writers import Writer, contents, publishers, read

import llmbrain

OUTPUTS = {  # what a writer makes, besides a study
    "fingerprint": "f.safetensors", "grid": "grid.tsv", "prune hetero": "PRUNED",
    "mask": "my mask.nii.gz", "order": "my order.nii.gz", "record": "STUDY", "report": "STUDY/report.html",
}  # fmt: skip
NAMES = ("two words", "äöü 🦆", "-rf", "a\nb", "x" * 200, "%s{0}$HOME", "sub-x_task-y", "a'b\"c", ".hidden", "[a-z]*")
TAKEN = ("another file", "a folder", "a pipe", "a link to a file", "a link to a folder", "a broken link")
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", ".")
STUDY_FILES = ("study.json", "_bold.nii", "_bold.json", "_events.tsv", "_components.nii.gz", "_components.json",
               "_metrics.tsv", "_effects.tsv", ".")  # fmt: skip


@KINDS.register("places", long=True)
def places(room, names=None):
    """Without rights, errors name the place, and nothing is changed; odd names work; nothing foreign is replaced."""
    publish = publishers(room)
    for name, (work, _) in publish.items():
        if names is None or name in names:
            writer = Writer(room, name, work, None)
            if package_is_open():
                yield f"{name}: a folder without rights", partial(_no_rights, writer)
            for odd in NAMES:
                yield f"{name}: a folder named {odd[:20]!r}", partial(_odd_name, writer, odd)
            for taken in TAKEN if name in OUTPUTS else ():
                yield f"{name}: {OUTPUTS[name]} is {taken}", partial(_taken, writer, OUTPUTS[name], taken)


@KINDS.register("inputs that may not be read", long=True)
def unreadable(room):
    """Models, studies and texts without rights: errors name the place; a study that may only be read can be read."""
    if not package_is_open():
        return
    for file in MODEL_FILES:
        for what in ("evaluate", "record", "prune", "info", "lesion", "fingerprint"):
            yield f"{what}: {file} of the model may not be read", partial(_unreadable_model, room, what, file)
    for file in STUDY_FILES:
        for what in ("networks", "lesion", "report", "info", "compare", "view"):
            yield f"{what}: {file} of the study may not be read", partial(_unreadable_study, room, what, file)
    yield "record: a text may not be read", partial(_unreadable_text, room, "text0.txt")
    yield "record: the texts may not be listed", partial(_unreadable_text, room, ".")
    yield "report of a read-only study to another file", partial(_report_elsewhere, room)
    yield "networks of a read-only study in memory", partial(_networks_in_memory, room)


# -- rights -----------------------------------------------------------------------------------------------------------
def package_is_open():
    """Whether a user without rights can read the package: not if it lies in a private folder of another user."""
    folder = Path(llmbrain.__file__).resolve().parent
    return os.getuid() != 0 or all(place.stat().st_mode & 0o001 for place in [folder, *folder.parents])


def _as_nobody(work):
    """Run as a user without rights, if this one may change that."""

    def dropped():
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        return work()

    return fork(dropped)


def _without_rights(folder):
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in folder.parents[:3]:
        with contextlib.suppress(OSError):
            parent.chmod(0o755)


def _denied(code, said, *places):
    """Check the message about a place without rights."""
    if code not in (1, 2) or "unexpected" in said or "Traceback" in said:
        raise Unclear(f"ended with {code}: {said}")
    if os.strerror(errno.EACCES) not in said or not any(str(place) in said for place in places):
        raise Unclear(f"does not name the place: {said}")


def _no_rights(writer):
    folder = writer.copy()
    _without_rights(folder)
    before = contents(folder)
    code, said = _as_nobody(partial(writer.work, folder))
    _denied(code, said, folder)
    if contents(folder) != before:
        raise Lost("files have changed")


def _unreadable_model(room, what, file):
    model, new = room.copy("model"), room.fresh()
    for parent in [model, *model.parents[:3]]:
        parent.chmod(0o755)
    new.parent.chmod(0o777)
    (model / file).chmod(0)
    args = {
        "evaluate": (model, "--text", room.heldout, "--context", 64),
        "record": ("--model", model, "--text", room.corpus, "--out", new, "--max-tokens", 100),
        "prune": ("--model", model, "--text", room.corpus, "--recipe", "flap", "--out", new),
        "info": (model,),
        "lesion": (room.study, "--model", model, "--text", room.heldout),
        "fingerprint": (model, "--text", room.corpus, "--n-texts", 6, "--out", new / "f.safetensors"),
    }[what]  # fmt: skip
    _denied(*_as_nobody(lambda: command(what, *args)), model, model.name)


def _unreadable_study(room, what, file):
    study = room.copy()
    found = [study] if file == "." else sorted(study.rglob(f"*{file}"))
    for parent in [study, *study.parents[:3]]:
        parent.chmod(0o777)
    for path in study.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    for path in found:
        path.chmod(0)
    before = contents(study)
    args = next((args for args in room.stations(study) if args[0] == what), (what, study))
    more = {"compare": (room.second, "--n-draws", 2), "view": ("--no-model", "--no-browser"), "info": ("--check",)}

    def work():
        import uvicorn

        uvicorn.Server.run = lambda *_, **__: None
        answer = command(*args, *more.get(what, ()))
        return Answer(answer.code, "", answer.err + answer.out, answer.error)

    code, said = _as_nobody(work)
    if "unexpected" in said or "Traceback" in said or "Error(" in said:
        raise Unclear(f"ended with {code}: {said}")
    for path in found:
        path.chmod(0o777)
    if code and study.name not in said:
        raise Unclear(f"does not name the place: {said}")
    gone = [name for name in before if name not in contents(study)]
    if gone:
        raise Lost(f"{gone} is gone")


def _unreadable_text(room, file):
    corpus, new = room.copy("corpus"), room.fresh()
    for parent in [corpus, *corpus.parents[:3]]:
        parent.chmod(0o755)
    new.parent.chmod(0o777)
    (corpus / file).chmod(0)
    args = ("--model", room.model, "--text", corpus, "--out", new)
    _denied(*_as_nobody(lambda: command("record", *args)), corpus)


# -- names and kinds --------------------------------------------------------------------------------------------------
def _odd_name(writer, name):
    folder = writer.room.fresh("x").parent / name
    writer.copy(folder)
    here = os.getcwd()
    os.chdir(folder.parent)
    try:
        writer.work(folder).worked()
        read(writer.room, writer.name, folder)
        if contents(folder).keys() != writer.new.keys():
            raise Wrong(f"other files: {sorted(contents(folder).keys() ^ writer.new.keys())}")
        if [p.name for p in folder.parent.iterdir()] != [name]:
            raise Lost(f"files appeared outside: {[p.name for p in folder.parent.iterdir()]}")
    finally:
        os.chdir(here)


def _taken(writer, out, kind):
    """The output is taken: it is refused, or a link is replaced; nothing of the user is changed."""
    folder = writer.copy()
    path, mine = folder / out, writer.room.fresh("mine")
    if "file" in kind:
        mine.write_text("my notes\n")
    else:
        mine.mkdir()
        (mine / "thesis.txt").write_text("my thesis\n")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif "link" in kind:
        path.symlink_to("nowhere" if "broken" in kind else mine)
    else:
        shutil.move(mine, path)
    before = contents(mine if mine.exists() else folder)
    answer = writer.work(folder)
    answer.clear()
    if answer.code == 0 and ("link" not in kind or kind == "a link to a folder"):
        raise Lost(f"{kind} is replaced")
    if answer.code and path.name not in answer.err:
        raise Unclear(f"does not name the output: {answer.err}")
    after = contents(mine if mine.exists() else folder)
    changed = [name for name, known in before.items() if after.get(name) != known]
    if changed or (kind == "a pipe" and not path.is_fifo()):
        raise Lost(f"{changed or path.name} has changed")


# -- read-only studies ------------------------------------------------------------------------------------------------
def _report_elsewhere(room):
    from llmbrain.reporting import generate_report

    study = room.copy()
    _without_rights(study)
    out = room.fresh("report.html")
    out.parent.chmod(0o777)
    _elsewhere(lambda: generate_report(study).save(out))
    if not out.is_file():
        raise Broken("no report")


def _networks_in_memory(room):
    from llmbrain import CanICA
    from llmbrain.dataset import open_recording

    study = room.copy()
    _without_rights(study)
    _elsewhere(lambda: CanICA(n_components=2, n_init=1, random_state=0).fit(open_recording(study)).networks_)


def _elsewhere(work):
    def quiet():
        try:
            work()
        except Exception as error:
            return Answer(1, "", repr(error))
        return Answer(0, "", "")

    code, said = _as_nobody(quiet)
    if code:
        raise Unclear(said)
