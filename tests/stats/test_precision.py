"""Exact products of float32 matrices, whichever switch was used to turn them off."""

import pytest
import torch

from llmbrain.stats.precision import exact_products, full_precision

newer = torch.backends.cuda.matmul


def test_half_precision_is_not_exact():
    assert exact_products(torch.float32)
    assert exact_products(torch.float64)
    assert not exact_products(torch.bfloat16)


def test_tf32_is_not_exact(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert not exact_products(torch.float32)


@pytest.mark.skipif(not hasattr(newer, "fp32_precision"), reason="this torch has only the older switch")
def test_the_newer_switch_of_torch_is_understood():
    before = newer.fp32_precision
    try:
        newer.fp32_precision = "tf32"
        assert not exact_products(torch.float32)
        with full_precision():
            assert exact_products(torch.float32)
        assert newer.fp32_precision == "tf32"
        newer.fp32_precision = "ieee"
        assert exact_products(torch.float32)
    finally:
        newer.fp32_precision = before


def test_the_older_switch_is_restored():
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
