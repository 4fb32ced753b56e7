# %% [markdown]
# # 6. Bring your own model
#
# Everything in the other notebooks works with any dense decoder model of transformers. This one shows how to open
# yours: from a hub id, a folder, a `.gguf` file, or as a loaded model. It shows which neurons can be recorded, how to
# use your own texts, and which models are refused and why. The models made here are tiny and random, so the notebook
# takes seconds. Nothing is downloaded.

# %%
from pathlib import Path

import numpy as np
import transformers

import llmbrain as lb
from llmbrain.exceptions import LLMBrainError
from llmbrain.models.loading import demo_file
from llmbrain.pipeline import describe_environment, describe_sites
from llmbrain.plotting import plot_network_maps
from llmbrain.text import Corpus, Document

print(describe_environment())

# %% [markdown]
# This is the output of `llmbrain info`; paste it into a bug report.
#
# ## A model from the hub
#
# This needs an internet connection, so it is not run here. The revision is stored with the study, and becomes the
# session.
#
# ```python
# model, tokenizer = lb.load_model("HuggingFaceTB/SmolLM2-360M", revision="main", dtype="bfloat16", device="cuda")
# ```
#
# Code that comes with a model is not run unless you pass `trust_remote_code=True`.
#
# ## A GGUF file
#
# Files of llama.cpp and Ollama are dequantised once, and the result is cached. The demo model is one of them.

# %%
print(demo_file().name)
model, tokenizer = lb.load_model(demo_file())
lb.describe_model(model)

# %% [markdown]
# ## A folder
#
# Anything that `save_pretrained` writes can be opened: a fine-tuned model, a checkpoint of a training run, a model that
# llmbrain has pruned. Here it is a small GPT-2 with random weights and the tokenizer from above.

# %%
transformers.set_seed(0)
config = transformers.GPT2Config(
    vocab_size=len(tokenizer), n_embd=64, n_layer=4, n_head=4, n_positions=512, bos_token_id=0, eos_token_id=0
)
transformers.GPT2LMHeadModel(config).save_pretrained("my-model")
tokenizer.save_pretrained("my-model")

mine, my_tokenizer = lb.load_model("my-model")
print(lb.describe_model(mine)["architecture"], "of", lb.describe_model(mine)["id"])

# %% [markdown]
# A loaded model can be passed to `lb.load_model(model, tokenizer=tokenizer)`, or directly to `record`.
#
# ## What can be recorded in it
#
# The sites are found by the structure of the blocks, not by a list of model names: the linear that writes the MLP back
# to the residual stream is the one whose output is as wide as the stream. `llmbrain info my-model` prints the same.

# %%
print(describe_sites("my-model"))

# %% [markdown]
# Several sites can be recorded in one pass. Attention neurons are grouped into heads, which form an atlas.

# %%
texts = Corpus(
    [Document(d.text[:400], id=d.id, kind=d.kind) for d in lb.load_corpus("demo", split="heldout")], name="mytexts"
)
recordings = lb.record(mine, my_tokenizer, texts, out="my-sites", site=["mlp", "attention"], progress=False)
for site, recording in recordings.items():
    print(site, recording[0].to_array().shape, "volumes of", recording.geometry.shape)
heads = recordings["attention"].geometry.heads_img
print("heads in the atlas:", int(np.max(heads.get_fdata())))

# %%
head = lb.NeuronMask.from_heads([(2, 1)], recordings["attention"].geometry, name="head 1 of layer 2")
with lb.lesion(mine, head) as lesion:
    print(f"perplexity without {head.name}: {lb.perplexity(mine, my_tokenizer, texts, max_tokens=300):,.0f}")
lesion.summary()

# %% [markdown]
# ## A structure that is not recognised
#
# If llmbrain does not recognise the structure, name the modules: with a regular expression, a list, or a dict of layers.

# %%
for site in lb.find_sites(mine, "mlp", sites=r"transformer\.h\.[13]\.mlp\.c_proj"):
    print(site.layer, site.name, site.where, site.size)

# %% [markdown]
# ## What is refused
#
# In a mixture of experts, the token decides which MLP neurons are used; an encoder-decoder is two models. Sites that
# do not apply are refused, with the reason and an alternative.

# %%
experts = transformers.MixtralConfig(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
try:
    lb.find_sites(transformers.MixtralForCausalLM(experts))
except LLMBrainError as error:
    print(error)

# %% [markdown]
# Masks and networks record the weights they were made on. A mask is refused on another model, even one of the same
# shape:

# %%
networks = lb.CanICA(n_components=4, random_state=0).fit(recordings["mlp"]).networks_
transformers.set_seed(1)
other = transformers.GPT2LMHeadModel(config).eval()
try:
    lb.lesion(other, networks.masks(threshold=2.0)[0])
except LLMBrainError as error:
    print(error)

# %% [markdown]
# If you know that the neurons correspond, as between a model and its fine-tuned version, pass `check_model=False`.
#
# ## Your own texts
#
# Texts are a list of strings, a text file, a folder (sub-folders are the kinds of text), a `.jsonl` file with `text`,
# `id` and `kind`, or a dataset of the hub (`"hub:owner/dataset:split:field"`).

# %%
for document in texts:
    path = Path("my-texts", document.kind, Path(document.id).name + ".txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document.text)
print(lb.load_corpus("my-texts"), lb.load_corpus("my-texts").kinds)

# %% [markdown]
# ## The whole study
#
# One call runs all stations. From the shell it is `llmbrain run --model my-model --text my-texts --out my-study --quick`.
# A quarter of the documents is set aside first, to measure lesions and pruning. (The threshold is lower than usual: in a
# random model the maps have no heavy tails, and hardly any neuron exceeds 3.)

# %%
report = lb.run_study("my-model", "my-texts", "my-study", quick=True, threshold=2.0)
print(report.as_posix())

# %%
figure = plot_network_maps(
    lb.NetworkSet.load("my-study"), threshold=2.0, title="Networks of a model that knows nothing"
)

# %% [markdown]
# The maps of a random model look like a finding. [Notebook 2](02_networks.ipynb) shows how to tell the difference.
#
# ## Larger models
#
# - `record(..., storage="int16")` halves the files; `layers=` and `every=` record less.
# - `record(..., run_index=3)` records one run only, so that a job array can fill one study folder.
# - `forecast` and `llmbrain info MODEL` give the size of a recording before it starts.
