"""What torchrun and srun set, and the GPUs of each process."""

import os

import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.parallel import processes, share, world_size


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
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: 1, raising=False)  # what the driver shows then
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    take_gpus(Place(3, 4, 1, 2), None, 2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1")
    take_gpus(Place(2, 4, 2, 4), None, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    with pytest.raises(ParameterError, match="at most 1 per machine"):
        take_gpus(Place(0, 2, 0, 2), None, 3)


def test_processes_that_see_all_gpus_take_one_each(monkeypatch):
    """The driver was asked for GPUs before, so that it does not read CUDA_VISIBLE_DEVICES again."""
    import torch

    from llmbrain.parallel.launchers import Place, take_gpus

    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: 4, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    take_gpus(Place(3, 4, 3, 4), None, 1)
    take_gpus(Place(1, 2, 1, 2), None, 2)
    assert taken == [3, 2]


@pytest.mark.parametrize(
    ("env", "gpu", "n"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "OMP_NUM_THREADS": "1"}, True, 4),
        ({"TORCHELASTIC_RUN_ID": "x", "OMP_NUM_THREADS": "3"}, True, None),
        ({"OMP_NUM_THREADS": "1"}, True, None),
        ({"TORCHELASTIC_RUN_ID": "x", "OMP_NUM_THREADS": "1"}, False, None),
    ],
)
def test_processes_with_gpus_share_the_cores_of_a_machine_unless_the_user_has_said_how_many(monkeypatch, env, gpu, n):
    import torch

    from llmbrain.parallel.launchers import Place, cores_of

    for name in ("TORCHELASTIC_RUN_ID", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert cores_of(Place(0, 2, 0, 2)) == n


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
