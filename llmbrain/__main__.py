"""``python -m llmbrain``, the same as the command ``llmbrain``."""

from .cli import main

if __name__ == "__main__":
    main()
