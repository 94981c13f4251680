"""A web server on 127.0.0.1 that misbehaves on request, for the tests of downloads.

It lives for one `with` block, answers at most `limit` requests, and its stalls end with the block.
"""

import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Loopback:
    """Maps paths to answers; a path with several uses them one after the other, the last for good.

    An answer is bytes (sent whole, with support of Range), or one of the tuples that the functions
    below make.
    """

    def __init__(self, routes, *, limit=400):
        self.routes = {path: list(a) if isinstance(a, list) else [a] for path, a in routes.items()}
        self.requests = []  # (path, headers), in order of arrival
        self.counts = defaultdict(int)
        self.limit = limit
        self.over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def log_message(self, *args):
                pass

            def do_GET(self):
                owner.answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *exc):
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, handler):
        path = handler.path
        with self._lock:
            self.requests.append((path, dict(handler.headers)))
            answers = self.routes.get(path, [status(404)])
            answer = answers[min(self.counts[path], len(answers) - 1)]
            self.counts[path] += 1
            if len(self.requests) > self.limit:
                answer = status(418)
        if isinstance(answer, bytes):
            self._whole(handler, answer)
            return
        kind, *rest = answer
        getattr(self, f"_{kind}")(handler, *rest)

    def _head(self, handler, code, length, headers=()):
        handler.send_response(code)
        handler.send_header("Content-Length", str(length))
        for name, value in dict(headers).items():
            handler.send_header(name, value)
        handler.end_headers()

    def _whole(self, handler, body):
        wanted = handler.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start = int(wanted[6:].split("-")[0])
            if start >= len(body):
                self._head(handler, 416, 0)
                return
            total = len(body)
            headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
            self._head(handler, 206, total - start, headers)
            handler.wfile.write(body[start:])
            return
        self._head(handler, 200, len(body))
        handler.wfile.write(body)

    def _status(self, handler, code, headers):
        self._head(handler, code, 0, headers)

    def _truncate(self, handler, body, size):
        self._head(handler, 200, len(body))
        handler.wfile.write(body[:size])
        handler.wfile.flush()
        handler.close_connection = True

    def _stall(self, handler, body, size):
        self._head(handler, 200, len(body))
        handler.wfile.write(body[:size])
        handler.wfile.flush()
        self.over.wait(10)
        handler.close_connection = True

    def _dribble(self, handler, body):
        self._head(handler, 200, len(body))
        try:
            for byte in body[:200]:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                if self.over.wait(0.02):
                    break
        except OSError:
            pass  # the client hung up, as it should
        handler.close_connection = True

    def _ignores_range(self, handler, body):
        self._head(handler, 200, len(body))
        handler.wfile.write(body)


def status(code, **headers):
    """An empty answer with this status; underscores in header names stand for hyphens."""
    return ("status", code, {name.replace("_", "-"): value for name, value in headers.items()})


def truncate(body, size):
    """Promise all of `body`, send `size` bytes, hang up."""
    return ("truncate", body, size)


def stall(body, size):
    """Promise all of `body`, send `size` bytes, then nothing."""
    return ("stall", body, size)


def dribble(body):
    """Send `body` at 50 bytes a second: no single read times out."""
    return ("dribble", body)


def ignores_range(body):
    """Send all of `body` whatever range was asked for, as some servers do."""
    return ("ignores_range", body)
