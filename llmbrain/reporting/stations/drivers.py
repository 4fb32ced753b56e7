"""What drives the networks: their time courses beside the tokens, and the interpretation of both."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...networks.meaning.interpretation import interpret
from ...networks.meaning.profiles import kind_engagement
from ..station import STATIONS, Station

N_DRAWS = 99  # of circular shifts; candidate names are suggestions and need no finer p


@dataclass
class Drivers:
    """Time courses of the networks, z-scored over all tokens, and what they follow."""

    courses: np.ndarray
    events: pd.DataFrame = None
    interpretation: object = None
    engagement: pd.DataFrame = None


@STATIONS.register("drivers", place=70)
class DriversStation(Station):
    """Has no section: the pages of the networks show it."""

    def result(self, report):
        found, recorded = report["networks"], report["recording"]
        if found is None:
            return None
        courses = found.networks.time_courses
        if report.study is None:
            return None if courses is None else Drivers(_stack(courses))
        if recorded is None:
            return None
        if courses is None:
            report.absent.append("The time courses of the networks are not in the study, so no words are shown.")
            return None
        by_index = {run.index: run for run in recorded.recording}
        runs = [by_index[i] for i in found.networks.info.get("runs") or by_index if i in by_index]
        if len(courses) != len(runs) or any(len(c) != run.n_tokens for c, run in zip(courses, runs)):
            report.absent.append(
                "The networks were found on runs that this study does not hold, so no words are shown."
            )
            return None
        return drivers_of(courses, [run.events.assign(run=run.index) for run in runs])

    def methods(self, report, result, cite):
        if result.interpretation is None:
            return ""
        text = (
            "Time courses of networks were correlated with token classes, position, frequency and surprisal; p-values "
            "come from circular shifts within runs and are corrected for all pairs by the largest correlation"
            f"{cite('westfall1993resampling')}. Candidate names follow from these correlations and are suggestions."
        )
        if result.engagement is not None:
            text += " Kinds of text were compared by permuting kinds over documents."
        return text


def drivers_of(courses, frames):
    """Find what drives each network, given one course (n_tokens, n_networks) and one data frame of events per run."""
    events = pd.concat(frames, ignore_index=True)
    several = {"document", "kind"} <= set(events) and events["kind"].nunique() > 1
    engagement = kind_engagement(courses, frames) if several else None
    return Drivers(_stack(courses), events, interpret(courses, frames, n_draws=N_DRAWS), engagement)


def _stack(courses):
    stacked = np.concatenate([np.asarray(c, float) for c in courses])
    return (stacked - stacked.mean(axis=0)) / np.maximum(stacked.std(axis=0), 1e-9)
