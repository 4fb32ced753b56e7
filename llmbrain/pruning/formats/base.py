"""The registry of formats in which a pruned model can be saved."""

from ...registry import Registry

# Called as format(model, tokenizer, folder). loading: section of the model card. check: check(model, recipe) refuses a
# model that the format cannot hold, before the work. allocation: the only one that it can hold, None for all.
# own_tokenizer: whether it writes the tokenizer itself. then: the command that tries a folder.
FORMATS = Registry(
    "format", loading="", check=None, allocation=None, own_tokenizer=False, then=("llmbrain", "evaluate", "{folder}")
)
