"""Print how far a run is: python jobs/status.py RUN_DIR

The same as `s2l-ray status`. `--help` says what it reads and prints.
"""

import sys
from pathlib import Path

# In place of this folder, whose select.py would hide the standard library's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from s2l_ray import cli

if __name__ == "__main__":
    cli.job("status")
