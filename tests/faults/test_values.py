"""Values of Python arguments that mean nothing are refused with one sentence, before any work."""

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.evaluation import generate_texts, minimal_pairs, parse_answer, token_losses
from llmbrain.exceptions import ParameterError
from llmbrain.lesions import LossTask, neuron_statistics
from llmbrain.networks import DictLearning, TemporalICA
from llmbrain.pipeline import find_networks, lesion_networks
from llmbrain.pipeline.whole import RunPlan
from llmbrain.pruning import Recipe
from llmbrain.subjects.comparison import compare_studies
from llmbrain.text import MinimalPair

NAN = float("nan")
BOTH = tiny_model("llama"), tiny_tokenizer()
PAIR = MinimalPair("The heron ate.", "The heron eat.", "agreement", "0")
TEXTS = ["On the third morning the old heron stood in the river and ate one more fish. " * 4] * 2


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("values") / "study"
    both = tiny_model("llama"), tiny_tokenizer()
    recording = lb.record(*both, lb.load_corpus(TEXTS[:1]), folder, progress=False)
    find_networks(recording, n_components=2, n_init=1, progress=False)
    return folder


def network_of(study):
    return lb.NeuronMask.from_names([(0, 1), (1, 2)], lb.open_recording(study).geometry)


VALUES = {
    "find_networks": (
        lambda study, **given: find_networks(study, **{"n_components": 2, **given}),
        {"n_repeats": [-1, 1.5, None, "x"], "name": ["a b", ""]},
    ),
    "lesion_networks": (
        lambda study, **given: lesion_networks(study, text=TEXTS, **given),
        {
            "n_networks": [0, -1, 1.5, "x"],
            "networks": [3, [0, 1]],
            "masks": [[], 5],
            "tasks": [[], 5],
            "controls": [[], 5],
        },
    ),
    "record": (
        lambda _, **given: lb.record(tiny_model("llama"), tiny_tokenizer(), TEXTS, progress=False, **given),
        {"context": [1, "64", 2.5], "layers": [2.5, "x", [9], []]},
    ),
    "LesionStudy": (
        lambda study, **given: lb.LesionStudy([network_of(study)], TEXTS, **given).run(
            tiny_model("llama"), tiny_tokenizer(), progress=False
        ),
        {"controls": [5, True]},
    ),
    "LossTask": (
        lambda _, **given: LossTask(TEXTS, **given).prepare(tiny_model("llama"), tiny_tokenizer()),
        {"max_tokens": [-1, 0, 1, 2.5], "context": [0, -1, 2.5, None]},
    ),
    "compare_studies": (
        lambda study, **given: compare_studies(study, **given),
        {"kept_at": [0, 1, NAN, "x", None], "n_draws": [0, 1.5], "random_state": [-1, None]},
    ),
    "RunPlan": (
        lambda _, **given: RunPlan(**given),
        {
            "n_components": [0, 2.5, "x", None],
            "threshold": [0, NAN, "x", None],
            "ratio": [0, 1, NAN, "x", None],
            "context": [1, 2.5, "x"],
            "random_state": [-1, 1.5, "x", None],
        },
    ),
    "Recipe": (
        lambda _, **given: Recipe(**given),
        {
            "score": [None, 5],
            "allocation": [None, 5],
            "options": [5, {"exempt": -1}, {"exempt": "x"}, {"floor": "x"}, {"floor": NAN}, {"held_out": []}],
        },
    ),
    "matched_control": (
        lambda study, **given: network_of(study).matched_control(**given),
        {"random_state": [-1, 1.5, "x"]},
    ),
    "generate_report": (lambda study, **given: lb.generate_report(study, **given), {"topography": ["x", 5]}),
    "TemporalICA": (
        lambda _, **given: TemporalICA(2, **given).fit(np.eye(9)),
        {"random_state": [-1, "x"]},
    ),
    "DictLearning": (
        lambda study, **given: DictLearning(2, **given).fit(lb.open_recording(study)),
        {"batch_size": [0, -1], "n_epochs": [0, NAN]},
    ),
    "generate_texts": (
        lambda _, **given: generate_texts(*BOTH, **{"prompts": ["The"], "max_new_tokens": 2, **given}),
        {
            "prompts": [None, 5, []],
            "sample": ["x", NAN],
            "chat": ["x"],
            "temperature": [0, -1, NAN, "x"],
            "top_p": [0, 2, NAN, "x"],
        },
    ),
    "neuron_statistics": (
        lambda _, **given: neuron_statistics(*BOTH, TEXTS, **given),
        {
            "max_tokens": [-1, 0, 1.5, NAN, "x"],
            "n_samples": [-1, 1.5, None],
            "random_state": [-1, "x"],
            "site": [5, None],
        },
    ),
    "token_losses": (
        lambda _, **given: token_losses(*BOTH, TEXTS, **given),
        {"batch_size": [None, "x"], "per_document": [1.5, NAN, "x"]},
    ),
    "minimal_pairs": (
        lambda _, **given: minimal_pairs(*BOTH, [PAIR], **given),
        {"n_pairs": [0, 1.5, "x"], "max_batch_tokens": ["x", NAN]},
    ),
    "parse_answer": (
        lambda _, **given: parse_answer(**{"text": "A", "labels": ["A"], **given}),
        {"text": [None, 5], "labels": [None, [5]]},
    ),
}
CASES = [
    (name, option, value)
    for name, (_, options) in VALUES.items()
    for option, values in options.items()
    for value in values
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "option", "value"), CASES)
def test_values_that_mean_nothing_are_refused(name, option, value, study):
    with pytest.raises(ParameterError):
        VALUES[name][0](study, **{option: value})
