"""Whether a result still belongs to its study: what it was made from is compared with what is there now."""

import hashlib
import json

from ..exceptions import DatasetError
from .folder import holds_study
from .layout import RESULTS
from .manifests import find_results, read_manifest
from .runs import Run
from .study import Study, find_studies


def stale_reason(result):
    """Say why a result no longer belongs to its study; an empty text if it does, or if this cannot be told."""
    study, rule = result.folder, RESULTS[result.kind]
    if not isinstance(study, Study):
        return ""
    reason = _changed(study, result.sources)
    return f"The {rule.what} {result.name!r} in {study.root}: {reason}. {rule.remedy}" if reason else ""


def _changed(study, sources):
    """What has changed since a result was made, or an empty text."""
    made, own = sources.get("weights"), study.info.get("model", {}).get("weights_hash")
    if made and own and made != own:
        return f"made with a model with the weights hash {made}, but this study is of {own}"
    wanted = sources.get("networks")
    for made in [wanted] if isinstance(wanted, str) else wanted or ():
        reason = _changed_networks(study, made)
        if reason:
            return reason
    recordings = sources.get("recording")
    for recording in recordings if isinstance(recordings, list) else [recordings]:
        reason = _changed_runs(study, recording) if isinstance(recording, dict) else ""
        if reason:
            return reason
    return _changed_others(study, sources.get("others")) or _changed_lesions(study, sources)


def noted_runs(runs):
    """Note the runs that a result is made from, for :func:`own_recordings`; empty if some are not recorded runs."""
    if not runs or not all(isinstance(run, Run) for run in runs):
        return []
    return [{"site": runs[0].geometry.site, "runs": {str(run.index): run.hash for run in runs}}]


def own_recordings(study, noted):
    """Of noted runs, those that a study holds, with all of its runs, as sources of a result.

    Others are not compared later: a localizer or a reference text may be recorded elsewhere.
    """
    found = []
    for one in noted if isinstance(study, Study) else ():
        now = study.run_hashes(one["site"])
        if one["runs"].items() <= now.items():
            found.append({**one, "known": sorted(now)})
    return found


def _changed_others(study, others):
    """Look for the networks of other models that a result was made from, if the dataset holds these models."""
    if not isinstance(others, dict) or not holds_study(study.root):
        return ""
    beside = {one.name: one for one in find_studies(study.root)}
    for name, made in others.items():
        if name in beside and name != study.name:
            held = [
                read_manifest(beside[name], "networks", one).info.get("hash")
                for one in find_results(beside[name], "networks")
            ]
            if made not in held:
                return f"made from networks of {name} (hash {made}) that it no longer holds"
    return ""


def lesions_of(study, networks):
    """Lesion studies of some networks, given by their hash: name -> hash of its tables. Damaged ones are left out."""
    found = {}
    for name in find_results(study, "lesions"):
        try:
            result = read_manifest(study, "lesions", name)
        except DatasetError:
            continue
        if networks in (result.sources.get("networks") or ()):
            content = json.dumps(result.files, sort_keys=True)
            found[name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return found


def _changed_lesions(study, sources):
    """Compare the lesion studies that a comparison of models read with those that the models have now."""
    lesions = sources.get("lesions")
    if not isinstance(lesions, dict) or not holds_study(study.root):
        return ""
    others = sources.get("others") or {}
    for one in find_studies(study.root):
        wanted = others.get(one.name) or next(iter(sources.get("networks") or ()), None)
        if one.name in lesions and (one.name in others or one.name == study.name):
            known, now = lesions[one.name], lesions_of(one, wanted)
            differ = sorted(name for name in {*known, *now} if known.get(name) != now.get(name))
            if differ:
                return f"the lesions of {one.name} have changed since ({', '.join(differ)})"
    return ""


def _changed_runs(study, recording):
    """Compare the runs that a result was made from with those of the study; runs that were removed do not matter."""
    now, then = study.run_hashes(recording.get("site", "")), recording.get("runs", {})
    other = [run for run, made in then.items() if now.get(run, made) != made]
    if other:
        return f"the recording has changed since (run {', '.join(other)})"
    new = sorted(set(now) - set(map(str, recording.get("known", now))), key=int)
    return f"the recording has grown since (run {', '.join(new)})" if new else ""


def _changed_networks(study, made):
    """Look for the networks that a result was made from, by their hash."""
    hashes = {}
    for name in find_results(study, "networks"):
        try:
            networks = read_manifest(study, "networks", name)
        except DatasetError:
            hashes[name] = "damaged"
            continue
        if networks.info.get("hash") == made:
            return _changed(study, networks.sources)
        hashes[name] = networks.info.get("hash")
    held = ", ".join(f"{name} ({one})" for name, one in hashes.items()) or "none"
    return f"made from networks (hash {made}) that the study no longer holds; it holds {held}"
