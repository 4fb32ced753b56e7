# %% [markdown]
# # 7. Two models read one text
#
# When two people listen to one story, their brains rise and fall together. This is the basis of inter-subject
# correlation: nobody needs to know *what* a region does to find out that two listeners share it. Here the listeners are
# a language model and its pruned self, from which every fifth neuron was removed. Their neurons can no longer be
# compared one by one, but both read the same words.
#
# - Which networks of the whole model does the small one keep, and which are lost?
# - How much of that would we see without any pruning, because networks are never found exactly alike?
# - Does a network that both have *do* the same in both?
# - Would we recognise the small model as a descendant?

# %%
import copy
import os

import pandas as pd

import llmbrain as lb
from llmbrain.lesions import LossTask
from llmbrain.plotting import plot_coupling, plot_models
from llmbrain.subjects import align_studies, match_courses
from llmbrain.text import Corpus, Document

quick = os.environ.get("LLMBRAIN_QUICK") == "1"  # set by the tests, which take less of everything

# %% [markdown]
# ## One dataset, two subjects
#
# The neurons are chosen on other texts than those that the models read below.

# %%
demo = lb.load_corpus("demo")
n_texts, n_networks, n_letters = (6, 6, 260) if quick else (24, 12, 700)
texts = Corpus([Document(d.text[:n_letters], d.id, d.kind) for d in demo[:n_texts]], name="openings")
calibration = [d.text for d in demo[24:]]
model, tokenizer = lb.load_model("demo")
small = lb.prune(
    copy.deepcopy(model), tokenizer, calibration, ratio=0.2, recipe="fast", progress=False,
    options={"max_tokens": 256 if quick else 4096},
)  # fmt: skip
print(small)

# %%
models = {"whole": model, "small": small.model}
recordings, networks = {}, {}
for name, one in models.items():
    recordings[name] = lb.record(one, tokenizer, texts, "two-models", subject=name, tokens_per_run=8192, progress=False)
    canica = lb.CanICA(n_networks, n_init=2 if quick else 10, random_state=0).fit(recordings[name])
    networks[name] = canica.networks_
    networks[name].save(recordings[name].study)
{name: recording.geometry for name, recording in recordings.items()}

# %% [markdown]
# ## Time courses of the same words
#
# A token's value is spread over its characters and averaged over words. Both models share a tokenizer here, but models
# with different ones can be compared in the same way. The courses below are those of the three best matches.

# %%
studies = [recordings[name].study for name in models]
aligned = align_studies(studies, list(networks.values()))
whole, pruned = aligned.without(["position", "frequency"])
words = pd.DataFrame({"word": aligned.words})
plot_coupling(whole, pruned, events=words, names=("whole", "small"), tokens=(40, 90))

# %% [markdown]
# Position in the text and word frequency are regressed out, because every language model follows them.
#
# ## Kept, split, lost
#
# The figure above flatters: pairs were chosen where they are shown. `compare_studies` matches the networks on every
# other document and scores them on the documents between. A network is *kept* if its match correlates with it at 0.7,
# *split* if only a combination of several networks does, and *lost* otherwise.

# %%
found = lb.compare_studies(studies, n_draws=19 if quick else 99)
plot_models(found)

# %%
first = found.pairs[found.pairs["model"] == "sub-whole"]
first[["network", "match", "score", "explained", "fate", "p"]].round(3)

# %% [markdown]
# ## The yardstick
#
# ICA starts at random, so even the networks of one and the same model are not found twice exactly alike. The same
# matching, between two decompositions of the whole model:

# %%
again = lb.CanICA(n_networks, n_init=2 if quick else 10, random_state=1).fit(recordings["whole"])
twice = align_studies([studies[0], studies[0]], [networks["whole"], again.networks_])
same = match_courses(*twice.without(["position", "frequency"]), twice.documents, n_draws=19 if quick else 99)
pd.DataFrame({"another seed": pd.Series(same.fate).value_counts(), "pruned": first["fate"].value_counts()}).reindex(
    ["kept", "split", "lost"]
).fillna(0).astype(int)

# %% [markdown]
# ## What the shared networks follow
#
# `isc` is the correlation between the models on documents that did not choose the matches.

# %%
found.shared.sort_values("isc", ascending=False)[["network", "isc", "q", "words"]].head(6).round(3)

# %% [markdown]
# ## Is it the same function?
#
# Two networks that rise on the same words could still do different things. We silence the best kept networks in both
# models, on text that neither the networks nor the pruning has seen.

# %%
best = first.sort_values("score", ascending=False).head(2 if quick else 5)
chosen = {"whole": best["network"], "small": best["match"]}
task = LossTask(lb.load_corpus("demo", split="heldout"), max_tokens=48 if quick else 480, by_kind=False)
effects = {}
for name, one in models.items():
    masks = [networks[name].masks(3.0)[int(k)] for k in chosen[name]]
    study = lb.LesionStudy(
        masks, [task], n_controls=1 if quick else 9, controls=["layer"], reference=Corpus(demo[24:], "calibration")
    )
    table = study.run(one, tokenizer, progress=False).table
    effects[name], effects[f"{name}, controls"] = table["effect"].to_numpy(), table["control_mean"].to_numpy()
pd.DataFrame(effects, index=[f"{a} and {b}" for a, b in zip(*chosen.values())]).round(3)

# %% [markdown]
# ## A fingerprint
#
# Time courses of networks are also a way to recognise a model without its weights. The score is the mean correlation of
# paired networks on texts that did not pair them; 0.6 is the threshold.

# %%
amounts = {"n_texts": 3 if quick else 10, "n_components": 6 if quick else 20}
prints = [lb.fingerprint(one, tokenizer, **amounts) for one in models.values()]
print(lb.compare_fingerprints(*prints))
