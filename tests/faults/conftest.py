"""The matrix and its attacks are scripts: doctests are not sought in them."""

collect_ignore = ["attacks.py", "hooks.py", "matrix.py", "processes.py", "room.py"]
