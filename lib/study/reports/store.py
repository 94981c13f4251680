"""Arrays that came out of a model, kept in a `.npz` with what they were computed from."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["stored_arrays"]


def stored_arrays(
    path: str | Path, parameters: Mapping[str, Any], function: Callable[[], Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """Arrays of a `.npz`, computed when it is missing or was made with other parameters.

    `parameters` is plain JSON. The file is written atomically, and its bytes depend on the
    parameters and the arrays alone.

    Raises `OSError` for a damaged file, naming it.
    """
    path, asked = Path(path), json.dumps(parameters, sort_keys=True)
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["parameters"]) == asked:
                    return {name: file[name] for name in file.files if name != "parameters"}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise OSError(f"{path} is damaged ({error}): delete it to compute it again") from error
    arrays = {name: np.asarray(value) for name, value in function().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, parameters=np.asarray(asked), **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return arrays
