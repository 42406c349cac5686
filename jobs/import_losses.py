"""Join losses computed elsewhere to a corpus: python jobs/import_losses.py CONFIG [key=value …]

The same as `s2l-ray import-losses`. `--help` says what it reads and writes.
"""

import sys
from pathlib import Path

# In place of this folder, whose select.py would hide the standard library's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from s2l_ray import cli

if __name__ == "__main__":
    cli.job("import-losses")
