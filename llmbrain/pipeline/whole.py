"""The whole path from a model to a report, station by station; an interrupted run resumes where it stopped."""

import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from ..dataset import check_study_folder
from ..exceptions import ParameterError
from .stations import compare_pruning, find_networks, lesion_networks

__all__ = ["RunPlan", "run_study"]


@dataclass(frozen=True)
class RunPlan:
    """Amounts and settings of all stations of :func:`run_study`.

    Attributes
    ----------
    n_components : int
        Number of networks.
    n_init : int
        Restarts of the decomposition.
    n_repeats : int
        Decompositions of bootstrapped runs, which measure the stability of each network; 0 for none.
    tokens_per_run : int
        Maximum number of tokens per run; the bootstrap over runs needs many runs.
    record_tokens : int or None
        Tokens to record; None for the whole corpus.
    lesion_networks : int
        Number of networks to lesion: the stable ones first, by share of variance.
    n_controls : int
        Random sets for each network and control family.
    lesion_tokens : int
        Held-out tokens that each condition reads.
    calibration_tokens, evaluation_tokens : int
        Tokens for pruning, and for the perplexity of the pruned models.
    threshold : float
        A neuron belongs to a network if its \\|z\\| exceeds this.
    ratio : float
        Share of the MLP neurons that pruning removes.
    random_state : int
        Seed of all stations.
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
    threshold: float = 3.0
    ratio: float = 0.2
    random_state: int = 0

    def __post_init__(self):
        if not 0 < self.ratio < 1:
            raise ParameterError(f"ratio={self.ratio} must lie between 0 and 1.")
        if not 0 < self.threshold < float("inf"):
            raise ParameterError(f"threshold={self.threshold} must be a positive number.")
        for name, value in asdict(self).items():
            least = 0 if name in ("n_repeats", "random_state") else 1
            if name not in ("ratio", "threshold") and value is not None and value < least:
                raise ParameterError(f"{name}={value} must be at least {least}.")


FULL = RunPlan()
QUICK = RunPlan(
    n_components=8, n_init=3, n_repeats=0, record_tokens=3000, lesion_networks=3, n_controls=5, lesion_tokens=90,
    calibration_tokens=512, evaluation_tokens=384,
)  # fmt: skip


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

    Every station writes its result into the study folder. To resume an interrupted run, repeat the call; with other
    arguments, only the stations that depend on them run again.

    Parameters
    ----------
    model : str or torch.nn.Module
        See :func:`llmbrain.load_model`.
    corpus : str, path or list of str
        See :func:`llmbrain.load_corpus`; networks are found on it and pruning is calibrated on it.
    out : path-like
        The study folder: a new one, an empty one, or that of an interrupted run.
    heldout : str, path or list of str, optional
        Text for lesions and evaluation. By default the demo's own held-out part, or a quarter of the documents, set
        aside before anything is fitted.
    quick : bool
        Use smaller amounts of everything.
    n_components : int, optional
        Number of networks; 20 by default, or 8 with ``quick``.
    threshold : float
        A neuron belongs to a network if its \\|z\\| exceeds this.
    ratio : float
        Share of the MLP neurons that pruning removes.
    dtype, device : str
        How the model is loaded.
    random_state : int
        Seed of all stations.

    Returns
    -------
    pathlib.Path
        The report.
    """
    plan = replace(QUICK if quick else FULL, threshold=threshold, ratio=ratio, random_state=random_state)
    plan = plan if n_components is None else replace(plan, n_components=n_components)
    check_study_folder(out)
    run = _Run(plan, Path(out), *_texts(corpus, heldout, random_state))
    run.load = {"name_or_path": model, "dtype": dtype, "device": device}
    for number, station in enumerate(STATIONS, 1):
        name, start = f"[{number}/{len(STATIONS)}] {station.name}", time.perf_counter()
        print(f"{name} ...", flush=True)
        settings = station.settings(run)
        if settings is not None and run.done.get(station.name) == settings:
            print("   done before with the same settings")
        else:
            station.work(run)
            if settings is not None:
                run.note(station.name, settings)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return run.report


class _Run:
    """The state of one run: its plan, its texts, and what its stations have made so far."""

    def __init__(self, plan, out, train, test):
        self.plan, self.out, self.train, self.test = plan, out, train, test
        self.model = self.tokenizer = self.recording = self.report = None

    @property
    def study(self):
        return self.recording.study

    @cached_property
    def done(self):
        """Settings of the stations that are complete, by name."""
        return self.study.read("progress_json", {})

    def note(self, name, settings):
        """Write down that a station is complete, so that the run can resume after it."""
        self.done[name] = settings
        self.study.write("progress_json", self.done)


class _Station:
    """One station of the path."""

    name = ""

    def settings(self, run):
        """Settings that the result depends on, or None for a station that runs every time."""

    def work(self, run):
        """Make the result."""


class _Model(_Station):
    name = "model"

    def work(self, run):
        from ..models import load_model

        load = dict(run.load)
        run.model, run.tokenizer = load_model(load.pop("name_or_path"), **load)


class _Recording(_Station):
    name = "recording"

    def work(self, run):
        from ..recording import record

        plan = run.plan
        amounts = {"max_tokens": plan.record_tokens, "tokens_per_run": plan.tokens_per_run}
        run.recording = record(run.model, run.tokenizer, run.train, run.out, **amounts)


class _Networks(_Station):
    name = "networks"

    def options(self, run):
        names = ("n_components", "n_init", "n_repeats", "threshold", "random_state")
        return {name: getattr(run.plan, name) for name in names}

    def settings(self, run):
        return {**self.options(run), "n_tokens": run.recording.n_tokens}

    def work(self, run):
        find_networks(run.recording, **self.options(run))


class _Lesions(_Station):
    name = "lesions"

    def options(self, run):
        plan = run.plan
        return {
            "n_networks": plan.lesion_networks, "n_controls": plan.n_controls, "max_tokens": plan.lesion_tokens,
            "threshold": plan.threshold, "random_state": plan.random_state,
        }  # fmt: skip

    def settings(self, run):
        return {**self.options(run), "networks": _Networks().options(run), "text": run.test.hash}

    def work(self, run):
        lesion_networks(run.study, text=run.test, model=run.model, tokenizer=run.tokenizer, **self.options(run))


class _Pruning(_Station):
    name = "pruning"

    def options(self, run):
        names = ("ratio", "calibration_tokens", "evaluation_tokens", "random_state")
        return {name: getattr(run.plan, name) for name in names}

    def settings(self, run):
        return {**self.options(run), "networks": _Networks().options(run), "text": run.test.hash}

    def work(self, run):
        texts = {"calibration": run.train, "evaluation": run.test}
        compare_pruning(run.study, run.model, run.tokenizer, **texts, **self.options(run))


class _Report(_Station):
    name = "report"

    def work(self, run):
        from ..reporting import generate_report

        run.report = generate_report(run.study).save()


STATIONS = (_Model(), _Recording(), _Networks(), _Lesions(), _Pruning(), _Report())


def _texts(corpus, heldout, random_state):
    """Load the text to fit on and the text to test on; no document is in both."""
    from ..text import load_corpus

    if heldout is not None:
        return load_corpus(corpus), load_corpus(heldout)
    if isinstance(corpus, str) and corpus == "demo":
        return load_corpus("demo"), load_corpus("demo", split="heldout")
    texts = load_corpus(corpus)
    if len(texts) < 4:
        raise ParameterError(
            f"The corpus has {len(texts)} documents, too few to set a quarter aside for testing. "
            "Split it into more documents, or pass other text with heldout=."
        )
    return texts.split(0.75, random_state=random_state)
