"""What the tests of downloads share."""

from lib.study.data.http import Client

BODY = bytes(range(256)) * 40


def quick(**options):
    return Client(**{"retries": 2, "backoff": 0.01, "timeout": 0.3, **options})


def leftovers(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())
