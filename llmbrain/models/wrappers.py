"""Models inside wrappers, whose weights or modules are not those that hooks and pruning work on."""

from ..exceptions import ParameterError

_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def check_model(model):
    """Raise a ParameterError unless ``model`` is a model: neither None nor a tokenizer nor a name."""
    import torch

    if not isinstance(model, torch.nn.Module):
        raise ParameterError(
            f"model is {type(model).__name__}; it must be a loaded model: model, tokenizer = llmbrain.load_model(...)."
        )


def refuse_wrapped(model):
    """Refuse a model that is wrapped for several devices or by adapters, and say which model to pass instead."""
    import torch

    check_model(model)
    refuse_prompts(model)
    name = type(model).__name__
    if hasattr(model, "merge_and_unload"):
        raise ParameterError(
            f"The model is wrapped by PEFT ({name}). Merge the adapter first: model = model.merge_and_unload()."
        )
    for path, module in model.named_modules():
        classes = {kind.__name__ for kind in type(module).__mro__}
        if classes.intersection(_SHARDED):
            raise ParameterError(
                f"The weights of {name} are sharded over several processes ({path or 'the whole model'}). Save the "
                "whole model with save_pretrained and open it with load_model; device='auto' spreads it over devices."
            )
        if "lora_A" in module._modules or hasattr(module, "base_layer"):
            raise ParameterError(
                f"The model holds adapters of PEFT ({path}). Merge them first: "
                "model = PeftModel.from_pretrained(base_model, adapter).merge_and_unload()."
            )
    for path, parameter in model.named_parameters():
        if type(parameter).__name__ == "DTensor":
            raise ParameterError(
                f"The weights of {name} are sharded over several processes by tensor parallelism or FSDP ({path}), but "
                "each process needs whole layers. Load a replica in every process, without tp_plan=, or spread one "
                "model over several GPUs of a process with device_map='auto'."
            )
    if isinstance(getattr(model, "module", None), torch.nn.Module):
        raise ParameterError(
            f"The model is wrapped in {name}, which may run copies of its modules. Pass model.module instead."
        )
    inner = next((path for path, child in model.named_children() if hasattr(child, "config")), None)
    if inner is not None and not hasattr(model, "config"):
        raise ParameterError(f"{name} wraps a language model of transformers. Pass model.{inner} instead.")


def refuse_prompts(model):
    """Refuse a model with prompts that were learned: it reads more tokens than a text has."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ParameterError(
            f"{type(model).__name__} reads learned prompts before every text ({model.active_peft_config.peft_type}), "
            "whose tokens are of no text. Pass model.get_base_model() for the model without them."
        )


def plain(model):
    """The model itself, if ``torch.compile`` has wrapped it as a whole: it is the same model with plain modules."""
    return model._orig_mod if type(model).__name__ == "OptimizedModule" else model


def refuse_compiled(model, what):
    """Refuse a model that is compiled as a whole or in part; ``what`` is the work that needs plain modules.

    Raises
    ------
    ParameterError
    """
    for name, module in model.named_modules():
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise ParameterError(
                f"The model is compiled ({name or 'as a whole'}), and {what}. Use the model from before torch.compile "
                "(model._orig_mod)."
            )
