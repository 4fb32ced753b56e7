"""What the page shows of a study: networks, labels, recorded runs, the display order, files, and what is missing."""

import contextlib
import hashlib
import threading
import warnings

import numpy as np

from ..dataset import FILES, as_study, find_results, open_result, result_name
from ..exceptions import DatasetError, LLMBrainError, LLMBrainWarning, ParameterError, check_count
from ..masks import NeuronMask
from ..networks import NetworkSet
from ..networks.labels import HandLabels
from ..reporting.network_table import readable
from ..topography import Topography
from .reading import measure_yardstick

STEPS_PER_Z = 100  # z-scores travel as int16 in hundredths, so up to 327
TOP = 12  # tokens and contexts shown of each side of a network
CHUNK = 512  # tokens of a run that are projected at a time


def packed(z):
    """Pack z-scores into int16 in hundredths; larger ones are clipped at 327.

    They are rounded away from 0, so that as many exceed a threshold in hundredths as before.
    """
    steps = np.multiply(z, STEPS_PER_Z, dtype=np.float32)
    return np.copysign(np.ceil(np.abs(steps)), steps, out=steps).clip(-32767, 32767, out=steps).astype("<i2").tobytes()


class Contents:
    """A study as the page shows it, with files of further masks for lesions; read again when its files change.

    ``networks`` names the networks, if the study holds several; by default the first.
    """

    def __init__(self, study, masks=(), networks=None):
        self.study, self._wanted = as_study(study), networks
        if networks is not None:
            result_name(self.study, "networks", networks)  # raises if there are none of that name
        self._lock = threading.RLock()
        self._signature, self._yardstick, self._runs = None, None, {}
        self.networks = self.recording = self.labels = self.order = self.result = None
        self.desc, self.messages = None, []
        self.refresh()
        self.masks = [self._own_mask(path) for path in masks]

    # -- reading the study ----------------------------------------------------------------------------------------
    def refresh(self):
        """Read the study again if its networks, labels or runs changed."""
        with self._lock:
            signature = self._state()
            if signature == self._signature:
                return
            self.messages, self._yardstick, self._runs = [], None, {}
            self._read_networks()
            self._read_recording()
            self._read_order()
            self._signature = signature

    def _state(self):
        kinds = ("components_json", "labels", "topography_json", "bold_json")
        files = [found.path for kind in kinds for found in self.study.find(kind)]
        return (
            [(str(path), path.stat().st_mtime_ns) for path in files if path.exists()],
            len(self.study.find("bold")),
        )

    def _read_networks(self):
        self.networks = self.labels = self.result = self._unreadable = None
        found = find_results(self.study, "networks")
        if not found:
            self.messages.append(f"This study has no networks yet. Find them with: llmbrain networks {self.study.root}")
            return
        self.desc = result_name(self.study, "networks", self._wanted) if self._wanted else found[0]
        others = ", ".join(name for name in found if name != self.desc)
        if others and not self._wanted:
            self.messages.append(f"These are the networks {self.desc}. Choose others with --networks: {others}.")
        try:
            with self._noting_warnings():
                self.result = open_result(self.study, "networks", self.desc).warn_if_stale()
                self.networks = NetworkSet.of_result(self.result)
        except (LLMBrainError, OSError) as error:
            self.messages.append(f"The networks cannot be read: {error}")
            return
        try:
            self.labels = HandLabels.load(self.study, self.networks, self.desc)
        except LLMBrainError as error:
            self._unreadable = str(error)
            self.messages.append(self._unreadable)
        self.labels = self.labels or HandLabels.blank(self.networks)

    @contextlib.contextmanager
    def _noting_warnings(self):
        """Show warnings on the page."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        self.messages += [str(one.message) for one in caught if issubclass(one.category, LLMBrainWarning)]

    def _read_recording(self):
        self.recording = None
        site = None if self.networks is None else self.networks.geometry.site
        try:
            sites = self.study.sites()
            with self._noting_warnings():
                recording = self.study.recording(site or (sites[0] if sites else None))
                recording.check()
                self.recording = recording
        except (LLMBrainError, OSError) as error:
            self.messages.append(f"No recorded run can be read, so no text can be read either: {error}")
            return
        unfinished = len(self.study.find("bold")) - len(self.study.find("bold_json"))
        if unfinished > 0:
            self.messages.append(
                f"The recording is still being written: {len(self.recording)} runs are finished. Reload the page later."
            )

    def _read_order(self):
        self.order = None
        geometry = self.geometry
        if self.networks is None:
            return
        if self.desc not in find_results(self.study, "topography"):
            return
        try:
            result = open_result(self.study, "topography", self.desc)
            order = None if result.stale else Topography.load(result.path("topography"))
        except (LLMBrainError, OSError, ValueError) as error:
            self.messages.append(f"The display order cannot be read: {error}")
            return
        if order is not None and order.geometry == geometry:
            self.order = order

    def _own_mask(self, path):
        mask = NeuronMask.load(path, self.geometry)
        if self.geometry is not None:
            self.geometry.check_same(mask.geometry, f"The mask {path}")
        return mask

    # -- parts ----------------------------------------------------------------------------------------------------
    @property
    def geometry(self):
        """Neurons of the networks, or of the recording; None if there are neither."""
        found = self.networks if self.networks is not None else self.recording
        return None if found is None else found.geometry

    @property
    def yardstick(self):
        """Means and standard deviations over the recording, measured on first use."""
        with self._lock:
            if self.recording is None:
                raise DatasetError("The study holds no recorded run, so activity cannot be z-scored. Record it again.")
            if self._yardstick is None:
                self._yardstick = measure_yardstick(self.recording, self.networks)
            return self._yardstick

    def describe(self):
        """Describe the study for the page, as plain values."""
        self.refresh()
        with self._lock:
            info, geometry = self.study.info, self.geometry
            return {
                "model": info["model"].get("id", self.study.subject),
                "corpus": info["corpus"].get("name", self.study.task),
                "messages": list(self.messages),
                "geometry": None if geometry is None else geometry.to_dict(),
                "order": None if self.order is None else self.order.note,
                "threshold": 3.0 if self.networks is None else self.networks.threshold,
                "networks": [] if self.networks is None else self._network_rows(),
                "runs": [] if self.recording is None else self._run_rows(),
                "masks": [{"name": m.name or f"mask {i}", "n_neurons": m.count} for i, m in enumerate(self.masks)],
            }

    def _network_rows(self):
        metrics = self.networks.metrics
        rows = []
        for k in range(len(self.networks)):
            row = {"network": k, "decision": self.labels.decisions[k], "name": self.labels.names[k]}
            for name in ("n_neurons", "peak_layer", "first_layer", "last_layer", "variance", "stability", "positive"):
                row[name] = plain(metrics[name].iloc[k]) if name in metrics else None
            label = metrics["label"].iloc[k] if "label" in metrics else None
            row["label"] = readable(label) if isinstance(label, str) else ""
            row["flagged"] = k in self.networks.flagged
            artefact = metrics["artefact"].iloc[k] if "artefact" in metrics else None
            row["artefact"] = artefact if isinstance(artefact, str) else ""
            rows.append(row)
        return rows

    def _run_rows(self):
        return [{"run": run.index, "n_tokens": run.n_tokens} for run in self.recording]

    def order_arrays(self):
        """Cells and ranks of the display order as bytes (int32, one after the other); empty without an order."""
        if self.order is None:
            return b""
        return np.concatenate([self.order.cells, self.order.rank()]).astype("<i4").tobytes()

    def _checked(self, network):
        check_count("network", network, 0)
        if self.networks is None or network >= len(self.networks):
            raise ParameterError(f"There is no network {network}.")
        return network

    def map_of(self, network):
        """z-scored map of a network, packed."""
        k = self._checked(network)
        return packed(self.networks.z[k])

    def neuron(self, index):
        """The strongest networks of a neuron."""
        check_count("index", index, 0)
        if self.networks is None or index >= self.geometry.n_neurons:
            raise ParameterError(f"There is no neuron {index}.")
        z = self.networks.z[:, index]
        strongest = np.argsort(-np.abs(z))[:4]
        return {"networks": [{"network": int(k), "z": round(float(z[k]), 2)} for k in strongest]}

    def details(self, network):
        """What drives a network: tokens, contexts, effect of its lesion."""
        self._checked(network)
        found = {"network": network, "tokens": [], "contexts": [], "lesion": None}
        text = {"token": str, "before": str, "after": str, "document": str}
        tokens, contexts = (self.result.read(part, dtype=text) for part in ("tokens", "contexts"))
        if tokens is not None:
            own = tokens[tokens["network"] == network]
            for side in (1, -1):  # the most reliable ones, the strongest first
                rows = own[own["side"] == side].head(TOP).sort_values("mean", key=abs, ascending=False, kind="stable")
                found["tokens"] += records(rows, ("side", "token", "n", "mean"))
        if contexts is not None:
            own = contexts[contexts["network"] == network].fillna("")
            for side in (1, -1):
                rows = own[own["side"] == side].head(4)
                found["contexts"] += records(rows, ("side", "value", "document", "before", "token", "after"))
        return found

    # -- recorded runs --------------------------------------------------------------------------------------------
    def run(self, number):
        """A recorded run, by its number."""
        check_count("run", number)
        found = [run for run in self.recording or () if run.index == number]
        if not found:
            raise ParameterError(f"There is no recorded run {number}.")
        return found[0]

    def run_view(self, number):
        """Tokens, surprisal and courses of a run."""
        run = self.run(number)
        with self._lock:
            if number not in self._runs:
                self._runs = {number: self._courses(run)}  # one is enough: pages turn forwards
            courses = self._runs[number]
        events = run.events
        surprisal = events["surprisal"].to_numpy(float) if "surprisal" in events else np.full(len(events), np.nan)
        return {
            "tokens": events["token"].fillna("").tolist(),
            "documents": events["document"].fillna("").tolist() if "document" in events else None,
            "surprisal": rounded(surprisal),
            "courses": rounded(courses.T),
        }

    def _courses(self, run):
        """Courses of a run, z-scored over the recording: those in the study, or computed from the activity."""
        networks = self.networks
        if networks is None:
            return np.zeros((run.n_tokens, 0))
        numbers = list(networks.info.get("runs") or [])
        if networks.time_courses is not None and run.index in numbers:
            stored = networks.time_courses[numbers.index(run.index)]
            if len(stored) == run.n_tokens:
                pooled = np.concatenate(networks.time_courses)
                sd = pooled.std(axis=0)
                return (stored - pooled.mean(axis=0)) / np.where(sd > 0, sd, 1)
        yardstick = self.yardstick
        starts = range(0, run.n_tokens, CHUNK)
        return np.concatenate([yardstick.courses(yardstick.z(run.to_array(a, a + CHUNK))) for a in starts])

    def run_moment(self, number, token):
        """z-scored activity of all neurons at a token of a run, packed."""
        run = self.run(number)
        check_count("token", token, 0)
        if token >= run.n_tokens:
            raise ParameterError(f"Run {number} has {run.n_tokens} tokens; there is no token {token}.")
        return packed(self.yardstick.z(run.to_array(token, token + 1))[0])

    # -- labels ---------------------------------------------------------------------------------------------------
    def label(self, network, decision=None, name=None):
        """Change the label of a network and save the table; returns the row of the network.

        Raises
        ------
        DatasetError
            If the study holds a table that cannot be read or belongs to other networks: it is not replaced.
        """
        self.refresh()
        with self._lock:
            self._checked(network)
            if self._unreadable is not None:
                raise DatasetError(f"{self._unreadable} Until then, no label is saved.")
            self.labels.set(network, decision, name)
            self.labels.save(self.study, self.desc)
            self._signature = self._state()  # our own change needs no reading again
            return self._network_rows()[network]

    # -- volumes --------------------------------------------------------------------------------------------------
    def volumes(self):
        """NIfTI files of the study: id -> (path, kind). Pages get ids and names, never paths."""
        kinds = [kind for kind, pattern in FILES.items() if pattern.endswith((".nii", ".nii.gz"))]
        found = {}
        for kind in kinds:
            for one in self.study.find(kind):
                key = hashlib.sha256(one.path.name.encode()).hexdigest()[:12]
                found[key] = (one.path, kind)
        return found

    def volume_rows(self):
        """What the page lists of :meth:`volumes`."""
        rows = []
        for key, (path, kind) in self.volumes().items():
            rows.append({"id": key, "name": path.name, "kind": kind, "bytes": path.stat().st_size})
        first = ("z_components", "components", "statmap", "localizer_mask", "layers_dseg", "heads_dseg")
        return sorted(rows, key=lambda row: (first.index(row["kind"]) if row["kind"] in first else 9, row["name"]))


def plain(value):
    """A number as JSON can hold it: None for NaN."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else None
    return value


def rounded(array, digits=3):
    """Nested lists of rounded numbers, None for NaN."""
    array = np.asarray(array, float)
    if array.ndim > 1:
        return [rounded(row, digits) for row in array]
    return [None if np.isnan(v) else v for v in np.round(array, digits).tolist()]


def records(frame, columns):
    """Rows of a data frame as plain dicts."""
    return [{name: plain(row[name]) for name in columns if name in row} for row in frame.to_dict("records")]
