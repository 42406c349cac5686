"""Environments with packages that are not among the pinned ones."""

import subprocess
import sys
import sysconfig
from pathlib import Path


def environment(folder, *packages):
    """A Python with these packages before ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, text=True, capture_output=True,
    )  # fmt: skip
    site = Path(own.stdout.strip())
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", *packages],
        check=True, timeout=300,
    )  # fmt: skip
    return python, site
