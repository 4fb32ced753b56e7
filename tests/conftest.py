"""Fixtures that all tests share: the real demo model, and quiet, reproducible libraries."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands and notebooks that tests start, too

import pytest


@pytest.fixture(scope="session", autouse=True)
def _share_the_cores():
    """Two test processes on two cores: one thread each is faster than two that wait for each other."""
    import torch

    if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo_model():
    """The real demo model and its tokenizer; tests must leave the model as it is."""
    from llmbrain.exceptions import ModelNotFoundError
    from llmbrain.models import load_model

    try:
        return load_model("demo")
    except ModelNotFoundError as error:
        pytest.skip(f"the demo model is not there: {error}")
