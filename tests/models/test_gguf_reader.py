"""The quick reader of GGUF files gives what the gguf package gives."""

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from llmbrain.models import gguf_reader  # noqa: E402
from llmbrain.models.gguf_reader import quick_reading  # noqa: E402


@pytest.fixture
def file(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    rng = np.random.default_rng(0)
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "ä ▁", "long " * 99] * 50)
    writer.add_array("tokenizer.ggml.scores", rng.random(200).astype(float).tolist())
    writer.add_array("tokenizer.ggml.token_type", list(range(200)))
    writer.add_array("some.flags", [True, False, True])
    writer.add_string("general.name", "a name")
    writer.add_uint32("llama.block_count", 3)
    for i, kind in enumerate(("Q8_0", "Q4_1", "F32", "Q5_0", "Q8_0", "F16", "BF16")):
        kind = gguf.GGMLQuantizationType[kind]
        values = rng.standard_normal((8, 64)).astype(np.float32)
        writer.add_tensor(f"t{i}", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "x.gguf"


def test_fields_are_those_of_the_package(file):
    plain = gguf.GGUFReader(file)
    with quick_reading():
        quick = gguf.GGUFReader(file)
        assert gguf.GGUFReader(file) is quick  # read once
    assert gguf.GGUFReader is type(plain)
    assert list(quick.fields) == list(plain.fields) and quick.data_offset == plain.data_offset
    for name, field in plain.fields.items():
        ours = quick.fields[name]
        assert (ours.offset, ours.types, ours.data) == (field.offset, field.types, field.data)
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(ours.parts, field.parts, strict=True))
        assert ours.contents() == field.contents()


@pytest.mark.parametrize(("order", "piece"), [(range(7), 1 << 18), ([5, 0, 0, 6, 3, 2, 1, 4], 64)])
def test_tensors_are_those_of_the_package_in_any_order(file, order, piece, monkeypatch):
    monkeypatch.setattr(gguf_reader, "PIECE", piece)
    monkeypatch.setattr(gguf_reader, "TASK", 2 * piece)
    plain = gguf.GGUFReader(file)
    expected = [gguf.dequantize(t.data, t.tensor_type) for t in plain.tensors]
    with quick_reading():
        tensors = gguf.GGUFReader(file).tensors
        for i in order:
            np.testing.assert_array_equal(gguf.dequantize(tensors[i].data, tensors[i].tensor_type), expected[i])
        strange = plain.tensors[1]  # of another reader
        np.testing.assert_array_equal(gguf.dequantize(strange.data, strange.tensor_type), expected[1])


def test_values_of_fields_are_those_of_transformers(file):
    """Also the names of the tensors, which are found once."""
    from transformers import modeling_gguf_pytorch_utils as module

    plain, fields = module._gguf_parse_value, gguf.GGUFReader(file).fields.values()
    pairs = [(field.parts[i], field.types) for field in fields for i in field.data]
    expected = [plain(*pair) for pair in pairs]
    with quick_reading():
        found = [module._gguf_parse_value(*pair) for pair in pairs]
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    assert module._gguf_parse_value is plain
    assert [(type(x), x) for x in found] == [(type(x), x) for x in expected]


def test_the_package_is_as_before_after_an_error(file):
    before = gguf.GGUFReader, gguf.dequantize
    file.write_bytes(b"\x00" * 64)
    with pytest.raises(ValueError, match="magic"), quick_reading():
        gguf.GGUFReader(file)
    assert (gguf.GGUFReader, gguf.dequantize) == before


def test_metadata_that_end_too_early_are_an_error(file):
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises((ValueError, IndexError)), quick_reading():
        gguf.GGUFReader(file)
