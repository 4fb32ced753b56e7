"""What a study holds, and which of its files are damaged or out of date."""

from dataclasses import dataclass, field

from ..dataset import as_study, check_content, check_run, find_results, open_result
from ..dataset.layout import FILES, RESULTS
from ..exceptions import LLMBrainError
from ..registry import choose


@dataclass
class StudyState:
    """What :func:`inspect_study` finds.

    Attributes
    ----------
    lines : list of str
        One line per site and result.
    unfinished, damaged, stale : list of str
        One sentence for each run whose recording was stopped, each damaged file, and each result whose sources have
        changed.
    """

    lines: list = field(default_factory=list)
    unfinished: list = field(default_factory=list)
    damaged: list = field(default_factory=list)
    stale: list = field(default_factory=list)

    def __str__(self):
        lists = {"Unfinished": self.unfinished, "Damaged": self.damaged, "Out of date": self.stale}
        parts = [["", f"{name}:", *(f"  {text}" for text in texts)] for name, texts in lists.items() if texts]
        return "\n".join(line for part in [self.lines, *parts] for line in part)


def inspect_study(study, check="headers", progress=True):
    """Inspect all runs and results of a study; nothing is written.

    Parameters
    ----------
    study : path-like or Study
    check : {"headers", "sample", "all"}
        How much of each run is read: its header, events and description; also 64 volumes; or everything. Results are
        small and always read completely.
    progress : bool
        Show a progress bar.

    Returns
    -------
    StudyState
    """
    check = choose("check", check, ("headers", "sample", "all"))
    study, state = as_study(study), StudyState()
    model, corpus = study.info["model"], study.info["corpus"]
    state.lines.append(f"{study.root}: {model.get('id')} on {corpus.get('name')}")
    _inspect_runs(study, state, check, progress)
    for kind in RESULTS:
        _inspect_results(study, state, kind)
    return state


def _inspect_runs(study, state, check, progress):
    from tqdm.auto import tqdm

    runs, sites = study.find("bold"), {}
    for one in tqdm(runs, desc="runs", unit="run", disable=not progress or check == "headers", leave=False):
        if not one.path.with_suffix(".json").is_file():  # it is written last
            state.unfinished.append(
                f"{one.path} has no description: its recording was stopped. Repeat llmbrain record."
            )
            continue
        sites[one.entities["site"]] = sites.get(one.entities["site"], 0) + 1
        try:
            check_run(one.path, study.info["model"].get("weights_hash"))
            if check != "headers":
                check_content(one.path, thorough=check == "all")
        except (LLMBrainError, OSError) as error:
            state.damaged.append(str(error))
    state.lines += [f"  site {site}: {n} {'run' if n == 1 else 'runs'}" for site, n in sites.items()]
    orphans = {one.path.with_suffix(".nii") for one in study.find("bold_json")} - {one.path for one in runs}
    state.damaged += [f"{path} is missing; its description exists." for path in sorted(orphans)]


def _inspect_results(study, state, kind):
    rule, listed = RESULTS[kind], set()
    for name in find_results(study, kind):
        try:
            result = open_result(study, kind, name)
        except (LLMBrainError, OSError) as error:
            state.damaged.append(str(error))
            listed |= {path for part in rule.parts for path in _files(study, part, name)}
            continue
        listed |= set(result.paths)
        stale = result.stale
        state.lines.append(f"  {rule.what} {name}: {len(result.paths)} files{', out of date' if stale else ''}")
        state.stale += [stale] if stale else []
    held = {path for part in rule.parts for path in _files(study, part)}
    state.damaged += [
        f"{path} belongs to no {rule.what}: the file that describes it is missing. {rule.remedy}"
        for path in sorted(held - listed)
    ]


def _files(study, part, name=None):
    entity = "site" if "{site}" in FILES[part] else "desc"
    return {one.path for one in study.find(part, **({} if name is None else {entity: name}))}
