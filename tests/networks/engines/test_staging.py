"""The way of data to a GPU, tried on the CPU: parts arrive where they belong, whatever their size."""

import numpy as np
import pytest
import torch

from llmbrain.networks.engines import staging


@pytest.mark.parametrize("values", [1, 40, 1 << 20])
def test_parts_arrive_in_their_place(values, monkeypatch):
    monkeypatch.setattr(staging, "STAGE_VALUES", values)
    run = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32)
    kept, seen = torch.zeros(50, 40), []

    def read(out, first):
        seen.append(len(out))
        out[:] = run[first : first + len(out), 5:25]

    one = staging.Stage("cpu")
    for _ in range(2):
        one.fill(kept[:, 10:30], read)
        np.testing.assert_array_equal(kept[:, 10:30], run[:, 5:25])
    assert sum(seen) == 100 and max(seen) * 20 <= max(values, 20) and not kept[:, :10].any() and not kept[:, 30:].any()
    assert len({buffer.data_ptr() for buffer in one.buffers if len(buffer)}) == min(len(seen), staging.STAGES)
    assert staging.stage(torch.device("cpu")) is staging.stage(torch.device("cpu")) and not staging.room(kept.device)
