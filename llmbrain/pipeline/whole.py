"""The whole path from a model to a report, station by station; an interrupted run resumes where it stopped."""

import time
from dataclasses import asdict, dataclass, replace

from ..dataset import check_study_folder
from ..exceptions import ParameterError, check_count, check_seed, is_number
from ..files import as_path
from ..geometry import NeuronGeometry
from ..models.speed import duration, measure_machine
from ..networks.result import networks_name
from ..text import load_corpus
from ..text.corpus import is_demo, load_heldout
from .finding import find_networks
from .lesioning import lesion_networks
from .limits import check_limits
from .pruning import PRUNING_RECIPES, compare_pruning

N_PASSES = 9  # of the model over the calibration text, for all recipes of the pruning table together


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
    controls : tuple of str
        Control families.
    lesion_tokens : int
        Held-out tokens that each condition reads, at least 64 of each document.
    calibration_tokens, test_tokens : int
        Tokens for pruning, and for the perplexity of the pruned models.
    threshold : float
        A neuron belongs to a network if its \\|z\\| exceeds this.
    ratio : float
        Share of the MLP neurons that pruning removes.
    random_state : int
        Seed of all stations.
    context : int or None
        Tokens that the model reads at once; None for the default of each station, or the model's maximum.
    """

    n_components: int = 20
    n_init: int = 10
    n_repeats: int = 5
    tokens_per_run: int = 1024
    record_tokens: int | None = 10_000
    lesion_networks: int = 4
    n_controls: int = 20
    controls: tuple = ("layer+importance",)
    lesion_tokens: int = 390
    calibration_tokens: int = 2048
    test_tokens: int = 1024
    threshold: float = 3.0
    ratio: float = 0.2
    random_state: int = 0
    context: int | None = None

    def __post_init__(self):
        if not is_number(self.ratio) or not 0 < self.ratio < 1:
            raise ParameterError(f"ratio={self.ratio!r} must lie between 0 and 1.")
        if not is_number(self.threshold) or self.threshold <= 0:
            raise ParameterError(f"threshold={self.threshold!r} must be a positive number.")
        check_seed(self.random_state)
        for name, value in asdict(self).items():
            if name not in ("ratio", "threshold", "controls", "random_state"):
                least = {"n_repeats": 0, "context": 2}.get(name, 1)
                check_count(name, value, least, optional=name in ("record_tokens", "context"))


FULL = RunPlan()
QUICK = RunPlan(
    n_components=8, n_init=3, n_repeats=0, record_tokens=3000, lesion_networks=3, n_controls=5, lesion_tokens=130,
    calibration_tokens=512, test_tokens=384,
)  # fmt: skip


def run_study(
    model="demo",
    text="demo",
    out="study",
    *,
    test_text=None,
    quick=False,
    n_components=None,
    threshold=3.0,
    ratio=0.2,
    context=None,
    dtype="auto",
    device="auto",
    random_state=0,
):
    """Take a model through the whole path: record, networks, lesions, pruning, report.

    The limits of all stations are checked before the first one starts. Every station writes its result into the study
    folder. To resume an interrupted run, repeat the call: results that were made with the same settings from the same
    sources are kept, and the others are made again.

    Parameters
    ----------
    model : str or torch.nn.Module
        See :func:`llmbrain.load_model`.
    text : str, path or list of str
        See :func:`llmbrain.load_corpus`; networks are found on it and pruning is calibrated on it.
    out : path-like
        The study folder: a new one, an empty one, or that of an interrupted run.
    test_text : str, path or list of str, optional
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
    context : int, optional
        Tokens that the model reads at once; by default 1024 for the recording and 512 elsewhere, or the model's
        maximum.
    dtype, device : str
        See :func:`llmbrain.load_model`.
    random_state : int
        Seed of all stations.

    Returns
    -------
    pathlib.Path
        The report.
    """
    plan = replace(
        QUICK if quick else FULL, threshold=threshold, ratio=ratio, random_state=random_state, context=context
    )
    plan = plan if n_components is None else replace(plan, n_components=n_components)
    check_study_folder(out, [model, text, test_text])
    run = _Run(plan, as_path(out), *_texts(text, test_text, random_state))
    run.name, run.loading = model, {"dtype": dtype, "device": device}
    began = time.perf_counter()
    for number, (station, work) in enumerate(STATIONS.items(), 1):
        name, start, spent = f"[{number}/{len(STATIONS)}] {station}", time.perf_counter(), time.process_time()
        if station == "recording":
            run.forecast = forecast_run(run)
            print(_forecast_in_words(run.forecast), flush=True)
        expected = run.forecast.get(station)
        print(f"{name} ...{f' (about {duration(expected)})' if expected else ''}", flush=True)
        work(run)
        took, used = time.perf_counter() - start, time.process_time() - spent
        print(f"{name}: {took:.0f} s ({used:.0f} s of processor time)", flush=True)
    print(f"All {len(STATIONS)} stations: {duration(time.perf_counter() - began)}", flush=True)
    return run.report


def forecast_run(run):
    """Estimate the seconds of every station, if none is done before, from its amounts and the speed of this machine."""
    from ..models.surgery import prunable_mlps
    from ..pruning import COMPENSATIONS
    from ..pruning.expected import refit_products

    plan, speed = run.plan, measure_machine(run.model)
    n_tokens = plan.record_tokens or 250 * len(run.train)
    n_neurons = NeuronGeometry.from_model(run.model).n_neurons
    conditions = 1 + plan.lesion_networks * (1 + plan.n_controls * len(plan.controls))
    reads = N_PASSES * plan.calibration_tokens + len(PRUNING_RECIPES) * plan.test_tokens
    n_refits = sum(COMPENSATIONS[compensation].ridge for _, _, compensation, _ in PRUNING_RECIPES)
    refits = n_refits * refit_products(prunable_mlps(run.model), plan.calibration_tokens, plan.ratio)
    # Gram matrices of the runs, the decomposition, and as much again for every repetition and for the two halves
    gram = n_neurons * n_tokens * plan.tokens_per_run
    fits = (3 + plan.n_repeats) * 40 * n_neurons * plan.n_components**2 * plan.n_init
    return {
        "recording": 1.3 * speed.of_tokens(n_tokens),
        "networks": 1.7 * (3 * speed.of_products(gram) + speed.of_products(fits)),  # with reading and resampling
        "lesions": speed.of_tokens(conditions * plan.lesion_tokens + 2000),
        "pruning": speed.of_tokens(reads) + speed.of_products(refits),
        "report": 5.0 + 50.0 * min(n_neurons / 200_000, 1.0),
    }


def _forecast_in_words(forecast):
    parts = ", ".join(f"{station} {duration(seconds)}" for station, seconds in forecast.items())
    return f"Forecast: about {duration(sum(forecast.values()))} on this machine as it is now ({parts})."


class _Run:
    """The state of one run: its plan, its texts, the name of its networks, and what its stations have made so far."""

    def __init__(self, plan, out, train, test):
        self.plan, self.out, self.train, self.test = plan, out, train, test
        self.networks = networks_name("canica", plan.n_components)
        self.model = self.tokenizer = self.recording = self.report = None
        self.forecast = {}

    @property
    def study(self):
        return self.recording.study

    def options(self, *names):
        """Settings of the plan by their names."""
        return {name: getattr(self.plan, name) for name in names}


def _load(run):
    from ..models import load_model

    run.model, run.tokenizer = load_model(run.name, **run.loading)
    check_limits(run.model, run.tokenizer, run.train, run.test, run.out, run.plan)


def _record(run):
    from ..recording import record

    amounts = {"max_tokens": run.plan.record_tokens, **run.options("tokens_per_run", "context")}
    run.recording = record(run.model, run.tokenizer, run.train, run.out, **amounts)


def _find_networks(run):
    options = run.options("n_components", "n_init", "n_repeats", "threshold", "random_state")
    find_networks(run.recording, name=run.networks, resume=True, **options)


def _lesion(run):
    amounts = {"n_networks": run.plan.lesion_networks, "max_tokens": run.plan.lesion_tokens}
    options = {**amounts, **run.options("n_controls", "controls", "threshold", "random_state", "context")}
    given = {"networks": run.networks, "text": run.test, "model": run.model, "tokenizer": run.tokenizer}
    lesion_networks(run.study, **given, **options, resume=True)


def _prune(run):
    given = {"calibration": run.train, "test_text": run.test, "networks": run.networks}
    amounts = {"max_tokens": run.plan.calibration_tokens, "max_test_tokens": run.plan.test_tokens}
    options = {**amounts, **run.options("ratio", "random_state", "context")}
    compare_pruning(run.study, run.model, run.tokenizer, **given, **options, resume=True)


def _report(run):
    from ..reporting import generate_report

    run.report = generate_report(run.study, networks=run.networks).save()


# Name -> what makes the result. Networks, lesions and pruning return what was made before with the same settings.
STATIONS = {
    "model": _load,
    "recording": _record,
    "networks": _find_networks,
    "lesions": _lesion,
    "pruning": _prune,
    "report": _report,
}


def _texts(text, test_text, random_state):
    """Load the text to fit on and the text to test on; no document is in both."""
    if test_text is not None:
        return load_corpus(text), load_corpus(test_text)
    if is_demo(text):
        return load_corpus(text), load_heldout(text)
    texts = load_corpus(text)
    if len(texts) < 4:
        raise ParameterError(
            f"The text has {len(texts)} documents, too few to set a quarter aside for testing. "
            "Split it into more documents, or pass other text with test_text=."
        )
    return texts.split(0.75, random_state=random_state)
