"""The notebooks: paired with their scripts, executed, clean; and they run on the demo model."""

import importlib.util
import io
import re
from pathlib import Path

import pandas as pd
import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
if not FOLDER.is_dir():
    pytest.skip("the notebooks are not in an installed package", allow_module_level=True)


def _load_build():
    spec = importlib.util.spec_from_file_location("notebooks_build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _load_build()
SCRIPTS = build.scripts()
NAMES = [path.stem for path in SCRIPTS]
RUN = [path for path in SCRIPTS if path.name[:2] in ("00", "06")]  # the others take minutes: make notebooks
FIGURES = {"00": 3, "01": 3, "02": 5, "03": 3, "04": 2, "05": 3, "06": 1, "07": 2}  # fewest figures of each notebook


def _executed(script):
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def _outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def _text(output):
    return output.text if output.output_type == "stream" else "".join(map(str, output.get("data", {}).values()))


def test_they_are_numbered():
    assert [int(name[:2]) for name in NAMES] == list(range(len(NAMES)))


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_paired_with_its_script(script):
    """The notebook holds the cells of the script, word by word."""
    ours, theirs = build.read(script), _executed(script)
    assert [(c.cell_type, c.source) for c in ours.cells] == [(c.cell_type, c.source) for c in theirs.cells]
    assert [c.id for c in ours.cells] == [c.id for c in theirs.cells]


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_executed_in_order_and_without_complaints(script):
    """Every cell ran, from the first to the last; nothing was said to the error stream."""
    code = [cell for cell in _executed(script).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    complaints = [output for cell in code for output in cell.outputs if output.get("name") == "stderr"]
    assert complaints == []
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_figures_are_in_it(script):
    pictures = [output for output in _outputs(_executed(script)) if "image/png" in output.get("data", {})]
    assert len(pictures) >= FIGURES[script.name[:2]]


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_no_trace_of_the_machine(script):
    """No absolute path in any output."""
    for output in _outputs(_executed(script)):
        found = re.search(
            r"(?<![\w.<:/])/(home|root|work|tmp|Users|usr|opt|var)/", re.sub(r"data:\S+", "", _text(output))
        )
        assert found is None, _text(output)[max(0, found.start() - 80) : found.end() + 80]


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_links_lead_somewhere(script):
    for cell in build.read(script).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((\w+\.ipynb)\)", cell.source):
                assert (FOLDER / target).is_file(), target


def test_short_enough_to_read():
    for script in SCRIPTS:
        assert len(build.read(script).cells) <= 32, script.name


def test_what_quick_runs_leave_out_is_there():
    everything = "".join(cell.source + "\n" for script in SCRIPTS for cell in build.read(script).cells)
    assert all(much in everything for much in build.SHORTER)


def test_a_change_of_words_keeps_the_outputs():
    script = SCRIPTS[-1]
    told = build.retell(build.read(script), _executed(script))
    assert [c.outputs for c in told.cells if c.cell_type == "code"] == [
        c.outputs for c in _executed(script).cells if c.cell_type == "code"
    ]
    changed = build.read(script)
    next(c for c in changed.cells if c.cell_type == "code").source += "\nprint()"
    with pytest.raises(SystemExit, match="code has changed"):
        build.retell(changed, _executed(script))


# ------------------------------------------------------------------------------------------------ what the prose claims
def _tables(number):
    """Tables that a notebook shows, in order, with the first column as index."""
    (script,) = build.scripts([number])
    found = []
    for output in _outputs(_executed(script)):
        html = output.get("data", {}).get("text/html", "")
        if 'class="dataframe"' in html:
            (table,) = pd.read_html(io.StringIO(html), index_col=0)
            if isinstance(table.columns, pd.MultiIndex):  # a named index has a row of its own
                table.columns = table.columns.get_level_values(0)
            found.append(table)
    return found


def _prose(number):
    (script,) = build.scripts([number])
    return " ".join(" ".join(c.source for c in build.read(script).cells if c.cell_type == "markdown").split())


def _numbers(number, sentence):
    """Whole numbers in the prose of a notebook, where ``sentence`` has ``#``."""
    found = re.search(re.escape(sentence).replace(r"\#", "#").replace("#", r"(\d+)"), _prose(number))
    assert found, f"notebook {number} no longer says: {sentence}"
    return [int(text) for text in found.groups()]


def _printed(number, pattern):
    """Numbers in what a notebook has printed, where ``pattern`` has groups."""
    (script,) = build.scripts([number])
    found = re.search(pattern, "".join(map(_text, _outputs(_executed(script)))))
    assert found, f"notebook {number} no longer prints: {pattern}"
    return [float(text.replace(",", "")) for text in found.groups()]


def test_a_lesion_does_harm_and_a_cut_does_little():
    """Notebook 0: "always does some harm"; pruning "chose its neurons so that little is lost"."""
    intact, lesioned = _printed("00", r"perplexity (\S+) intact, (\S+) without")
    before, after = _printed("00", r"perplexity (\S+) before, (\S+) after")
    assert before == intact < after < 1.1 * intact < lesioned
    assert min(_printed("00", r"network-01 +([+-]\S+) .*\n +network-00 +([+-]\S+) ")) > 0


def test_sinks_are_what_the_prose_says():
    """Notebook 1: silent at *the* and single spaces, after an enormous activation; neurons differ in scale."""
    silent = _tables("01")[-2]
    assert silent.silent.iloc[:2].min() > 20 > 2 * silent.silent.iloc[2]
    inside, outside = _printed("01", r"layer 2: (\S+) there, (\S+) elsewhere")
    (median, largest), (share,) = _printed("01", r"median (\S+), largest (\S+)"), _printed("01", r"hold (\d+)% of all")
    assert inside > 20 * outside and largest > 100 * median and share > 10


def test_networks_are_found_again_only_in_a_trained_model():
    """Notebook 2: "without it nothing is found again"."""
    shares = _tables("02")[3]
    assert shares.loc["max", "untrained"] < 0.5 < 0.7 < shares.loc["max", "trained"]
    curve = _tables("02")[2].set_index("n_components")
    assert curve.n_reproduced[30] > curve.n_reproduced[10] and curve.share[30] < curve.share[10]


def test_lesions_are_what_the_prose_says():
    """Notebook 3, claim by claim."""
    loss, items, pair, gains, kept = _tables("03")[2:7]
    own, top, matched = loss["network itself"], loss["top"], loss["layer+importance"]
    assert (own > 5 * loss["random"])["all"] and own["all"] > matched["all"]
    single = [name for name in loss.index if name.startswith("network")]
    assert (own[single] < 0.5).all() and (top[single] > 5 * own[single]).all()
    assert loss["importance ratio"]["all"] < 0.5 < 0.9 < loss["importance ratio"]["all, |z| > 4.5"] < 1.1
    beyond = items.effect > items.control_max
    arithmetic, code = items.network.iloc[0], items.network.iloc[1]
    meant = ((items.network == arithmetic) & items.task.str.endswith("arithmetic")) | (
        (items.network == code) & items.task.str.endswith("code")
    )
    assert (beyond == meant).all() and len(pair) == 1
    assert (gains.effect >= 0).all()
    perplexity = kept.set_index("kept").perplexity
    order = ["everything", "the most important", "the networks", "as many others"]
    assert perplexity[order].is_monotonic_increasing and perplexity["the most important"] > 1000


def test_figures_of_the_pruning_prose_are_those_of_the_table():
    """Notebook 4: every number in the paragraph below the table."""
    table, overlap = _tables("04")[:2]
    at = table[table.ratio == 0.2]

    def of(score, compensation="none"):
        return sorted(at[(at.score == score) & (at.compensation == compensation)].perplexity)

    dense = table[table.score == "dense"].perplexity.iloc[0]
    rows = [*of("network"), *of("random")]
    assert _numbers("04", "(# against # and # at a fifth of the neurons)") == [round(x) for x in rows]
    both = _numbers("04", "(both #; the intact model has #)")
    assert {both[0]} == {round(x) for x in of("flap") + of("wanda")} and both[1] == round(dense)
    assert of("magnitude")[0] > max(of("random"))
    assert _numbers("04", "FLAP falls to #, the network rule rises to hundreds") == [round(of("flap", "affine")[0])]
    assert 100 < of("network", "affine")[0] < 1000
    assert overlap.loc["random", "flap"] == pytest.approx(2 / 3, abs=0.01)


def test_localizers_are_what_the_prose_says():
    """Notebook 5: shuffled labels, reproducible maps, and lesions within their controls."""
    labels, again, effects, pair = _tables("05")
    shuffled = labels.drop(columns="true labels")
    assert (shuffled.loc["item"] < 10).all() and (shuffled.loc["token"] > 1000).all()
    assert (again["r of z maps between halves"] > 0.8).all()
    assert (effects.effect < effects.control_max).all() and (pair.q > 0.05).all()


def test_two_models_are_what_the_prose_says():
    """Notebook 7: kept networks, what they follow, and the effects of their lesions. It ran with all three models."""
    scores, scale, shared, effects = _tables("07")
    assert list(scores.columns) == ["sub-pruned", "sub-unrelated"]
    kept, n_networks = scale["kept"], len(scores)
    assert kept["whole, another start"] == n_networks and n_networks - 2 <= kept["pruned"] < n_networks
    assert n_networks / 2 < kept["unrelated"] < kept["pruned"]
    assert (shared["q"] < 0.05).all() and not re.search("[a-z]", "".join(map(str, shared["words"].iloc[:2])))
    assert (effects.effect > effects.controls).all() and (effects.match_effect > effects.match_controls).all()
    assert (effects.effect - effects.match_effect).abs().max() < 0.15 and len(effects) == 3
    assert effects.effect.idxmax() == effects.match_effect.idxmax()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all, so that the recording that several notebooks use is made once."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.demo
@pytest.mark.parametrize("script", RUN, ids=lambda path: path.stem)
def test_runs(script, folder, demo_model):
    """From the script, with less of everything."""
    del demo_model  # skips where the demo model is missing; the kernel opens its own
    notebook = build.execute(build.read(script), folder, quick=True, timeout=300)
    figures = [output for output in _outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(figures) >= FIGURES[script.name[:2]]
