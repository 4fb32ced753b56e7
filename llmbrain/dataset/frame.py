"""What describes a study as a whole: README, description of the dataset, participants, labels."""

from .. import __version__
from .layout import BIDSIGNORE

BIDS_VERSION = "1.10.0"
_DESCRIPTIONS = {  # of desc- labels, by the kind of the result that has the label first
    "lesions": "Lesion study {name}: effects of networks and their controls.",
    "doses": "Lesion effects over the dose {name}.",
    "comparison": "Comparison {name} of the networks of several models.",
    "pruning": "Comparison of pruning recipes {name}.",
    "localizer": "Localizer {name}: a contrast of two conditions.",
    "layers": "The layers of the site {name}.",
    "heads": "The attention heads of the site {name}.",
}

_README = """\
Recordings of a language model in the layout of a BIDS derivative, written by llmbrain.

Vocabulary: a subject is a model ({model}), a session is a checkpoint of it, a task is a corpus ({corpus}), a run is a
block of documents. A volume of a run is the state of all recorded neurons at one token, a voxel is one neuron, and the
repetition time of 1 is one token, not a second. Axis 0 of a volume is the layer; axes 1 and 2 fold its neurons into a
sheet. Neighbouring voxels of a sheet have nothing in common, so do not smooth.

Files
- *_bold.nii: activations, (layer, row, column, token), float32 or int16; *_bold.json: model, site, geometry, versions.
- *_events.tsv: one line per token; task-*_events.json explains the columns.
- *_label-neurons_*_mask.nii.gz: 1 at neurons, 0 at padding.
- *layers_dseg.nii.gz, *heads_dseg.nii.gz: the layer (attention head) that each voxel belongs to.
- *_label-network05_*_mask.nii.gz: the neurons of a network; *_seg-*_dseg.nii.gz: the strongest network of each neuron.
- *_components.nii.gz, *_mixing.tsv, *_metrics.tsv, *_effects.tsv, *_grid.tsv: networks, their time courses, lesions,
  pruning. BIDS has no suffix for these yet, so .bidsignore lists them, as well as study.json and report.html.
- The JSON file of a result lists its other files with their hashes, and what they were made from ("provenance").
- descriptions.tsv: the meaning of each desc- label.
"""


_PARTICIPANT_COLUMNS = {
    "Description": "The model that was recorded.",
    "participant_id": {"Description": "A subject is a model."},
    "id": {"Description": "Name of the model, as it was loaded."},
    "revision": {"Description": "Commit of the model's repository."},
    "architecture": {"Description": "Class of the model in transformers."},
    "n_layers": {"Description": "Number of decoder blocks."},
    "hidden_size": {"Description": "Width of the residual stream."},
    "n_parameters": {"Description": "Number of parameters, tied ones counted once."},
    "dtype": {"Description": "Type of the weights while recording."},
    "weights_hash": {"Description": "Hash of the weights; see llmbrain.models.identity.weights_hash."},
}

_LABEL_COLUMNS = {
    "Description": "The desc- labels in file names.",
    "desc_id": {"Description": "The label."},
    "description": {"Description": "What files with this label hold."},
}


SESSION_COLUMNS = {
    "Description": "The checkpoints of a model that were recorded.",
    "session_id": {"Description": "A session is a checkpoint of the model."},
    **{name: _PARTICIPANT_COLUMNS[name] for name in ("id", "revision", "n_parameters", "dtype", "weights_hash")},
}


def frame_of(info):
    """Content of the files that describe a dataset, by their kinds, from what ``study.json`` holds."""
    model, corpus = info["model"], info["corpus"]
    return {
        "readme": _README.format(model=model["id"], corpus=corpus["name"]),
        "bidsignore": "\n".join(BIDSIGNORE) + "\n",
        "description": _description(info),
        "participants_json": _PARTICIPANT_COLUMNS,
        "descriptions_json": _LABEL_COLUMNS,
    }


def participants_of(infos):
    """Table of the models of a dataset, one row per model, from what their ``study.json`` hold; sorted."""
    import pandas as pd

    rows = {}
    for info in infos:
        model = {k: v for k, v in info["model"].items() if k != "label"}
        rows.setdefault(info["labels"]["subject"], {"participant_id": f"sub-{info['labels']['subject']}", **model})
    return pd.DataFrame([rows[name] for name in sorted(rows)])


def sessions_of(infos):
    """Table of the checkpoints of one model, one row per session; sorted."""
    import pandas as pd

    rows = [
        {
            "session_id": f"ses-{info['labels']['session']}",
            **{k: info["model"].get(k) for k in list(SESSION_COLUMNS)[2:]},
        }
        for info in infos
    ]
    return pd.DataFrame(rows).sort_values("session_id", ignore_index=True)


def label_text(kind, name):
    """Meaning of the ``desc-`` label of a result."""
    return _DESCRIPTIONS.get(kind, "Networks {name}, and results of them.").format(name=name)


def _description(info):
    model = info["model"]
    return {
        "Name": f"Activations of {model['id']} on {info['corpus']['name']}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "n/a",
        "GeneratedBy": [{"Name": "llmbrain", "Version": __version__, "Description": "Recording of a language model"}],
        "SourceDatasets": [
            {
                "Description": f"model {model['id']}",
                "Version": str(model.get("revision") or model["weights_hash"]),
            },
            {
                "Description": f"corpus {info['corpus']['name']}",
                "Version": str(info["corpus"].get("hash", "n/a")),
            },
        ],
    }
