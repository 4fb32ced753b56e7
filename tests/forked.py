"""Run a script in several processes that share one import of the libraries, which takes longer than most tests.

    python forked.py N MODULES SCRIPT ARGUMENTS...

Prints ``[code, stdout, stderr]`` of every process as JSON. A process that a signal has ended has the code ``-signal``.
"""

import importlib
import json
import os
import runpy
import sys
import tempfile
from pathlib import Path


def start(number, folder, arguments):
    """Fork a process that runs the script; return its id."""
    child = os.fork()
    if child:
        return child
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number)}
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{number}.{name}", os.O_CREAT | os.O_WRONLY), descriptor)
    sys.argv = list(arguments)
    code = 1
    try:
        runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for module in filter(None, sys.argv[2].split(",")):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as name:
        children = [start(k, Path(name), sys.argv[3:]) for k in range(int(sys.argv[1]))]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        texts = [[(Path(name) / f"{k}.{end}").read_text() for end in ("out", "err")] for k in range(len(codes))]
    print(json.dumps([[code, *text] for code, text in zip(codes, texts)]))
