"""Time to read a text in the viewer, from the request to the answer, with the demo model.

Run: python benchmarks/viewer.py STUDY [n_tokens]. STUDY is a study of the demo model with networks.
"""

import sys
import time

from llmbrain.pipeline import load_study_model
from llmbrain.viewer.explorer import Explorer

REPEATS = 5
WORDS = "The keeper of the old lighthouse counted twelve ships before midnight and wrote the number down. "


def main(study, n_tokens=200):
    """Print the seconds of opening the study, and of each reading."""
    start = time.perf_counter()
    explorer = Explorer(study, load=lambda: load_study_model(study)).start()
    explorer.thread.submit("wait", lambda job: None).result()
    _ = explorer.contents.yardstick
    print(f"ready after {time.perf_counter() - start:.1f} s")
    text = WORDS * -(-n_tokens // 17)
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        found = explorer.read(text).result()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{len(found['tokens'])} tokens: {wall:.2f} s, {cpu:.2f} s of processor time")
    explorer.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
