"""Short texts of lesion studies: those that are tested, and those of the reference."""

from llmbrain.text import Corpus, Document

TEXTS = Corpus(
    [Document(f"some text about {i} cats and the dogs they met", f"d{i}", "ab"[i % 2]) for i in range(6)], "held"
)
REFERENCE = ["another text that is here for reference only, and nothing else", "and one more text"]
