"""Workers, and the precision of products."""

import pytest
import torch

from llmbrain.networks.engines.parallel import block_map, workers
from llmbrain.stats.precision import full_precision


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="needs the switches of torch 2.9")
def test_either_switch_of_precision_is_put_back_as_it_was():
    def state():
        return torch.backends.cuda.matmul.fp32_precision

    try:
        for value in ("tf32", "ieee", "none"):  # "tf32" makes torch refuse to name the older setting
            torch.backends.cuda.matmul.fp32_precision = value
            with full_precision():
                assert torch.get_float32_matmul_precision() == "highest" and state() == "ieee"
            assert state() == value
        torch.set_float32_matmul_precision("medium")
        with full_precision(), full_precision():
            assert state() == "ieee"
        assert torch.get_float32_matmul_precision() == "medium" and state() == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "none"


def test_block_map_keeps_order_and_passes_errors():
    with workers(n=3):
        assert list(block_map(lambda i: i * i, range(50))) == [i * i for i in range(50)]
        with pytest.raises(ZeroDivisionError):
            list(block_map(lambda i: 1 / (i - 5), range(10)))
    before = torch.get_num_threads()
    with workers(n=2):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
