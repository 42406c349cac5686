"""Learn whether selecting pays: python jobs/pilot.py CONFIG.yaml --minutes 20 [key.path=value …]

The same as `s2l-ray pilot`. `--help` says what it reads, writes and prints.
"""

import sys
from pathlib import Path

# In place of this folder, whose select.py would hide the standard library's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from s2l_ray import cli

if __name__ == "__main__":
    cli.job("pilot")
