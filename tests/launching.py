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


def launch(arguments, n=2, env=None, timeout=400, preload="torch"):
    """Run a script in ``n`` processes to their end; return ``(code, stdout, stderr)`` of each."""
    world = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1"}
    world |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, Path(__file__).with_name("forked.py"), n, preload, *arguments]
    running = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, **world, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = running.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        pytest.fail(f"{n} processes did not end in {timeout} s")
    assert running.returncode == 0, err
    return [tuple(one) for one in json.loads(out)]
