"""JSON in which every text survives."""

from hypothesis import given, settings
from hypothesis import strategies as st

from llmbrain.files import read_json, write_json

TEXT = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(["\ud800", "\udfff", "\x00"])


@given(text=TEXT, key=TEXT)
@settings(max_examples=150, deadline=None)
def test_every_text_survives_json(text, key, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "some.json"
    high_before_low = any("\ud800" <= a < "\udc00" <= b <= "\udfff" for t in (text, key) for a, b in zip(t, t[1:]))
    if not high_before_low:  # JSON reads such a pair as the one character that it stands for
        assert read_json(write_json(path, {key: [text]})) == {key: [text]}
    path.read_text(encoding="utf-8")
