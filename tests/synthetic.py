"""Results with a planted structure, shaped like those of a real study, for figures and reports."""

import numpy as np
import pandas as pd

from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import NetworkSet

WORDS = (
    " The", " river", " runs", " past", " the", " old", " mill", ",", " and", " nobody", " counts", " its", " turns",
    ".", "\n", "def", " add", "(", "a", ",", " b", "):", "\n    ", "return", " a", " +", " b", "\n", " 12", " +", " 30",
    " =", " 42", ".", ' "', "Are", " you", " sure", '?"', " she", " asked", ".",
)  # fmt: skip
KINDS = ("encyclopaedic", "narrative", "dialogue", "code", "arithmetic")


def planted_maps(geometry, n_networks=12, seed=0, noise=1.0):
    """Sparse maps, each around a few layers, with a positive and a smaller negative part: (n_networks, n_neurons)."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(n_networks, geometry.n_neurons)) * noise
    depth = geometry.layer_of / max(geometry.n_layers - 1, 1)
    centres = (np.arange(n_networks) + 0.5) / n_networks
    for k in range(n_networks):
        chance = 0.05 * np.exp(-0.5 * ((depth - centres[k]) / 0.13) ** 2)
        chosen = rng.random(geometry.n_neurons) < chance
        sign = np.where(rng.random(geometry.n_neurons) < 0.8, 1, -1)
        maps[k] += chosen * sign * rng.gamma(4, 1.6, geometry.n_neurons)
    return maps.astype(np.float32)


def events(n_tokens, run="run-01", first_document=0):
    """A table of tokens as a recording has it."""
    length = 42
    document = np.arange(n_tokens) // length + first_document
    rng = np.random.default_rng(n_tokens + first_document)
    return pd.DataFrame(
        {
            "onset": np.arange(n_tokens),
            "duration": 1,
            "token": [WORDS[i % len(WORDS)] for i in range(n_tokens)],
            "token_id": np.arange(n_tokens) % len(WORDS),
            "document": [f"doc-{d:02d}" for d in document],
            "kind": [KINDS[d % len(KINDS)] for d in document],
            "position": np.arange(n_tokens) % length,
            "surprisal": rng.gamma(2, 1.2, n_tokens),
            "run": run,
        }
    )


def time_courses(frame, n_networks, seed=0):
    """Autocorrelated courses, each network awake in one kind of text: (n_tokens, n_networks)."""
    rng = np.random.default_rng(seed)
    courses = rng.normal(size=(len(frame), n_networks))
    for t in range(1, len(courses)):
        courses[t] += 0.6 * courses[t - 1]
    kind = frame["kind"].map({k: i for i, k in enumerate(KINDS)}).to_numpy()
    for k in range(n_networks):
        courses[:, k] += 2.0 * (kind == k % len(KINDS))
    return ((courses - courses.mean(0)) / courses.std(0)).astype(np.float32)


def activations(maps, courses, seed=0):
    """Mix maps and courses into recorded activations: (n_tokens, n_neurons)."""
    noise = np.random.default_rng(seed).normal(size=(len(courses), maps.shape[1]))
    return (courses @ maps * 0.3 + noise).astype(np.float32)


def lesion_tables(n_networks=12, tasks=("loss",), n_controls=20, seed=0):
    """Effects of networks and of their controls, as a lesion study writes them: (table, controls)."""
    rng = np.random.default_rng(seed)
    rows, draws = [], []
    for task in tasks:
        for k in range(n_networks):
            control = rng.normal(0.03, 0.02, n_controls)
            effect = rng.normal(0.03, 0.02) + (0.4 * rng.random() if k % 3 == 0 else 0)
            p = (1 + np.sum(control >= effect)) / (n_controls + 1)
            rows.append(
                {
                    "network": k, "task": task, "family": "layer", "n_neurons": int(rng.integers(80, 900)),
                    "share": 0.01,
                    "effect": effect, "ci_low": effect - 0.03, "ci_high": effect + 0.03, "control_mean": control.mean(),
                    "control_sd": control.std(), "control_max": control.max(), "n_controls": n_controls,
                    "z": (effect - control.mean()) / control.std(), "p": p, "q": min(1.0, p * 2),
                }
            )  # fmt: skip
            draws += [
                {"network": k, "task": task, "family": "layer", "draw": d, "effect": c} for d, c in enumerate(control)
            ]
    return pd.DataFrame(rows), pd.DataFrame(draws)


def dose_table(n_networks=3, doses=(0.0, 0.25, 0.5, 0.75, 1.0)):
    """Effects that grow with the strength of the lesion, twice as fast as those of the controls."""
    rows = []
    for k in range(n_networks):
        for dose in doses:
            effect, control = (k + 1) * dose**2, 0.5 * (k + 1) * dose**2
            rows.append(
                {
                    "network": f"network-{k:02d}", "strength": dose, "n_neurons": 100 + k, "effect": effect,
                    "ci_low": effect - 0.1, "ci_high": effect + 0.1, "control_mean": control, "control_sd": 0.05,
                    "control_max": control + 0.1, "n_controls": 10, "z": 3.0, "p": 1 / 11,
                    "control_low": control - 0.1, "control_high": control + 0.1,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


DOSE_INFO = {
    "over": "strength", "doses": [0.0, 0.25, 0.5, 0.75, 1.0], "unit": "nats per token", "task": "loss",
    "n_controls": 10, "family": {"layer+importance": "as many in each layer, each of about the same importance"},
}  # fmt: skip


def order_curve():
    """Networks found again in the other half, for five numbers asked for."""
    return pd.DataFrame(
        {
            "n_components": [5, 10, 15, 20, 30], "n_reproduced": [3, 6, 8, 9, 10],
            "share": [0.6, 0.6, 0.53, 0.45, 0.33], "mean_r": [0.7, 0.66, 0.6, 0.55, 0.44],
            "median_r": [0.72, 0.7, 0.6, 0.5, 0.4],
        }
    )  # fmt: skip


def localizer(geometry, like, seed=0):
    """A contrast of code and prose whose neurons are those of a map, under noise."""
    from llmbrain.reporting.stations.localizers import Localizer

    z = np.random.default_rng(seed).normal(size=geometry.n_neurons) + 0.8 * like
    info = {"contrast": ["code", "prose"], "n_items": {"code": 40, "prose": 40}, "unit": "item", "noise_model": "ols"}
    return Localizer("codeprose", z, np.abs(z) > 3.2, geometry, info)


def prune_table(seed=0, seeds=(0, 1)):
    """A pruning grid: perplexity of three recipes at four ratios."""
    rng = np.random.default_rng(seed)
    rows = []
    recipes = (("flap", "bias", 1.0), ("network", "affine", 1.1), ("wanda", "none", 1.9), ("random", "none", 3.0))
    for score, compensation, slope in recipes:
        for ratio in (0.05, 0.1, 0.2, 0.3):
            for s in seeds:
                ratio_to_dense = float(np.exp(slope * ratio * 3 + 0.05 * rng.normal()))
                rows.append(
                    {
                        "score": score, "allocation": "global", "compensation": compensation, "ratio": ratio, "seed": s,
                        "perplexity": 18.2 * ratio_to_dense, "ratio_to_dense": ratio_to_dense,
                        "parameters": int(134.5e6 - ratio * 80e6), "dense_perplexity": 18.2,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def demo_geometry():
    """The neurons of the demo model: 30 layers of 1536."""
    return NeuronGeometry.from_sizes([1536] * 30)


class Networks(NetworkSet):
    """A network set with planted maps, and the events of its time courses."""

    def __init__(self, geometry, n_networks=12, n_tokens=600, seed=0):
        rng = np.random.default_rng(seed)
        metrics = pd.DataFrame(
            {
                "network": np.arange(n_networks), "variance": np.sort(rng.dirichlet(np.ones(n_networks)))[::-1],
                "stability": np.clip(rng.normal(0.8, 0.15, n_networks), 0.1, 0.99),
            }
        )  # fmt: skip
        info = {"method": "CanICA", "engine": "torch", "n_init": 10, "random_state": 0, "threshold": 3.0}
        self.events = pd.concat([events(n_tokens // 2, 1), events(n_tokens // 2, 2, 50)], ignore_index=True)
        courses = time_courses(self.events, n_networks, seed)
        halves = [courses[: n_tokens // 2], courses[n_tokens // 2 :]]
        super().__init__(planted_maps(geometry, n_networks, seed), geometry, metrics, info, halves)


def quality_of(events, geometry, seed=0):
    """Measures of tokens of which one stands out, and three dead neurons."""
    from llmbrain.reporting.stations.quality import Quality

    rng = np.random.default_rng(seed)
    n = len(events)
    tokens = events.reset_index(drop=True).assign(activity=rng.normal(1, 0.1, n), change=rng.normal(1.3, 0.1, n))
    tokens["place"] = np.arange(n)
    tokens["run"] = tokens.get("run", 1)
    tokens.loc[7, "activity"] = 4.0
    tokens["outlying"] = tokens["activity"] > 2
    documents = tokens.groupby("document", as_index=False).agg(
        tokens=("activity", "size"), activity=("activity", "median")
    )
    documents = documents.assign(kind="prose", distance=0.5, outlying=False)
    dead = np.zeros(geometry.n_layers, int)
    dead[0] = 3
    sinks = {"n": 2, "share": 0.01}
    return Quality(tokens, documents, dead, geometry.layers, geometry.n_neurons, True, sinks)


def comparison_of_models(n_networks):
    """A comparison with one other model, as `llmbrain.subjects.compare_studies` returns it."""
    from llmbrain.subjects.comparison import Comparison

    models, numbers = ["SmolLM2", "smaller"], np.arange(n_networks)
    fates = [("kept", "split", "lost")[i % 3] for i in numbers]
    pairs = [
        pd.DataFrame(
            {
                "model": mine, "other": other, "network": numbers, "match": numbers[::-1], "chosen": 0.8, "score": 0.7,
                "explained": 0.5, "fate": fates, "p": 0.01,
            }
        )
        for mine, other in (models, models[::-1])
    ]  # fmt: skip
    shared = pd.DataFrame(
        {"network": numbers, "isc": 0.6, "p": 0.01, "q": 0.02, "p_fwe": 0.03, "n_kept": 1, "words": "' the', ' a'"}
    )
    similarity = pd.DataFrame([[1.0, 0.7], [0.7, 1.0]], models, models)
    info = {
        "models": models, "confounds": ["position"], "n_words": 900, "n_documents": 6, "kept_at": 0.5, "n_draws": 200,
    }  # fmt: skip
    return Comparison(shared, pd.concat(pairs, ignore_index=True), similarity, info)


def report_data(geometry=None, n_networks=12, n_tokens=600):
    """A report with everything that a study can hold, without files."""
    from llmbrain.lesions import DoseResponse, LesionResult
    from llmbrain.networks.labels import HandLabels
    from llmbrain.reporting.report import Report
    from llmbrain.reporting.stations.display import Display
    from llmbrain.reporting.stations.drivers import Drivers
    from llmbrain.reporting.stations.networks import Found
    from llmbrain.reporting.stations.pruning import Grid
    from llmbrain.reporting.stations.recording import Recorded
    from llmbrain.topography import fit_topography

    geometry = geometry or demo_geometry()
    networks = Networks(geometry, n_networks, n_tokens)
    courses = np.concatenate(networks.time_courses)
    table, controls = lesion_tables(n_networks, tasks=("all texts", "code", "narrative"))
    table["p_pooled"], table["q_pooled"] = table["p"] / 4, table["q"] / 4
    noise = np.random.default_rng(9).normal(size=networks.maps.shape)
    n_carpet = min(420, n_tokens)
    model = {
        "id": "SmolLM2-135M-Instruct", "revision": None, "architecture": "LlamaForCausalLM",
        "n_layers": geometry.n_layers, "hidden_size": 576, "n_parameters": 134515008, "dtype": "float32",
        "weights_hash": "0123456789abcdef",
    }  # fmt: skip
    sidecar = {
        "Corpus": "demo", "CorpusHash": "fedcba9876543210", "Context": 1024, "WarmUp": 256, "ModelDataType": "float32",
        "LibraryVersions": {"torch": "2.13.0"},
    }  # fmt: skip
    runs = pd.DataFrame({"run": ["run-01", "run-02"], "documents": 8, "tokens": n_tokens // 2, "size (MB)": 55.3})
    carpet = activations(networks.maps, courses[:n_carpet]), networks.events.iloc[:n_carpet], "run-01", 0
    corpus = {"name": "demo", "hash": "fedcba9876543210"}
    files = [("study.json", 348), ("sub-SmolLM2/func/sub-SmolLM2_task-demo_run-01_desc-mlp_bold.nii", 55_300_000)]
    results = {
        "model": model,
        "recording": Recorded(networks.events, runs, sidecar, geometry, corpus, carpet),
        "order": [("canica", order_curve(), {"n_components": 15, "parallel": 300, "reproduced_at": 0.7})],
        "networks": Found(networks),
        "drivers": Drivers(courses, networks.events),
        "display": Display(fit_topography(networks.maps + 0.7 * noise, geometry, source="the odd runs (1)")),
        "localizers": [localizer(geometry, networks.maps[min(3, n_networks - 1)])],
        "lesions": LesionResult(table, controls, None, {"how": "zero", "random_state": 0}),
        "doses": [DoseResponse(dose_table(min(3, n_networks)), None, DOSE_INFO)],
        "pruning": Grid(prune_table()),
        "files": pd.DataFrame(files, columns=["file", "size"]),
        "quality": quality_of(networks.events, geometry),
        "comparison": [comparison_of_models(n_networks)],
        "labels": HandLabels(["undecided"] * n_networks, [""] * n_networks, "0123").set(0, "accepted", "numbers"),
    }
    return Report(results=results, title=model["id"], subtitle="on the corpus “demo”")
