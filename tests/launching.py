"""Python code in several processes of torch.distributed, with the variables that torchrun sets."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(arguments, n=2, timeout=400, preload=None):
    """Run a script in ``n`` processes to their end; return ``(code, stdout, stderr)`` of each.

    With ``preload``, modules that are separated by commas, they import these once and then part.
    """
    world = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1"}
    world |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if preload is None:
        commands = [(arguments, {"RANK": str(k), "LOCAL_RANK": str(k)}) for k in range(n)]
    else:
        commands = [([Path(__file__).with_name("forked.py"), n, preload, *arguments], {})]
    running = [start(command, {**world, **place}) for command, place in commands]
    try:
        found = [process.communicate(timeout=timeout) for process in running]
    except subprocess.TimeoutExpired:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"{n} processes did not end in {timeout} s")
    if preload is None:
        return [(process.returncode, *texts) for process, texts in zip(running, found)]
    assert running[0].returncode == 0, found
    return [tuple(one) for one in json.loads(found[0][0])]


def start(arguments, env):
    """Start Python with a session of its own, so that all that it starts can be ended."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
