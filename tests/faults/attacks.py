"""Attacks by kind. Each yields names and functions that raise :class:`room.Broken` if the package does not hold."""

import contextlib
import inspect
import json
import math
import os
import shutil
import struct
from functools import partial
from unittest.mock import patch

import uvicorn
from room import Lost, Unclear, Wrong, command

from llmbrain.cli.app import app
from llmbrain.files import with_hashes
from llmbrain.registry import Registry

KINDS = Registry("kind of attack", long=False)  # long: not in --quick

# ------------------------------------------------------------------------------------------------------------- options
_NUMBERS = ("nan", "inf", "-1", "0", "999999999999", "1e400", "three", "", "0x10", "١")
_TEXTS = ("", " ", "no/such/thing", "(", "*", "\n", "-", "=1", "a\x01b", "'; rm -rf /", "🦆")
N_VALUES = 1  # of each option


def _commands(room, folder):
    """One working command line per command, on copies that it may change."""
    study = folder / "study"
    table, text = folder / "grid.tsv", ("--text", room.corpus, "--test-text", room.heldout)
    return {
        "run": ("--model", room.model, "--text", room.corpus, "--out", folder / "new", "--quick"),
        "record": room.record(folder / "new")[1:],
        "networks": (study, "--n-components", 3, "--n-repeats", 0),
        "lesion": (study, "--model", room.model, "--text", room.heldout, "--n-controls", 1, "--max-tokens", 30),
        "prune": ("--model", room.model, *text, "--out", folder / "pruned", "--recipe", "flap"),
        "grid": (
            "--model",
            room.model,
            *text,
            "--out",
            table,
            "--ratios",
            "0.2",
            "--scores",
            "flap",
            "--allocations",
            "uniform",
            "--compensations",
            "none",
            "--context",
            64,
        ),
        "evaluate": (room.model, "--text", room.heldout, "--context", 64),
        "compare": (study, room.second, "--n-draws", 5),
        "fingerprint": (
            room.model,
            "--text",
            room.corpus,
            "--n-texts",
            6,
            "--n-neurons",
            2,
            "--out",
            folder / "f.safetensors",
        ),
        "view": (study, "--no-model", "--no-browser"),
        "report": (study,),
        "info": (room.model,),
    }


def options_of(name):
    """Names of a command's options, with True for those that take a number."""
    function = next(c.callback for c in app.registered_commands if c.callback.__name__ == name)
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        kind, *extra = parameter.annotation.__metadata__ if hasattr(parameter.annotation, "__metadata__") else (None,)
        types = str(parameter.annotation)
        if kind is None or type(kind).__name__ != "OptionInfo" or "bool" in types.split("OptionInfo")[0]:
            continue
        long = [n for n in kind.param_decls if n.startswith("--")] or ["--" + parameter.name.replace("_", "-")]
        found[long[0]] = "int" in types.split("[")[1] or "float" in types.split("[")[1]
    return found


@KINDS.register("bad values of options")
def bad_options(room):
    """Every option of every command with values that it cannot mean; each value is tried on many options."""
    n = 0
    for name in _commands(room, room.folder):
        for option, numeric in options_of(name).items():
            values = _NUMBERS if numeric else _TEXTS
            for _ in range(N_VALUES):
                value, n = values[n % len(values)], n + 1
                yield f"{name} {option} {value!r}", partial(_bad_option, room, name, option, value)


def _bad_option(room, name, option, value):
    uvicorn.Server.run = lambda *_, **__: None  # an accepted value would serve the page for ever
    folder = room.fresh("x").parent
    shutil.copytree(room.study, folder / "study")
    args = _without(_commands(room, folder)[name], option)
    here = os.getcwd()
    os.chdir(folder)
    try:
        answer = command(name, *args, option, value).clear()
    finally:
        os.chdir(here)
    numeric = options_of(name)[option]
    if answer.code == 0 and numeric and value in ("nan", "inf", "-1", "1e400", "three", "", "0x10"):
        raise Wrong(f"{option} {value!r} is accepted")
    if answer.code == 2 and name in ("record", "run", "prune") and (folder / "new").exists() and option != "--out":
        left = [p.name for p in (folder / "new").rglob("*.nii")]
        if left:
            raise Unclear(f"refused only after work: {left[0]} is written")


def _without(args, option):
    args = list(args)
    if option in args:
        at = args.index(option)
        del args[at : at + 2]
    return args


# --------------------------------------------------------------------------------------------------------- bad inputs
@KINDS.register("inputs that are not what they should be")
def bad_inputs(room):
    """Files and places that commands cannot use: one sentence and exit code 2."""
    record = partial(_record, room)
    yield "--modules is no expression", lambda: record("--modules", "(").refused("(")
    yield "--modules repeats nothing", lambda: record("--modules", "*mlp").refused("*mlp")
    yield "--modules is empty", lambda: record("--modules", "").refused("matches no module")
    for device in ("cuda:99", "tpu", "cuda:x", "xla", "meta", "mps:3", "hpu", "vulkan", "cpu:7", ""):
        yield f"device {device!r}", partial(_device, room, device)
    for name, content in _BAD_TEXTS.items():
        yield f"corpus {name}", partial(_bad_corpus, room, name, content)
    yield "corpus is missing", lambda: record("--text", "no/such.txt").refused("no/such.txt")
    yield "corpus is an empty folder", lambda: record("--text", _folder(room)).refused()
    yield "corpus is a socket", lambda: record("--text", "/dev/null").refused()
    yield "no layer of that number", lambda: record("--layers", "99").refused("0 to 3")
    yield "no site of that name", lambda: record("--site", "cortex").refused("cortex")
    yield "no run of that number", lambda: record("--run-index", "77").refused("77")
    yield "a context beyond the model", lambda: record("--context", "4096").refused("128")
    yield (
        "warm-up beyond the context",
        lambda: command(*room.record(room.fresh(), "--context", 32, "--warmup", 32)).refused("warm"),
    )
    for what in ("networks", "lesion", "report"):
        yield f"{what} of no study", lambda w=what: command(w, _folder(room)).refused("holds no study")
        yield f"{what} of a file", lambda w=what: command(w, room.model / "config.json").refused("config.json")
        yield f"{what} of nothing", lambda w=what: command(w, room.fresh()).refused("holds no study")
    yield "lesion before networks", partial(_before, room, "lesion", "_components")
    yield "networks before a run", partial(_before, room, "networks", "_bold")
    yield "more networks than tokens", lambda: command("networks", room.copy(), "--n-components", 5000).refused("5000")
    yield "a threshold that no neuron passes", lambda: _lesion(room, "--threshold", 500).refused("500")
    yield "lesions of another model", partial(_other_model, room)
    yield "report onto a folder", partial(_report_onto_folder, room)
    yield "out is a file", lambda: command(*room.record(room.model / "config.json")).refused("is a file")
    yield (
        "out lies under a file",
        lambda: command(*room.record(room.model / "config.json" / "x")).refused("config.json"),
    )
    yield "out has a name that is too long", lambda: command(*room.record(room.fresh("x" * 300))).refused()
    yield "figure has an unknown ending", lambda: _grid(room, "--figure", "x.mp3").refused("x.mp3")
    yield "prune onto the model", partial(_prune_onto_model, room)
    yield "ratios that are no numbers", lambda: _grid(room, "--ratios", "a,b").refused("--ratios")
    yield "ratios out of range", lambda: _grid(room, "--ratios", "1.5").refused("1.5")
    yield "no score of that name", lambda: _grid(room, "--scores", "taste").refused("taste")


def _record(room, option, value):
    return command(*_without(room.record(room.fresh()), option), option, value)


def _folder(room):
    folder = room.fresh("empty")
    folder.mkdir()
    return folder


def _lesion(room, *more):
    rest = ("--model", room.model, "--text", room.heldout, "--n-controls", 1, "--max-tokens", 30)
    return command("lesion", room.copy(), *_without(rest, more[0]), *more)


def _grid(room, option, value):
    return command("grid", *_without(_commands(room, room.fresh().parent)["grid"], option), option, value)


def _device(room, device):
    _record(room, "--device", device).refused(repr(device))
    command("evaluate", room.model, "--text", room.heldout, "--device", device).refused(repr(device))


_BAD_TEXTS = {
    "of a picture.txt": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)),
    "of nothing.txt": b"",
    "of white space.txt": b" \n\t \n",
    "of zeros.txt": bytes(100),
    "in UTF-16.txt": "The cat sat on the mat.".encode("utf-16"),
    "in Latin-1.txt": "Der Käse lag auf dem Tisch.".encode("latin-1"),
    "with a list.jsonl": b"[1, 2]\n",
    "with no text.jsonl": b'{"title": "x"}\n',
    "with a number.jsonl": b'{"text": 5}\n',
    "that is cut.jsonl": b'{"text": "The cat sat',
    "with one id twice.jsonl": b'{"text": "The cat", "id": "a"}\n{"text": "A dog", "id": "a"}\n',
}


def _bad_corpus(room, name, content):
    path = room.fresh(name.replace(" ", "_"))
    path.write_bytes(content)
    _record(room, "--text", path).refused(path.stem)


def _before(room, what, without):
    study = room.copy()
    for path in list(study.rglob(f"*{without}*")):
        path.unlink()
    command(what, study, *(("--text", room.heldout) if what == "lesion" else ())).refused(str(study))


def _other_model(room):
    from tiny import tiny_model

    folder = room.copy("model")
    tiny_model("llama", seed=5).save_pretrained(folder)
    _lesion(room, "--model", folder).refused("not the model of this study")


def _report_onto_folder(room):
    study = room.copy()
    (study / "report.html").unlink()
    (study / "report.html").mkdir()
    command("report", study).refused("report.html")


def _prune_onto_model(room):
    model = room.copy("model")
    before = sorted(p.name for p in model.iterdir())
    command("prune", "--model", model, "--text", room.corpus, "--test-text", room.heldout, "--out", model).refused(
        "overlaps"
    )
    if sorted(p.name for p in model.iterdir()) != before:
        raise Lost("files of the model are gone")


# --------------------------------------------------------------------------------------------------- damaged studies
DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros in the middle": lambda data: data[: len(data) // 3] + bytes(len(data) // 3) + data[2 * (len(data) // 3) :],
    "noise": lambda data: bytes((i * 197 + 31) % 256 for i in range(len(data))),
    "a list": lambda data: b"[]",
    "an empty object": lambda data: b"{}",
    "null": lambda data: b"null",
    "a number": lambda data: b"17\n",
    "a line of text": lambda data: b"not what it was\n",
    "without its first line": lambda data: data.partition(b"\n")[2],
    "without its last line": lambda data: data.rstrip(b"\n").rpartition(b"\n")[0] + b"\n",
    "another encoding": lambda data: b"\xff\xfe" + data,
}
_READERS = {
    "record": ("bold", "events", "study.json", "dataset_description", "participants"),
    "networks": ("bold", "events", "study.json", "dataset_description"),
    "lesion": ("components", "metrics", "mixing", "bold", "events", "study.json"),
    "report": ("effects", "controls", "metrics", "mixing", "components", "bold", "events", "study.json", "items"),
}


@KINDS.register("damaged files of a study", long=True)
def damaged_studies(room):
    """Every file of a finished study, damaged in twelve ways, then read by every command."""
    stations = {args[0]: args for args in room.stations("STUDY")}
    for path in sorted(p.relative_to(room.study).as_posix() for p in room.study.rglob("*") if p.is_file()):
        for damage in (*DAMAGES, "a folder", "a link to nothing"):
            for name, parts in _READERS.items():
                if any(part in path for part in parts):
                    yield f"{name}: {path}: {damage}", partial(_damaged, room, stations[name], path, damage)


def spoil(path, damage):
    """Damage a file."""
    data = path.read_bytes()
    if damage in DAMAGES:
        path.write_bytes(DAMAGES[damage](data))
        return
    path.unlink()
    path.mkdir() if damage == "a folder" else path.symlink_to("nowhere")


def _damaged(room, args, path, damage):
    study = room.copy()
    before = (study / path).read_bytes()
    spoil(study / path, damage)
    changed = not (study / path).is_file() or (study / path).read_bytes() != before
    with unrendered():
        answer = command(*(study if str(a) == "STUDY" else a for a in args)).clear()
    if answer.code == 0 and changed and not answer.warned and differs(room.study, study, skip=path):
        raise Wrong(f"other results: {differs(room.study, study, skip=path)}")
    of_run = path.endswith(("_bold.nii", "_bold.json", "_events.tsv"))
    if answer.code == 0 and changed and not answer.warned and of_run and (study / path).read_bytes() != before:
        raise Wrong("the damaged file of a run is accepted")


@contextlib.contextmanager
def unrendered():
    """Draw the figures of reports, and leave out that they are written as SVG, which takes half of the time."""
    import matplotlib.pyplot as plt

    from llmbrain.reporting import page

    def close(fig, *_, **__):
        plt.close(fig)
        return "<svg></svg>"

    with patch.object(page, "figure_svg", close):
        yield


RESULTS = (
    "_components.nii.gz",
    "_metrics.tsv",
    "_mixing.tsv",
    "_effects.tsv",
    "_controls.tsv",
    "_items.tsv",
    "_bold.nii",
)


def differs(one, other, skip=""):
    """Name of the first result that differs between two studies, or an empty text."""
    for path in sorted(p.relative_to(one).as_posix() for p in one.rglob("*") if p.name.endswith(RESULTS)):
        if path != skip and (not (other / path).is_file() or (one / path).read_bytes() != (other / path).read_bytes()):
            return path
    return ""


# ---------------------------------------------------------------------------------------------------- damaged models
@KINDS.register("damaged models")
def damaged_models(room):
    """Every file of a model's folder, damaged, and GGUF files that are not models."""
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ):
        for damage in (*DAMAGES, "a folder", "a link to nothing"):
            if (name, damage) == ("model.safetensors", "zeros in the middle"):
                continue  # zeros are weights like others, and checkpoints have no checksums; see docs/reliability.md
            yield f"{name}: {damage}", partial(_damaged_model, room, name, damage)
    for name, change in _CONFIGS.items():
        yield f"config.json: {name}", partial(_changed_config, room, change)
    for name, content in _GGUF.items():
        yield f"GGUF: {name}", partial(_bad_gguf, room, content)
    for name in ("llmbrain_pruning.json", "llmbrain_subnetwork.safetensors"):
        for damage in ("empty", "a list", "an empty object", "null", "noise"):
            yield f"pruned folder, {name}: {damage}", partial(_damaged_pruned, room, name, damage)


_CONFIGS = {
    "no model type": lambda config: config.pop("model_type"),
    "unknown model type": lambda config: config.update(model_type="brain"),
    "unknown class": lambda config: config.update(architectures=["Brain"], model_type="brain"),
    "no layers": lambda config: config.update(num_hidden_layers=0),
    "fewer layers": lambda config: config.update(num_hidden_layers=2),
    "more layers": lambda config: config.update(num_hidden_layers=9),
    "negative width": lambda config: config.update(hidden_size=-32),
    "another width": lambda config: config.update(hidden_size=64),
    "width is a text": lambda config: config.update(hidden_size="wide"),
    "heads do not divide the width": lambda config: config.update(num_attention_heads=5, num_key_value_heads=5),
    "no heads": lambda config: config.update(num_attention_heads=0),
    "another vocabulary": lambda config: config.update(vocab_size=7),
    "unknown activation": lambda config: config.update(hidden_act="spike"),
    "an encoder": lambda config: config.update(model_type="bert", architectures=["BertModel"]),
    "an encoder-decoder": lambda config: config.update(model_type="t5", architectures=["T5ForConditionalGeneration"]),
    "code of its own": lambda config: config.update(auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil"),
    "quantised in an unknown way": lambda config: config.update(quantization_config={"quant_method": "magic"}),
}
_GGUF = {
    "empty": b"",
    "text": b"not a model\n" * 10,
    "only the magic number": b"GGUF",
    "a future version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "no tensors": b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
    "more tensors than bytes": b"GGUF" + struct.pack("<IQQ", 3, 10**6, 10**6),
    "a cut key": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 10**9) + b"general",
    "an unsupported architecture": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 20)
    + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"brain" + bytes(32),
    "an architecture that is a number": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 20)
    + b"general.architecture" + struct.pack("<II", 4, 5) + bytes(32),
}  # fmt: skip


def _evaluate(room, model):
    return command("evaluate", model, "--text", room.heldout, "--context", 64)


def _same_or_refused(room, model, name):
    answer = _evaluate(room, model).clear()
    if answer.code == 0 and answer.perplexity != _evaluate(room, room.model).perplexity and not answer.warned:
        raise Wrong(f"another perplexity: {answer.out}")
    if answer.code == 2 and name and str(name) not in answer.err:
        raise Unclear(f"does not name {name}: {answer.err}")


def _damaged_model(room, name, damage):
    model = room.copy("model")
    spoil(model / name, damage)
    _same_or_refused(room, model, model.name)


def _changed_config(room, change):
    model = room.copy("model")
    config = json.loads((model / "config.json").read_text())
    change(config)
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text("raise SystemExit('code of the model ran')")
    if change is _CONFIGS["quantised in an unknown way"]:  # transformers says so, and reads the plain weights
        return _same_or_refused(room, model, model.name)
    answer = _evaluate(room, model).refused(model.name)
    if "code of the model ran" in answer.err + answer.out:
        raise Lost("code that came with a model was run")
    command("info", model).refused(model.name)
    return None


def _bad_gguf(room, content):
    path = room.fresh("model.gguf")
    path.write_bytes(content)
    _evaluate(room, path).refused("model.gguf")
    command("info", path).refused("model.gguf")


def _damaged_pruned(room, name, damage):
    if not (room.folder / "pruned").is_dir():
        _prune(room, room.folder / "pruned").worked()
    pruned = room.copy("pruned")
    spoil(pruned / name, damage)
    answer = _evaluate(room, pruned).clear()
    if answer.code == 0 and answer.perplexity != _evaluate(room, room.folder / "pruned").perplexity:
        raise Wrong(f"another perplexity: {answer.out}")


def _prune(room, out, *more):
    return command("prune", "--model", room.model, "--text", room.corpus, "--recipe", "flap", "--out", out, *more)


# ----------------------------------------------------------------------------------------------------------- numerics
@KINDS.register("numbers that are not finite or not a model's")
def numerics(room):
    """Weights that are nan, infinite, huge or missing, for every command that reads a model."""
    for value in (math.nan, math.inf, -math.inf):
        for weight in ("model.norm.weight", "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight",
                       "lm_head.weight", "model.layers.0.input_layernorm.weight"):  # fmt: skip
            for what in ("evaluate", "record", "prune", "grid", "info"):
                yield f"{what}: {weight} is {value}", partial(_numbers, room, what, weight, value)
    for what in ("evaluate", "record", "prune"):
        yield f"{what}: overflow in float16", partial(_numbers, room, what, "model.embed_tokens.weight", 3e4, "float16")
        yield f"{what}: huge weights", partial(_numbers, room, what, "model.layers.1.mlp.up_proj.weight", 3e38)
    for weight in ("lm_head.weight", "model.layers.2.mlp.gate_proj.weight"):
        for change in ("missing", "renamed", "transposed"):
            yield f"{weight} is {change}", partial(_tensors, room, weight, change)


def _numbers(room, what, weight, value, dtype="float32"):
    from safetensors.torch import load_file, save_file

    model = room.copy("model")
    tensors = load_file(model / "model.safetensors")
    tensors[weight].view(-1)[: 3 if abs(value) == math.inf or value != value else None] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    new = room.fresh()
    args = {
        "evaluate": (model, "--text", room.heldout, "--context", 64, "--dtype", dtype),
        "record": (*_without(room.record(new)[1:], "--model"), "--model", model, "--dtype", dtype),
        "prune": ("--model", model, "--text", room.corpus, "--recipe", "flap", "--out", new, "--dtype", dtype),
        "grid": ("--model", model, "--text", room.corpus, "--out", new, "--test-text", room.heldout,
                 "--scores", "flap", "--allocations", "uniform", "--compensations", "none"),
        "info": (model,),
    }[what]  # fmt: skip
    answer = command(what, *args).clear()
    if answer.code == 0 and what != "info":
        made = [t for p in new.rglob("*.safetensors") for t in load_file(p).values()] if new.is_dir() else []
        if "nan" in answer.out or "inf" in answer.out.replace("info", "") or not all(t.isfinite().all() for t in made):
            raise Wrong(f"goes on: {answer.out[-200:]}")
        if (value != value or abs(value) == math.inf) and not _unread(weight):
            raise Wrong(f"goes on with {value} in {weight}")


def _unread(weight):
    return "embed_tokens" in weight or "lm_head" in weight  # rows of tokens that no text has


def _tensors(room, weight, change):
    from safetensors.torch import load_file, save_file

    model = room.copy("model")
    tensors = load_file(model / "model.safetensors")
    found = tensors.pop(weight)
    if change == "renamed":
        tensors[weight + "s"] = found
    elif change == "transposed":
        tensors[weight] = found.T.contiguous()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    _evaluate(room, model).refused(weight)


# ------------------------------------------------------------------------------------------------------------ content
_HOSTILE = {
    "markup": "<script>alert(1)</script> & <img src=x onerror=alert(2)>",
    "formula": '=HYPERLINK("http://x") the cat +1 -1 @sum',
    "missing": "n/a nan NaN null None the cat",
    "lines": "the cat\rsat\u2028on\u2029a\x85mat\ttab \\n \\t \\\\ end",
    "control": "the \x01 cat \x1b[31m red \x7f",
    "joined": "👩‍👩‍👧‍👦 e\u0301 \u202ereversed\u202c ﷽ the cat",
    "front matter": "---\nlicense: evil\n---\nthe cat",
    "template": "{{ 7*7 }} {% raw %} ${x} the cat",
    "surrogates": "the cat \ud83d and a dog",
}


@KINDS.register("hostile content")
def hostile_content(room):
    """Texts, names and ids that are code for some reader; they come back as they are, and pages escape them."""
    for name, text in _HOSTILE.items():
        yield f"text: {name}", partial(_hostile_text, room, text)
    for name in ("<b>x</b>", "..", "a b", "-rf", "ä", "n/a", "CON", "x" * 100, "=1+1", "$(touch x)"):
        yield f"corpus called {name!r}", partial(_hostile_name, room, name)
    for label in ("../../outside", "/abs", "a/b", "", ".", "x\n", None, 5, ["a"]):
        yield f"label {label!r}", partial(_hostile_label, room, label)
    for scale in ("/etc/passwd", "../../../../outside.nii.gz", None, 5, ["x"]):
        yield f"scale {scale!r}", partial(_hostile_scale, room, scale)


def _hostile_text(room, text):
    from llmbrain.dataset import open_recording

    path, study = room.fresh("texts.jsonl"), room.fresh()
    ids = ["=1+1", "n/a", "a\tb\r\n", "<i>"]
    rows = [{"text": f"{text} {i} the road to town", "id": identity} for i, identity in enumerate(ids)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    made = command("record", "--model", room.model, "--text", path, "--out", study)
    if "\ud83d" in text:
        made.refused("half of a character")
        return
    made.worked()
    events = open_recording(study).events
    if list(dict.fromkeys(events["document"])) != ids:
        raise Wrong(f"ids come back as {list(dict.fromkeys(events['document']))}")
    from tiny import tiny_tokenizer

    found = tiny_tokenizer().decode(events["token_id"][events["document"] == "n/a"].tolist())
    wanted = rows[1]["text"].encode("utf-8", "replace").decode()
    if found != wanted:
        raise Wrong(f"text comes back as {found!r}")
    command("networks", study, "--n-components", 2, "--n-repeats", 0).worked()
    command("report", study).worked()
    page = (study / "report.html").read_text()
    if "<script>alert(1)" in page or "<img src=x onerror" in page:
        raise Wrong("the report holds the markup as markup")


def _hostile_name(room, name):
    folder = room.fresh("here")
    corpus = folder / (name if name not in ("..", "n/a") else "x") if name != "n/a" else folder / "n" / "a"
    corpus.mkdir(parents=True)
    for path in room.corpus.iterdir():
        shutil.copy(path, corpus)
    study = room.fresh()
    before = set(room.folder.iterdir())
    command(*_without(room.record(study), "--text"), "--text", f"{corpus}/../x" if name == ".." else corpus).worked()
    command("networks", study, "--n-components", 2, "--n-repeats", 0).worked()
    command("report", study).worked()
    if set(room.folder.iterdir()) != before:
        raise Lost("files appeared outside of the study")
    if "<b>x</b>" in (study / "report.html").read_text():
        raise Wrong("the report holds the name as markup")


def _hostile_label(room, label):
    study = room.copy()
    for path in study.rglob("study.json"):
        info = json.loads(path.read_text())
        info["labels"]["task"] = label
        path.write_text(json.dumps(with_hashes(info)))  # whoever forges a label forges its hash
    for what in ("networks", "report"):
        command(what, study).refused("study.json")
    if sorted(p.name for p in study.parent.iterdir()) != ["study"]:
        raise Lost("files appeared outside of the study")


def _hostile_scale(room, scale):
    study = room.copy()
    side = next(study.rglob("*_bold.json"))
    content = json.loads(side.read_text())
    content["Scale"] = scale
    side.write_text(json.dumps(with_hashes(content)))
    answer = command("networks", study, "--n-components", 3, "--n-repeats", 0).clear()
    if answer.code == 0 and scale is not None:
        raise Wrong("the file is read")
