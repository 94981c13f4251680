"""Arrays that came out of a model, kept in a `.npz` with what they were computed from."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from .. import paths
from ..files import write_atomically
from ..models.photos import NAMES, photos_dir

__all__ = ["published_weights", "stored_arrays"]


def published_weights(model: str) -> str | None:
    """What tells a model's weights from others of the same name; None where nothing is published.

    A random-weight shape has the embedded model's tokenizer.
    """
    if model in NAMES:
        folder = photos_dir()
    elif model == "embedded" or model.startswith("shape:"):
        folder = paths.embedded_dir()
    else:
        folder = Path(model)
    sums = folder / "SHA256SUMS"
    return hashlib.sha256(sums.read_bytes()).hexdigest()[:16] if sums.is_file() else None


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
    entries = {"parameters": np.asarray(asked), **arrays}
    write_atomically(path, lambda file: _save(file, entries), durable=False)
    return arrays


def _save(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """What `np.savez_compressed` writes, in a fifth fewer bytes; `np.load` reads it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as packed:
        for name, array in arrays.items():
            about = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: bytes depend on arrays alone
            about.compress_type = zipfile.ZIP_LZMA
            with packed.open(about, "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
