"""The stations in a row: what the commands do, and the whole path from a model to a report.

Each function finds what it needs in a study folder and leaves its result there, so that a path that was interrupted
goes on where it stopped.
"""

import contextlib
import platform
import time
from dataclasses import dataclass, replace
from importlib import metadata

from .exceptions import ModelNotFoundError, ParameterError
from .files import read_json, write_json, write_tsv

__all__ = [
    "RunPlan",
    "compare_pruning",
    "describe_environment",
    "describe_sites",
    "find_networks",
    "lesion_networks",
    "run_study",
]

# What the pruning table compares, at one ratio and on one calibration text: score, allocation, compensation, and if
# statistics are taken once in the dense model or again behind each pruned layer, as the package does by default.
PRUNING_RECIPES = (
    ("random", "uniform", "none", "one-shot"),
    ("magnitude", "uniform", "none", "one-shot"),
    ("wanda", "uniform", "none", "one-shot"),
    ("flap", "global", "bias", "one-shot"),
    ("network", "uniform", "none", "one-shot"),
    ("network", "uniform", "affine", "one-shot"),
    ("flap", "schur", "affine", "sequential"),
)


@dataclass(frozen=True)
class RunPlan:
    """How much of everything :func:`run_study` does.

    Attributes
    ----------
    n_components : int
        Networks to find.
    n_init : int
        Restarts of the decomposition.
    record_tokens : int or None
        Tokens to record; None for the whole corpus.
    lesion_networks : int
        Networks that are lesioned, the first by share of variance.
    n_controls : int
        Random sets for each network and control family.
    lesion_tokens : int
        Held-out tokens that each condition reads.
    calibration_tokens, evaluation_tokens : int
        Text for pruning, and for the perplexity of its results.
    """

    n_components: int = 20
    n_init: int = 10
    record_tokens: int | None = 12_000
    lesion_networks: int = 6
    n_controls: int = 20
    lesion_tokens: int = 180
    calibration_tokens: int = 2048
    evaluation_tokens: int = 1536


FULL = RunPlan()
QUICK = RunPlan(
    n_components=8,
    n_init=3,
    record_tokens=3000,
    lesion_networks=3,
    n_controls=5,
    lesion_tokens=120,
    calibration_tokens=1024,
    evaluation_tokens=512,
)


# -- the stations -------------------------------------------------------------------------------------------------
def find_networks(study, *, n_components=20, method="canica", engine="torch", threshold=3.0, n_init=10, random_state=0):
    """Find the functional networks of a study's recording and write them into it.

    Parameters
    ----------
    study : path-like, Study or Recording
        Where the recording is.
    n_components : int
        Number of networks.
    method : {"canica", "dictlearning"}
        The estimator.
    engine : {"torch", "nilearn"}
        The fast engine or the reference.
    threshold : float
        Neurons with a larger \\|z\\| belong to a network in the summary.
    n_init : int
        Restarts of the decomposition.
    random_state : int
        Seed.

    Returns
    -------
    NetworkSet
    """
    from .dataset import open_recording
    from .networks import CanICA, DictLearning

    recording = study if hasattr(study, "runs") else open_recording(study)
    if method not in ("canica", "dictlearning"):
        raise ParameterError(f"Unknown method {method!r}; choose canica or dictlearning.")
    options = {"n_components": n_components, "engine": engine, "random_state": random_state}
    estimator = CanICA(n_init=n_init, **options) if method == "canica" else DictLearning(**options)
    networks = estimator.fit(recording).networks_
    networks.info["threshold"] = threshold
    networks.save(recording.study)
    return networks


def lesion_networks(
    study,
    *,
    text=None,
    model=None,
    tokenizer=None,
    how="zero",
    threshold=3.0,
    n_networks=None,
    n_controls=20,
    max_tokens=600,
    device="cpu",
    random_state=0,
):
    """Lesion the networks of a study, and matched random sets, on text that they were not found on.

    Parameters
    ----------
    study : path-like or Study
        Where recording and networks are.
    text : Corpus, str or list of str, optional
        Held-out text; the demo's own held-out part if the study is of the demo corpus.
    model : torch.nn.Module or str, optional
        The model of the study, or where it is now; by default it is opened by the name that the study knows.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        Its tokenizer, if ``model`` is a loaded model.
    how : str
        Kind of lesion, see :func:`llmbrain.lesion`.
    threshold : float
        Neurons with a larger \\|z\\| are lesioned.
    n_networks : int, optional
        Lesion only the first ones.
    n_controls : int
        Random sets for each network and family.
    max_tokens : int
        Held-out tokens that each condition reads.
    device : str
        Where the model runs.
    random_state : int
        Seed.

    Returns
    -------
    LesionResult
    """
    from .lesions import LesionStudy, LossTask
    from .networks import NetworkSet

    study = _study(study)
    recording = study.recording(study.sites()[0])
    networks = NetworkSet.load(study)
    masks = networks.masks(threshold)[:n_networks]
    empty = [mask.name for mask in masks if not mask.count]
    masks = [mask for mask in masks if mask.count]
    if not masks:
        raise ParameterError(f"No network has a neuron with |z| > {threshold}; choose a lower threshold.")
    model, tokenizer = _model_of(study, model, tokenizer, device)
    task = LossTask(_heldout_of(study, text), n_tokens=max_tokens)
    lesions = LesionStudy(
        masks, tasks=[task], n_controls=n_controls, how=how, reference=recording, random_state=random_state
    )
    print(lesions.forecast(model, tokenizer)["text"])
    result = lesions.run(model, tokenizer, checkpoint=study.root / ".lesion.part.npz")
    result.info["threshold"] = threshold
    result.info["empty_networks"] = empty
    result.save(study)
    return result


def compare_pruning(
    study,
    model,
    tokenizer,
    *,
    calibration,
    evaluation,
    ratio=0.2,
    calibration_tokens=8192,
    evaluation_tokens=3000,
    random_state=0,
):
    """Prune a study's model by several recipes on the same calibration text and write the table into the study.

    Parameters
    ----------
    study : path-like or Study
        Where the networks are, and where the table goes.
    model, tokenizer : transformers model and tokenizer
        The dense model; it is left as it is.
    calibration, evaluation : Corpus
        Text on which statistics are taken, and other text on which perplexity is measured.
    ratio : float
        Share of the MLP neurons that is removed.
    calibration_tokens, evaluation_tokens : int
        How much of each text is read.
    random_state : int
        Seed.

    Returns
    -------
    pandas.DataFrame
        See :func:`llmbrain.run_grid`.
    """
    from .geometry import NeuronGeometry
    from .networks import NetworkSet
    from .pruning import run_grid
    from .pruning.compensation import default_ridge

    study = _study(study)
    context = min(512, calibration_tokens)
    # One penalty for all, by the rule for its calibration size: choosing it on held-out text takes ten times as long.
    shared = {
        "ridge": default_ridge(calibration_tokens, max(NeuronGeometry.from_model(model).sizes)),
        "context": context,
    }
    variants = {"one-shot": {"propagation": "one-shot"}, "sequential": {"propagation": "sequential"}}
    table = run_grid(
        model,
        tokenizer,
        calibration,
        evaluation,
        ratios=(ratio,),
        recipes=PRUNING_RECIPES,
        variants=variants,
        seeds=(random_state,),
        networks=NetworkSet.load(study).z,
        options={"n_tokens": calibration_tokens, **shared},
        context=context,
        max_tokens=evaluation_tokens,
    )
    write_tsv(study.path("prune_table"), table)
    info = {
        "calibration": {"corpus": calibration.name, "hash": calibration.hash, "n_tokens": calibration_tokens},
        "evaluation": {"corpus": evaluation.name, "hash": evaluation.hash, "n_tokens": evaluation_tokens},
        "context": context,
        "random_state": random_state,
        "ratio_of": "neurons",
        "options": shared,
        "variants": variants,
    }
    write_json(study.path("prune_json"), info)
    return table


# -- the whole path -----------------------------------------------------------------------------------------------
def run_study(
    model="demo",
    corpus="demo",
    out="study",
    *,
    heldout=None,
    quick=False,
    n_components=None,
    threshold=3.0,
    ratio=0.2,
    dtype="float32",
    device="cpu",
    random_state=0,
):
    """Take a model through the whole path: record, networks, lesions, pruning, report.

    Every station leaves its result in the study folder. Called again with the same arguments, it goes on where it was
    interrupted; with other arguments only the stations that depend on them are done again.

    Parameters
    ----------
    model : str or torch.nn.Module
        What :func:`llmbrain.load_model` takes.
    corpus : str, path or list of str
        What :func:`llmbrain.load_corpus` takes; networks are found on it and pruning is calibrated on it.
    out : path-like
        The study folder.
    heldout : str, path or list of str, optional
        Text for lesions and evaluation. By default the demo's own held-out part, or a quarter of the documents, which
        are then set aside before anything is fitted.
    quick : bool
        Less of everything.
    n_components : int, optional
        Number of networks; 20, or 8 if quick.
    threshold : float
        Neurons with a larger \\|z\\| belong to a network.
    ratio : float
        Share of the MLP neurons that pruning removes.
    dtype, device : str
        How the model is opened.
    random_state : int
        Seed of everything that is drawn.

    Returns
    -------
    pathlib.Path
        The report.
    """
    from .models import load_model
    from .recording import record
    from .reporting import generate_report

    plan = QUICK if quick else FULL
    plan = replace(plan, n_components=n_components or plan.n_components)
    if not 0 < ratio < 1:
        raise ParameterError(f"ratio must lie between 0 and 1; got {ratio}.")
    train, test = _texts(corpus, heldout, random_state)
    with _station("model"):
        model, tokenizer = load_model(model, dtype=dtype, device=device)
    with _station("recording"):
        recording = record(model, tokenizer, train, out, max_tokens=plan.record_tokens)
    study = recording.study
    done = _Progress(study)
    fit = {
        "n_components": plan.n_components,
        "n_init": plan.n_init,
        "threshold": threshold,
        "random_state": random_state,
    }
    with _station("networks"), done("networks", {**fit, "n_tokens": recording.n_tokens}) as todo:
        if todo:
            find_networks(recording, **fit)
    cut = {
        "n_networks": plan.lesion_networks,
        "n_controls": plan.n_controls,
        "max_tokens": plan.lesion_tokens,
        "threshold": threshold,
        "random_state": random_state,
    }
    with _station("lesions"), done("lesions", {**cut, "networks": fit, "text": test.hash}) as todo:
        if todo:
            lesion_networks(study, text=test, model=model, tokenizer=tokenizer, **cut)
    shrink = {
        "ratio": ratio,
        "calibration_tokens": plan.calibration_tokens,
        "evaluation_tokens": plan.evaluation_tokens,
    }
    with _station("pruning"), done("pruning", {**shrink, "networks": fit, "text": test.hash}) as todo:
        if todo:
            compare_pruning(
                study, model, tokenizer, calibration=train, evaluation=test, random_state=random_state, **shrink
            )
    with _station("report"):
        return generate_report(study).save()


@contextlib.contextmanager
def _station(name):
    """Say which station is at work and how long it took."""
    start = time.perf_counter()
    print(f"== {name}", flush=True)
    yield
    print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)


class _Progress:
    """What of a study is done, and with which settings: kept in the study, so that a path can be resumed."""

    def __init__(self, study):
        self.path = study.path("progress_json")
        self.done = read_json(self.path) if self.path.is_file() else {}

    @contextlib.contextmanager
    def __call__(self, name, settings):
        """Give True if the station is to be run; note its settings when it has ended well."""
        todo = self.done.get(name) != settings
        if not todo:
            print("   done before with the same settings")
        yield todo
        if todo:
            self.done[name] = settings
            write_json(self.path, self.done)


def _texts(corpus, heldout, random_state):
    """The text to fit on and the text to test on; no document is in both."""
    from .corpus import load_corpus

    if heldout is not None:
        return load_corpus(corpus), load_corpus(heldout)
    if isinstance(corpus, str) and corpus == "demo":
        return load_corpus("demo"), load_corpus("demo", split="heldout")
    texts = load_corpus(corpus)
    if len(texts) < 4:
        raise ParameterError(
            f"The corpus has {len(texts)} documents, too few to set a quarter aside for testing. "
            "Cut it into more documents, or give the text to test on with heldout=."
        )
    return texts.split(0.75, random_state=random_state)


def _study(study):
    from .dataset import Study

    return study if isinstance(study, Study) else Study.open(study)


def _heldout_of(study, text):
    """Text to test on, if it was not given: the demo's held-out part for a study of the demo corpus."""
    from .corpus import as_corpus, load_corpus

    if text is not None and text != "demo":
        return as_corpus(text)
    if study.info["corpus"]["name"] != "demo":
        raise ParameterError("Say on which text the lesions are measured (text=, --text); not the recorded one.")
    return load_corpus("demo", split="heldout")


def _model_of(study, model, tokenizer, device):
    """Open the model of a study and make sure that it is the one that was recorded."""
    from .models import describe_model, load_model
    from .models.loading import DEMO_NAME

    known = study.info["model"]
    name = model if model is not None else "demo" if known["id"] == DEMO_NAME else known["id"]
    opened, tokenizer = load_model(name, dtype=known["dtype"], device=device, tokenizer=tokenizer)
    found = describe_model(opened)["weights_hash"]
    if found != known["weights_hash"]:
        raise ModelNotFoundError(
            f"{name!r} is not the model of this study: its weights hash is {found}, the study's "
            f"{known['weights_hash']} ({known['id']}). Say where that model is with model= (--model)."
        )
    return opened, tokenizer


# -- looking around -----------------------------------------------------------------------------------------------
def describe_environment():
    """Versions of the libraries that results depend on, and the devices that torch sees, as text.

    Returns
    -------
    str
    """
    import torch

    from . import __version__

    names = ("nilearn", "scikit-learn", "torch", "transformers", "numpy", "scipy", "nibabel", "matplotlib", "gguf")
    lines = [f"llmbrain {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    for name in names:
        try:
            lines.append(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"  {name} is not installed")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(f"  devices: cpu ({torch.get_num_threads()} threads){''.join(', ' + name for name in gpus)}")
    return "\n".join(lines)


def describe_sites(model, n_tokens=10_000):
    """What can be recorded in a model, how large it is, and what a recording would weigh, as text.

    Parameters
    ----------
    model : str or torch.nn.Module
        What :func:`llmbrain.load_model` takes.
    n_tokens : int
        Tokens of the recording that is weighed.

    Returns
    -------
    str
    """
    from .exceptions import UnsupportedArchitectureError
    from .geometry import NeuronGeometry
    from .models import SITES, describe_model, find_sites, load_model

    model, _ = load_model(model)
    about = describe_model(model)
    lines = [
        f"{about['id']}: {about['architecture']}, {about['n_layers']} layers, {about['n_parameters']:,} parameters, "
        f"weights hash {about['weights_hash']}",
        f"{'site':<11} {'neurons':>9}  {'volume':<16} {f'{n_tokens:,} tokens':>14}  first module",
    ]
    for site in SITES:
        try:
            found = find_sites(model, site)
        except UnsupportedArchitectureError as error:
            lines.append(f"{site:<11} {'-':>9}  {str(error).splitlines()[0]}")
            continue
        geometry = NeuronGeometry.from_sites(found, site)
        volume = " x ".join(map(str, geometry.shape))
        size = f"{4 * geometry.n_voxels * n_tokens / 2**30:.2f} GiB"
        lines.append(
            f"{site:<11} {geometry.n_neurons:>9,}  {volume:<16} {size:>14}  {found[0].where} of {found[0].name}"
        )
    return "\n".join(lines)
