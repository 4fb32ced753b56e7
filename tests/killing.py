"""Processes that end without a trace at a chosen step."""

import os


def end_at_step(n):
    """Let this process end before its n-th rename or deletion."""
    left = [n]

    def counted(function):
        def step(*args, **kwargs):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return function(*args, **kwargs)

        return step

    os.replace, os.unlink = counted(os.replace), counted(os.unlink)
