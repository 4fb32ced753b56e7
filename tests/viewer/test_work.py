"""One thread runs the model; a newer request of a kind ends the older one, also in the middle of a generation."""

import threading

import pytest
import torch

from llmbrain.viewer.work import Job, ModelThread, Replaced, stops


def test_work_runs_in_order_in_one_thread():
    thread, seen = ModelThread(), []
    futures = [thread.submit(str(i), lambda job, i=i: seen.append((i, threading.get_ident()))) for i in range(5)]
    for future in futures:
        future.result(10)
    thread.close()
    assert [i for i, _ in seen] == list(range(5)) and len({ident for _, ident in seen}) == 1


def test_a_newer_request_of_a_kind_replaces_the_older_ones():
    thread, begun, go = ModelThread(), threading.Event(), threading.Event()

    def slow(job):
        begun.set()
        go.wait(10)
        job.check()

    running = thread.submit("read", slow)
    begun.wait(10)
    waiting = thread.submit("read", lambda job: "second")
    other = thread.submit("lesion", lambda job: "another kind")
    newest = thread.submit("read", lambda job: "newest")
    go.set()
    for replaced in (running, waiting):
        with pytest.raises(Replaced, match="newer request"):
            replaced.result(10)
    assert (other.result(10), newest.result(10)) == ("another kind", "newest")
    thread.close()


def test_a_cancelled_job_stops_the_model_and_leaves_no_hook():
    model, job = torch.nn.Linear(2, 2), Job()
    with stops(model, job):
        model(torch.zeros(1, 2))
        job.cancel()
        with pytest.raises(Replaced):
            model(torch.zeros(1, 2))
    model(torch.zeros(1, 2))
    assert not model._forward_pre_hooks
