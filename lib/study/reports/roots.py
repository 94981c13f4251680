"""Where committed notebooks are checked."""

import shutil
from pathlib import Path

from .. import paths

__all__ = ["reference_root"]


def reference_root(folder: Path) -> Path:
    """A root (`ENTROPY_PRUNE_ROOT`) in which the committed notebooks must give their outputs.

    It links data and notebooks of the checkout; what the notebooks draw there touches nothing else.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("data", "notebooks"):
        (folder / name).symlink_to(paths.ROOT / name)
    return folder
