"""Write the demo's corpus: python jobs/demo_corpus.py PATH.jsonl"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # see select.py

from s2l_ray.corpus import demo

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python jobs/demo_corpus.py PATH.jsonl")
    print(demo.write(sys.argv[1]))
