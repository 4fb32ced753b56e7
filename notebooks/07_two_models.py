# %% [markdown]
# # 7. Two models read one text
#
# When two people listen to the same story, their brain activity rises and falls together. Inter-subject correlation
# relies on this: we can find out that two listeners share a response without knowing what the region does. Here the
# listeners are a language model and its pruned version, from which a fifth of the MLP neurons was removed. Their neurons
# can no longer be compared one by one, but both read the same words.
#
# - Which networks of the whole model does the pruned one keep?
# - What would the same comparison show without pruning, and with an unrelated model?
# - Does a network that both models have *do* the same in both?

# %%
import copy
import os
from pathlib import Path

import pandas as pd

import llmbrain as lb
from llmbrain.lesions import LossTask
from llmbrain.plotting import plot_coupling, plot_models
from llmbrain.subjects import align_studies, match_courses
from llmbrain.text import Corpus, Document

quick = os.environ.get("LLMBRAIN_QUICK") == "1"  # set by the tests, which take less of everything

# %% [markdown]
# ## The models
#
# Pruning is calibrated on texts other than those that the models read below. If the folder in the environment variable
# `LLMBRAIN_TEST_MODELS` holds `gemma-3-270m.gguf`, that model reads the texts too: it is unrelated and has another
# tokenizer. It was there in the run shown here.

# %%
demo = lb.load_corpus("demo")
n_texts, n_networks, n_letters = (6, 4, 200) if quick else (12, 10, 600)
texts = Corpus([Document(d.text[:n_letters], d.id, d.kind) for d in demo[:n_texts]], name="openings")
calibration = [d.text for d in demo[24:36]]
whole, tokenizer = lb.load_model("demo")
options = {"max_tokens": 128 if quick else 1024}
small = lb.prune(copy.deepcopy(whole), tokenizer, calibration, 0.2, recipe="fast", allocation="power", options=options, progress=False)
models = {"whole": (whole, tokenizer), "pruned": (small.model, tokenizer)}

third = Path(os.environ.get("LLMBRAIN_TEST_MODELS", "no folder"), "gemma-3-270m.gguf")
if third.is_file():
    models["unrelated"] = lb.load_model(third, dtype="float32")
else:
    print(f"{third.name} is missing: the parts about an unrelated model are skipped.")
print(", ".join(models))

# %% [markdown]
# ## One dataset, several subjects
#
# In the vocabulary of neuroimaging, a subject is a model. All subjects go into one folder.

# %%
recordings, networks = {}, {}
for name, (model, its_tokenizer) in models.items():
    settings = {"subject": name, "tokens_per_run": 8192, "progress": False}
    recordings[name] = lb.record(model, its_tokenizer, texts, "models", **settings)
    canica = lb.CanICA(n_networks, n_init=1 if quick else 4, random_state=0).fit(recordings[name])
    networks[name] = canica.networks_
    networks[name].save(recordings[name].study)
{name: recording.geometry for name, recording in recordings.items()}

# %% [markdown]
# ## Time courses of the same words
#
# Each token's value is assigned to its characters, and the characters of a word are averaged, so that models with
# different tokenizers can be compared. Position in the text and word frequency are regressed out, because every language
# model follows them. The figure shows the three best matches of the two models.

# %%
studies = [recordings[name].study for name in models]
aligned = align_studies(studies[:2], [networks["whole"], networks["pruned"]])
words = pd.DataFrame({"word": aligned.words})
figure = plot_coupling(
    *aligned.without(["position", "frequency"]), events=words, names=("whole", "pruned"), tokens=(40, 90)
)

# %% [markdown]
# ## Kept, split, lost
#
# The figure above is too optimistic, because it chooses the pairs on the words that it shows. `compare_studies` matches
# the networks on every other document and scores them on the remaining ones. A network is *kept* if its match
# correlates with it at 0.7 or more, *split* if only a combination of several networks does, and *lost* otherwise.

# %%
n_draws = 19 if quick else 99
found = lb.compare_studies(studies, n_draws=n_draws)
figure = plot_models(found)

# %%
ours = found.pairs[found.pairs["model"] == "sub-whole"]
if "unrelated" in models and not quick:
    assert ["sub-unrelated"] in found.tree.groups(2)
ours.pivot(index="network", columns="other", values="score").round(2)

# %% [markdown]
# The table holds the scores of all matches. The tree puts the pruned model next to the whole one.
#
# ## Two yardsticks
#
# These numbers mean little without a scale. One end of the scale is the whole model again, with the networks that ICA
# finds from another random start. The other end is the unrelated model.

# %%
again = lb.CanICA(n_networks, n_init=1 if quick else 4, random_state=1).fit(recordings["whole"])
twice = align_studies([studies[0], studies[0]], [networks["whole"], again.networks_])
same = match_courses(*twice.without(["position", "frequency"]), twice.documents, n_draws=n_draws)
rows = {"whole, another start": same.to_frame()}
rows |= {name: ours[ours["other"] == f"sub-{name}"] for name in list(models)[1:]}
scale = pd.DataFrame(
    {
        name: {**{fate: (t["fate"] == fate).sum() for fate in ("kept", "split", "lost")}, "mean": t["score"].mean()}
        for name, t in rows.items()
    }
).T
if not quick:
    assert scale.loc["whole, another start", "kept"] == n_networks and scale.loc["pruned", "kept"] >= n_networks - 2
    assert scale["mean"].is_monotonic_decreasing
if "unrelated" in models and not quick:
    assert n_networks / 2 < scale.loc["unrelated", "kept"] < scale.loc["pruned", "kept"]
scale.round(2)

# %% [markdown]
# - **Another start finds every network again.** What the pruned model lacks is lost by pruning, not by chance in ICA.
# - **Pruning keeps almost all networks.**
# - **The unrelated model keeps more than half of them too.** A network that follows digits or punctuation is found in
#   any language model that reads these texts. So *kept* means that a network follows the same words. It does not mean
#   that the same neurons survived, and it does not show that two models are related.

# %% [markdown]
# ## What the models share
#
# `isc` is the correlation of the whole model with the mean of the others, on documents that were not used to choose the
# matches. `words` are those that drive the network most.

# %%
shared = found.shared.sort_values("isc", ascending=False)
if not quick:
    assert (shared["q"] < 0.05).all() and not any(map(str.isalpha, "".join(shared["words"].iloc[:2])))
shared[["network", "isc", "q", "n_kept", "words"]].round(3)

# %% [markdown]
# All networks are shared more than chance predicts. The two that are shared most follow punctuation and digits: none of
# the words that drive them has a letter. With `confounds=("position", "frequency", "punctuation")` or `"surprisal"`, more of what
# all models share can be regressed out.

# %% [markdown]
# ## Is it the same function?
#
# Two networks that follow the same words could still do different things. We silence the best matches in both models,
# and measure the loss on text that neither the networks nor the pruning has seen. When both studies hold the lesions of
# their networks, `compare_studies` places the effects side by side: the change in loss, in nats per token.

# %%
best = ours[ours["other"] == "sub-pruned"].sort_values("score", ascending=False).head(1 if quick else 3)
task = LossTask(lb.load_corpus("demo", split="heldout"), max_tokens=24 if quick else 240, by_kind=False)
lesions = {"n_controls": 1 if quick else 5, "controls": ["layer"], "random_state": 0}
control = {}
for name, numbers in {"whole": best["network"], "pruned": best["match"]}.items():
    masks = networks[name].masks(3.0)
    study = lb.LesionStudy([masks[int(k)] for k in numbers], [task], **lesions)
    result = study.run(*models[name], progress=False)
    result.save(recordings[name].study)
    control[name] = result.table["control_mean"].to_numpy()

# %%
pairs = lb.compare_studies(studies[:2], n_draws=n_draws).pairs
pairs = pairs[pairs["model"] == "sub-whole"].set_index("network").loc[best["network"]]
effects = pairs[["match", "score", "effect", "match_effect"]].assign(
    controls=control["whole"], match_controls=control["pruned"]
)
if not quick:
    assert (effects["effect"] > effects["controls"]).all()
    assert (effects["match_effect"] > effects["match_controls"]).all()
    assert ((effects["effect"] - effects["match_effect"]).abs() < 0.15).all()
    assert effects["effect"].idxmax() == effects["match_effect"].idxmax()
effects.round(3)

# %% [markdown]
# `controls` is the mean effect of silencing the same number of other neurons of the same layers.
#
# - **In both models these networks matter.** Each does more harm than its controls do on average.
# - **The harm is similar.** The two effects of a pair differ by less than 0.15 nats per token, and the network that
#   does most harm is the same in both models.
#
# These are the three best of ten matches and a few hundred tokens. A claim about all networks needs all of them, more
# text and more controls.
#
# ## From the shell
#
# ```
# llmbrain record --model demo --out models --subject whole
# llmbrain record --model smaller --out models --subject pruned
# llmbrain networks models --subject whole          # and the same for pruned
# llmbrain lesion models --subject whole            # optional; the same for pruned
# llmbrain compare models
# llmbrain report models --group
# ```
#
# Whether one model *descends* from another is a different question, because unrelated models share so much.
# `llmbrain fingerprint` answers it from single neurons of the first layers, which unrelated models do not share, and
# prints the error rates that were measured.
