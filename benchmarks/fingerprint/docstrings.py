"""Write two texts to train small models on without a download: the docstrings of installed packages.

    python benchmarks/fingerprint/docstrings.py a.txt b.txt

The first holds those of packages for neural networks, the second those of all others; each has at most 12 million
characters.
"""

import argparse
import ast
from pathlib import Path

import torch

FIRST = {"torch", "transformers", "accelerate", "jax", "pytorch_lightning", "torchmetrics", "onnx"}
LEAST, MOST = 150, 12_000_000  # characters of a docstring that counts, and of a text


def docstrings(path):
    """Docstrings of a module, its classes and its functions."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return [text for text in found if text and len(text) > LEAST]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    options = parser.parse_args()
    root, texts = Path(torch.__file__).parents[1], ([], [])
    for path in sorted(root.rglob("*.py")):
        texts[path.relative_to(root).parts[0] not in FIRST].extend(docstrings(path))
    for path, found in zip((options.first, options.second), texts):
        path.write_text("\n\n".join(dict.fromkeys(found))[:MOST], encoding="utf-8")


if __name__ == "__main__":
    main()
