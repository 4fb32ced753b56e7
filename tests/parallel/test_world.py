"""A process that is alone shares nothing."""

import os
import subprocess
import sys


def test_alone_nothing_is_shared_and_torch_is_not_imported():
    code = "import sys; from llmbrain import parallel as p\nwith p.processes(): p.barrier(); print(p.share([1, 2]), "
    code += "p.rank(), p.world_size(), p.all_reduce('x'), p.agree('text', 'a'), 'torch' in sys.modules)"
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert out.split("\n")[0] == "[1, 2] 0 1 x None False"
