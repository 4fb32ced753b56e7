"""Numbers and tables as readers see them."""

import numpy as np
import pandas as pd

from llmbrain.reporting.page import network_number, page_of
from llmbrain.reporting.tables import html_table, number


def test_numbers_are_written_for_readers():
    assert number(1234567) == "1\u202f234\u202f567" and number(-0.25) == "−0.25" and number(None) == "–"
    assert number(float("nan")) == "–" and number(0.0004, "p") == "< 0.001" and number(0.04761, "q") == "0.048"
    assert number(0.0496, "q_pooled") == "0.0496" and number(0.0501, "q") == "0.050"
    assert number(1.0, "coverage") == "100\u202f%" and number(0.996, "share") == "100\u202f%"
    assert number(0.0123, "share") == "1.2\u202f%" and number(True) == "yes" and number("x<y") == "x<y"


def test_tables_escape_link_and_sort_by_value():
    frame = pd.DataFrame({"network": ["network-03", "other"], "p": [0.0001, np.nan], "note": ["<b>", "x" * 40]})
    html = html_table(frame, "A & B", link=("network", page_of))
    assert '<a href="#network-03">' in html and ">other<" in html and "&lt;b&gt;" in html and "A &amp; B" in html
    assert 'data-v="0.0001"' in html and html.count("data-v") == 1 and "class=long" in html
    assert network_number("network-12") == 12 and network_number(7) == 7 and network_number("code") is None
