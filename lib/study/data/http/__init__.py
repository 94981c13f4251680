"""Polite HTTP downloads: resumable, checked before a file gets its name, clear when they fail.

What well-kept libraries do is left to them: urllib3's `Retry` decides what is tried again and after
which pause, pooch (https://www.fatiando.org/pooch) compares checksums. What they lack is here, as a
downloader that pooch calls: continuing a partial file, noticing a transfer that stalls, and many
small files in parallel.
"""

from .archives import extract, fetch_archive, require_space
from .client import Client, DownloadError, InvalidContentError
from .many import Job, fetch_many

__all__ = [
    "Client",
    "DownloadError",
    "InvalidContentError",
    "Job",
    "extract",
    "fetch_archive",
    "fetch_many",
    "require_space",
]
