"""Wrapped models are refused everywhere with what to do."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.exceptions import ParameterError
from llmbrain.models.wrappers import refuse_wrapped

TEXTS = ["The cat sat on the mat and slept there for an hour.", "Snow fell on the harbour all night long."]


class Adapted(torch.nn.Module):
    """Has the method by which PEFT wrappers are recognised."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model
        self.merge_and_unload = lambda: model


class Prompted(torch.nn.Module):
    """A wrapper of PEFT with learned prompts, which cannot be merged."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model
        self.active_peft_config = SimpleNamespace(is_prompt_learning=True, peft_type="PREFIX_TUNING")


class FSDPModule:
    """Stands for the class that fully_shard mixes into a module."""


def sharded(model):
    layer = model.model.layers[1]
    layer.__class__ = type("FSDPLlamaDecoderLayer", (FSDPModule, type(layer)), {})
    return model


def with_injected_adapter(model):
    mlp = model.model.layers[0].mlp
    adapted = torch.nn.Module()
    adapted.base_layer, adapted.lora_A = mlp.down_proj, torch.nn.ModuleDict()
    mlp.down_proj = adapted
    return model


class Engine(torch.nn.Module):
    """Any other wrapper with the model in ``module``, as of DeepSpeed."""

    def __init__(self, model):
        super().__init__()
        self.module = model


class Own(torch.nn.Module):
    """A wrapper that a user writes."""

    def __init__(self, model):
        super().__init__()
        self.inner = model


WRAPPED = [
    (Own, "Own wraps a language model of transformers. Pass model.inner"),
    (torch.nn.DataParallel, "DataParallel.*Pass model.module"),
    (Engine, "Engine.*Pass model.module"),
    (Adapted, "merge_and_unload"),
    (Prompted, "PREFIX_TUNING.*model.get_base_model"),
    (with_injected_adapter, "adapters of PEFT.*merge_and_unload"),
    (sharded, "sharded over several processes"),
    (lambda model: "llama", "model is str; it must be a loaded model"),
]


def record(model, mask, folder):
    lb.record(model, tiny_tokenizer(), TEXTS, folder, progress=False)


def lesion(model, mask, folder):
    lb.lesion(model, mask)


def sites(model, mask, folder):
    lb.find_sites(model)


def prune(model, mask, folder):
    lb.prune(model, tiny_tokenizer(), TEXTS, 0.2, recipe="flap", progress=False)


@pytest.mark.parametrize("work", [record, lesion, prune, sites])
@pytest.mark.parametrize(("wrap", "words"), WRAPPED)
def test_wrappers_are_refused_with_what_to_do(wrap, words, work, tmp_path):
    model = tiny_model("llama")
    geometry = lb.NeuronGeometry.from_model(model)
    mask = lb.NeuronMask(np.arange(geometry.n_neurons) < 5, geometry)
    with pytest.raises(ParameterError, match=words):
        work(wrap(model), mask, tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.nn.Sequential, Prompted])
def test_wrappers_without_a_config_have_no_perplexity(wrap):
    with pytest.raises(ParameterError, match="Pass model"):
        lb.perplexity(wrap(tiny_model("llama")), tiny_tokenizer(), TEXTS)


def test_distributed_models_are_refused():
    model = tiny_model("llama")
    distributed = torch.nn.parallel.DistributedDataParallel.__new__(torch.nn.parallel.DistributedDataParallel)
    torch.nn.Module.__init__(distributed)
    distributed.module = model
    with pytest.raises(ParameterError, match="DistributedDataParallel.*Pass model.module"):
        refuse_wrapped(distributed)


def test_compiled_models_are_lesioned_and_pruned_before_they_are_compiled():
    model = tiny_model("llama")
    geometry = lb.NeuronGeometry.from_model(model)
    mask = lb.NeuronMask(np.arange(geometry.n_neurons) < 5, geometry)
    whole, part = torch.compile(model), copy.deepcopy(model)
    part.model.layers[1].compile()
    for compiled in (whole, part):
        for work in (lesion, prune) if compiled is whole else (lesion, prune, record):
            with pytest.raises(ParameterError, match="compiled.*model._orig_mod"):
                work(compiled, mask, None)
    prune(whole._orig_mod, mask, None)


def _study(model, tokenizer):
    geometry = lb.NeuronGeometry.from_model(tiny_model("llama"))
    mask = lb.NeuronMask(np.arange(geometry.n_neurons) < 9, geometry)
    return lb.LesionStudy([mask], TEXTS, n_controls=1, controls=("layer",)).run(model, tokenizer, progress=False)


@pytest.mark.parametrize(
    "work",
    [
        lambda model, tokenizer: lb.record(model, tokenizer, TEXTS, progress=False),
        lambda model, tokenizer: lb.prune(model, tokenizer, TEXTS, progress=False),
        lambda model, tokenizer: lb.perplexity(model, tokenizer, TEXTS),
        lambda model, tokenizer: lb.fingerprint(model, tokenizer),
        _study,
    ],
    ids=["record", "prune", "perplexity", "fingerprint", "study"],
)
def test_what_is_no_model_or_no_tokenizer_is_named(work):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    for given, whose in (((None, tokenizer), "model is NoneType"), ((model, None), "tokenizer is NoneType")):
        with pytest.raises(ParameterError, match=whose):
            work(*given)
    with pytest.raises(ParameterError, match="model is TokenizersBackend|tokenizer is LlamaForCausalLM"):
        work(tokenizer, model)
