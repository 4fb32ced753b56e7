"""Values of other kinds: each value in the JSON files of a study, and cells of its tables, replaced by others."""

import copy
import json
import math
from functools import partial

from attacks import KINDS, differs, unrendered
from room import Answer, Lost, Unclear, Wrong, command

OTHERS = (None, "a text", "", -1, 0, 1e308, 10**30, math.nan, True, [], [[None]], {}, {"a": {"b": None}})
CELLS = ("", "n/a", "a text", "-1", "1e400", "nan", "10000000000000000000000000", "[]", "\u0661", "True", "3\t4", '"')
N_OTHERS = 2  # values that each place gets; all values take their turn
READERS = ("info", "view", "compare", "networks", "lesion", "report")


@KINDS.register("values of other kinds in JSON files and tables", long=True)
def other_values(room, n_others=N_OTHERS):
    """Every value of every JSON file, and a cell of each column of every table: refused or without effect."""
    n = 0
    for path in sorted(p.relative_to(room.study).as_posix() for p in room.study.rglob("*") if p.suffix in KEYS):
        if "run-0" in path and "run-01" not in path:
            continue  # the other runs are alike
        for place in KEYS[path[path.rindex(".") :]]((room.study / path).read_text()):
            for _ in range(n_others):
                n += 1
                yield f"{path}: {place} is {n % len(OTHERS)}", partial(_changed, room, path, place, n)


def _places(text):
    """The values of a JSON file as sequences of keys, with one entry of each list and one of each kind of key."""
    found, todo = [], [((), json.loads(text))]
    while todo:
        place, value = todo.pop()
        found.append(place)
        if isinstance(value, dict):
            todo += [((*place, key), one) for key, one in list(value.items())[:30]]
        elif isinstance(value, list) and value:
            todo.append(((*place, len(value) - 1), value[-1]))
    return found


def _cells(text):
    """Cells of a table: the name of each column, and one cell of it."""
    rows = [line.split("\t") for line in text.splitlines()]
    return [(row, column) for column in range(len(rows[0])) for row in {0, len(rows) - 1}]


KEYS = {".json": _places, ".tsv": _cells}


def replaced(text, place, other):
    """A JSON text with another value in a place."""
    content = holder = {"": json.loads(text)}
    keys = ("", *place)
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = copy.deepcopy(other)
    return json.dumps(content[""])


def with_cell(text, place, other):
    """A table with another cell."""
    rows = [line.split("\t") for line in text.splitlines()]
    rows[place[0]][place[1]] = other
    return "\n".join("\t".join(row) for row in rows) + "\n"


def _changed(room, path, place, n):
    study = room.copy(room.study.name)
    file = study / path
    before = file.read_text()
    if file.suffix == ".json":
        after = replaced(before, place, OTHERS[n % len(OTHERS)])
        same = after == json.dumps(json.loads(before))
    else:
        after = with_cell(before, place, CELLS[n % len(CELLS)])
        same = after == before
    file.write_text(after)
    for what in READERS:
        answer = _read(room, study, what)
        try:
            answer.clear()
        except Unclear as error:
            raise Unclear(f"{what}: {error}") from None
        if not same and answer.code == 0 and not answer.warned and differs(room.study, study, skip=path):
            raise Wrong(f"{what}: other results: {differs(room.study, study, skip=path)}")
    if not file.is_file():
        raise Lost(f"{path} is gone")


def _read(room, study, what):
    more = {"view": ("--no-model", "--no-browser"), "info": ("--check",), "compare": (room.second, "--n-draws", 5)}
    if what == "view":
        return _view(study)
    args = next((args for args in room.stations(study) if args[0] == what), (what, study, *more.get(what, ())))
    with unrendered():
        return command(*args)


def _view(study):
    """What the page shows first, without a model."""
    from llmbrain import cli
    from llmbrain.viewer.explorer import Explorer

    try:
        Explorer(study).describe()
    except Exception as error:
        code, said = cli._explain(error)
        return Answer(code, "", f"llmbrain: {said}")
    return Answer(0, "", "")
