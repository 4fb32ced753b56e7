"""Processes that share work: real ones with gloo against the same work in one."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from launching import launch

from llmbrain.exceptions import DatasetError, ParameterError
from llmbrain.parallel import Share, check_complete, only_launch, processes, share, split, world_size


def script(tmp_path, code):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


@pytest.mark.parametrize(("n", "count"), [(10, 3), (2, 5), (0, 2), (7, 7)])
def test_shares_hold_every_item_once_and_differ_by_one(n, count):
    shares = split(n, count)
    assert sorted(sum(shares, [])) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [Share(k, count).of(range(n)) for k in range(count)] == shares


def test_shares_are_balanced_by_cost():
    costs = np.random.default_rng(0).exponential(size=100)
    shares = split(100, 4, costs)
    assert sorted(sum(shares, [])) == list(range(100))
    loads = [costs[part].sum() for part in shares]
    assert max(loads) - min(loads) <= costs.max() / 2
    assert max(loads) < 1.02 * costs.sum() / 4


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(ParameterError, match="NUMBER/COUNT"):
        Share.parse(text)
    assert Share.parse(None) is None and str(Share.parse("3/40")) == "3/40"


def test_shares_have_files_of_their_own(tmp_path):
    whole, parts = tmp_path / "grid.tsv", [Share(k, 12) for k in range(12)]
    for part in parts:
        part.path(whole).touch()
    assert parts[9].path(whole).name == "grid.share-10-of-12.tsv"
    assert list(Share.find(whole)) == parts
    check_complete(parts, tmp_path)
    with pytest.raises(DatasetError, match="lacks the shares 3/12, 12/12"):
        check_complete(parts[:2] + parts[3:-1], tmp_path)
    with pytest.raises(DatasetError, match="different splits: of 2 and of 12"):
        check_complete([*parts, Share(0, 2)], tmp_path)


def test_a_second_launch_is_refused(tmp_path):
    with only_launch(tmp_path / "a.tsv"):
        with pytest.raises(DatasetError, match="Another launch is writing"), only_launch(tmp_path / "a.tsv"):
            pass
        with only_launch(tmp_path / "b.tsv"):
            pass
    with only_launch(tmp_path / "a.tsv"):
        pass


def test_alone_nothing_is_shared_and_torch_is_not_imported():
    code = "import sys; from llmbrain import parallel as p\nwith p.processes(): p.barrier(); print(p.share([1, 2]), "
    code += "p.rank(), p.world_size(), p.all_reduce('x'), p.agree('text', 'a'), 'torch' in sys.modules)"
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert out.split("\n")[0] == "[1, 2] 0 1 x None False"


def test_three_processes_add_up_what_one_sees_and_notice_a_death(tmp_path):
    code = """
    import os, sys, time, torch
    from pathlib import Path
    from llmbrain.exceptions import DatasetError, ParallelError, ParameterError
    from llmbrain import parallel as p
    from llmbrain.stats import Moments

    folder = Path(sys.argv[1])
    x = 100 + torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    y = x[:, :2] + torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    with p.processes():
        r = p.rank()
        assert p.world_size() == 3 and p.main_process() == (r == 0)
        assert p.share(range(2)) == ([0], [1], [])[r]  # one process without work
        with p.alone():
            assert p.share(range(2)) == [0, 1] and p.world_size() == 1
        assert p.all_reduce(torch.full((2, 3), float(r)).T).tolist() == [[3.0] * 2] * 3
        mine = p.reduce_to(torch.tensor([r + 1.0]), 1)
        assert r != 1 or mine.item() == 6
        assert p.broadcast(torch.tensor([r]), 2).item() == 2

        one, full = Moments(6, 2), Moments(6, 2)
        full.add(x, y)
        if r:  # the first process has seen no token
            part = slice(0, 13) if r == 1 else slice(13, 50)
            one.add(x[part], y[part], torch.ones(50)[part])
        total = one.all_reduce()
        assert total.n == 50 and one.n == (0, 13, 37)[r]
        for name in ("mean", "covariance", "cross_covariance", "target_mean", "target_variance"):
            torch.testing.assert_close(getattr(total, name), getattr(full, name), rtol=1e-5, atol=1e-5)
        bits = total.sums["second"].clone()
        assert torch.equal(p.broadcast(bits), total.sums["second"])
        owned = one.reduce_to(2)
        if r == 2:
            torch.testing.assert_close(owned.covariance, full.covariance, rtol=1e-5, atol=1e-5)
        assert Moments(3).all_reduce().n == 0

        p.agree("text", "same", b"bytes")
        try:
            p.agree("text", "other" if r == 2 else "same")
        except ParameterError as error:
            assert "process 3 of 3" in str(error), error
        else:
            raise AssertionError("not refused")
        p.check_shared_folder(folder / "study")
        p.messages._SECONDS_UNTIL_VISIBLE = 1
        local = folder / "machine" / str(r)  # as on three machines without a shared file system
        local.mkdir(parents=True)
        try:
            p.check_shared_folder(local)
        except DatasetError as error:
            assert "2, 3 of 3" in str(error), error
        else:
            raise AssertionError("not refused")
        p.barrier()
        assert not list(folder.rglob(".shared-*"))

        if r == 1:
            os.kill(os.getpid(), 9)
        start = time.monotonic()
        try:
            p.barrier()
        except ParallelError as error:
            assert "lost another one" in str(error) and time.monotonic() - start < 30
        else:
            raise AssertionError("not noticed")
    assert p.world_size() == 1
    """
    found = launch([script(tmp_path, code), tmp_path], n=3, preload="torch")
    assert [code for code, _, _ in found] == [0, -9, 0], found


def in_world(monkeypatch, **env):
    """Replace the environment, which srun's variables may change."""
    launchers = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "SLURM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    monkeypatch.setattr(os, "environ", {**kept, **env})


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK and MASTER_ADDR and MASTER_PORT is not set"),
        ({"RANK": "0"}, "WORLD_SIZE and MASTER_ADDR"),
        ({"WORLD_SIZE": "two", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "whole numbers"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "0 <= RANK"),
    ],
)
def test_a_world_without_a_launcher_is_refused(monkeypatch, env, message):
    in_world(monkeypatch, **env)
    with pytest.raises(ParameterError, match=message), processes():
        pass


def test_nccl_without_gpus_is_refused(monkeypatch):
    import torch

    in_world(monkeypatch, WORLD_SIZE="2", RANK="0", MASTER_ADDR="localhost", MASTER_PORT="1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ParameterError, match="NCCL cannot be used"), processes("nccl"):
        pass
    with pytest.raises(ParameterError, match="2 GPUs per process"), processes(gpus_per_rank=2):
        pass
    with pytest.raises(ParameterError, match="choose 'gloo'"), processes("mpi"):
        pass


def test_gpus_are_dealt_out_to_the_processes_of_a_machine(monkeypatch):
    import torch

    from llmbrain.parallel.launchers import Place, take_gpus

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    take_gpus(Place(3, 4, 1, 2), None, 2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1")
    take_gpus(Place(2, 4, 2, 4), None, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    with pytest.raises(ParameterError, match="at most 1 per machine"):
        take_gpus(Place(0, 2, 0, 2), None, 3)


def test_srun_is_a_launcher(monkeypatch):
    from llmbrain.parallel.launchers import read_place

    in_world(monkeypatch, SLURM_STEP_NUM_TASKS="6", SLURM_PROCID="4", SLURM_LOCALID="1", SLURM_JOB_ID="123",
             SLURM_STEP_NODELIST="gpu[07-08,11]", SLURM_STEP_TASKS_PER_NODE="3(x2)")  # fmt: skip
    place = read_place()
    assert (place.rank, place.size, place.local, place.local_size) == (4, 6, 1, 3)
    assert os.environ["MASTER_ADDR"] == "gpu07" and os.environ["MASTER_PORT"] == "32300"
    in_world(monkeypatch, SLURM_NTASKS="6", SLURM_PROCID="0")  # a batch script without srun
    assert read_place() is None


def test_one_process_of_torchrun_is_alone(monkeypatch):
    in_world(monkeypatch, WORLD_SIZE="1", RANK="0", MASTER_ADDR="localhost", MASTER_PORT="1")
    with processes():
        assert world_size() == 1 and share("ab") == ["a", "b"]
