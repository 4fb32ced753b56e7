"""The whole path from a model to a report, resumable station by station."""

import contextlib
import time
from dataclasses import dataclass, replace

from ..exceptions import ParameterError
from ..files import read_json, write_json
from .stations import compare_pruning, find_networks, lesion_networks

__all__ = ["RunPlan", "run_study"]


@dataclass(frozen=True)
class RunPlan:
    """How much of everything :func:`run_study` does.

    Attributes
    ----------
    n_components : int
        Networks to find.
    n_init : int
        Restarts of the decomposition.
    n_repeats : int
        Decompositions of bootstrapped runs, from which the stability of each network follows; 0 for none.
    tokens_per_run : int
        Most tokens of a run; many runs are what a bootstrap over runs needs.
    record_tokens : int or None
        Tokens to record; None for the whole corpus.
    lesion_networks : int
        Networks that are lesioned: the stable ones first, by share of variance.
    n_controls : int
        Random sets for each network and control family.
    lesion_tokens : int
        Held-out tokens that each condition reads.
    calibration_tokens, evaluation_tokens : int
        Text for pruning, and for the perplexity of its results.
    """

    n_components: int = 20
    n_init: int = 10
    n_repeats: int = 5
    tokens_per_run: int = 1024
    record_tokens: int | None = 10_000
    lesion_networks: int = 6
    n_controls: int = 20
    lesion_tokens: int = 180
    calibration_tokens: int = 2048
    evaluation_tokens: int = 1024


FULL = RunPlan()
QUICK = RunPlan(
    n_components=8,
    n_init=3,
    n_repeats=0,
    record_tokens=3000,
    lesion_networks=3,
    n_controls=5,
    lesion_tokens=90,
    calibration_tokens=512,
    evaluation_tokens=384,
)


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
    from ..models import load_model
    from ..recording import record
    from ..reporting import generate_report

    plan = QUICK if quick else FULL
    plan = replace(plan, n_components=n_components or plan.n_components)
    if not 0 < ratio < 1:
        raise ParameterError(f"ratio must lie between 0 and 1; got {ratio}.")
    train, test = _texts(corpus, heldout, random_state)
    with _station("model"):
        model, tokenizer = load_model(model, dtype=dtype, device=device)
    with _station("recording"):
        recording = record(
            model, tokenizer, train, out, max_tokens=plan.record_tokens, tokens_per_run=plan.tokens_per_run
        )
    study = recording.study
    done = _Progress(study)
    fit = {
        "n_components": plan.n_components,
        "n_init": plan.n_init,
        "n_repeats": plan.n_repeats,
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
    from ..text import load_corpus

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
