"""Python code in several processes of torch.distributed, as torchrun starts them."""

import os
import socket
import subprocess
import sys

import pytest


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(arguments, n, env=None):
    """Start ``n`` processes of Python with the variables that torchrun sets."""
    port = str(free_port())
    common = {**os.environ, "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(env or {})}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**common, "RANK": str(k), "LOCAL_RANK": str(k)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(n)
    ]


def launch(arguments, n=2, env=None, timeout=400):
    """Run ``n`` processes to their end; return ``(code, stdout, stderr)`` of each."""
    running = start(arguments, n, env)
    try:
        found = [process.communicate(timeout=timeout) for process in running]
    except subprocess.TimeoutExpired:
        for process in running:
            process.kill()
        pytest.fail(f"{n} processes did not end in {timeout} s: {[p.communicate() for p in running]}")
    return [(process.returncode, *texts) for process, texts in zip(running, found)]
