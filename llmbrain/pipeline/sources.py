"""What the stations of a study read: its networks, its model, and text to test on; and whether a result is there."""

import json

from ..dataset import as_study, is_done, open_result
from ..exceptions import DatasetError, ModelNotFoundError, ParameterError
from ..text import load_corpus
from ..text.corpus import is_demo, load_heldout


def current_networks(study, name=None):
    """Open the networks of a study to work with them.

    Parameters
    ----------
    study : path-like or Study
    name : str, optional
        Needed if the study holds several sets of networks.

    Returns
    -------
    name : str
    networks : NetworkSet

    Raises
    ------
    DatasetError
        If there are none, or several and no name; if files do not belong together; or if the runs that the networks
        were found on have changed since.
    """
    from ..networks import NetworkSet

    found = open_result(as_study(study), "networks", name)
    if found.stale:
        raise DatasetError(found.stale)
    return found.name, NetworkSet.of_result(found)


def load_study_model(study, model=None, tokenizer=None, device="auto"):
    """Load the model of a study and check that it is the one that was recorded.

    Parameters
    ----------
    study : path-like or Study
    model : torch.nn.Module or str, optional
        The model, or where it is now; by default it is loaded by the name in the study.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        Needed if ``model`` is a loaded model.
    device : str

    Returns
    -------
    model, tokenizer

    Raises
    ------
    ModelNotFoundError
        If it has other weights than the recorded model.
    """
    from ..models import describe_model, load_model
    from ..models.loading import DEMO_NAME

    known = as_study(study).info["model"]
    name = model if model is not None else "demo" if known["id"] == DEMO_NAME else known["id"]
    opened, tokenizer = load_model(name, dtype=known["dtype"], device=device, tokenizer=tokenizer)
    found = describe_model(opened)["weights_hash"]
    if found != known["weights_hash"]:
        raise ModelNotFoundError(
            f"{name!r} is not the model of this study: its weights hash is {found}, the study's "
            f"{known['weights_hash']} ({known['id']}). Pass its location with model= (--model)."
        )
    return opened, tokenizer


def heldout_of(study, text):
    """Load the text to test on; by default the demo's held-out part for a study of the demo corpus."""
    if text is not None and not is_demo(text):
        return load_heldout(text)
    recorded = study.info["corpus"].get("document_hashes")  # other corpora may be called demo, too
    known = [document.hash[:16] for document in load_corpus("demo")]
    if not isinstance(recorded, list) or not recorded or any(one not in known for one in recorded):
        raise ParameterError("Pass held-out text with text= (--text), not the recorded text.")
    return load_heldout()


def done_before(study, kind, name, settings):
    """Return whether a study holds a result that was made with these settings, and say so if it does."""
    done = plain_settings(settings) is not None and is_done(study, kind, name, settings)
    if done:
        print("   done before with the same settings")
    return done


def plain_settings(settings):
    """Return the settings, or None if JSON cannot hold them: functions and task objects cannot be compared later."""
    try:
        json.dumps(settings)
    except TypeError:
        return None
    return settings
