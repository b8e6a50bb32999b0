"""A training's temporary files, its libraries' too, lie in its job folder and are gone when it ends.

Libraries make folders in the system's temporary one, some when they are imported, and take them away as the process
ends. One that is killed leaves them there for good; in the job folder the next attempt finds and deletes them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

SCRATCH = "scratch"
"""The folder in the job folder; every process of a training has one of its own in it."""


def scratch_folder(job_folder: Path) -> Path:
    """The folder of this process."""
    return job_folder / SCRATCH / f"rank-{os.environ.get('RANK', '0')}"


def use_scratch(job_folder: Path) -> None:
    """Make the folder of this process, empty, and have it used for temporary files from now on.

    Call it before the libraries are imported that make some.

    Args:
        job_folder: The job.
    """
    folder = scratch_folder(job_folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def discard_scratch(job_folder: Path) -> None:
    """Delete the folder of this process; without a number it is the only one, or the one that started the others."""
    shutil.rmtree(scratch_folder(job_folder) if "RANK" in os.environ else job_folder / SCRATCH, ignore_errors=True)
