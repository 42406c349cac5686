"""Train the proxy again on all files: python jobs/refit.py CONFIG.yaml [key.path=value …]

The same as `s2l-ray refit`. `--help` says what it reads and writes.
"""

import sys
from pathlib import Path

# In place of this folder, whose select.py would hide the standard library's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from s2l_ray import cli

if __name__ == "__main__":
    cli.job("refit")
