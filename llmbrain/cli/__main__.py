"""``python -m llmbrain.cli``, the same as ``llmbrain``."""

from . import main

main()
