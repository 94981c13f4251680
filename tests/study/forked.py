"""What a process says of itself; nothing is imported that another process would not have."""

import json
import multiprocessing
import sys
import warnings
from pathlib import Path


def say(file):
    """Write into `file` what whoever started this process may have left in it."""
    said = {
        "filters": sorted(map(str, warnings.filters)),
        "options": sys.warnoptions,
        "flags": str(sys.flags),
        "path": sys.path,
        "method": multiprocessing.get_start_method(allow_none=True),
        "modules": sorted(sys.modules),
    }
    Path(file).write_text(json.dumps(said))
