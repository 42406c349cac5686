"""A loopback hub that serves datasets and models as the Hugging Face hub does, with its limits."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

TOKEN = "hf_testing"  # what a request must carry
COMMIT = {"main": "a" * 40, "refs/convert/parquet": "c" * 40, "v1": "1" * 40}
BUSY_EVERY = 3  # of this many requests, the last is answered 429


class Hub:
    """repositories: files by path, by revision, by name. Use it in `with`."""

    def __init__(self, repositories):
        self.repositories = repositories  # name -> revision -> path -> bytes
        self.asked = Counter()  # requests by kind
        self.refused = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def files(self, name, revision):
        """The commit and files of a revision, or of a commit; nothing if there is none."""
        for branch, files in self.repositories.get(name, {}).items():
            if revision in (branch, COMMIT[branch]):
                return COMMIT[branch], files
        return None, {}

    def is_busy(self):
        with self.lock:
            self.asked["all"] += 1
            busy = self.asked["all"] % BUSY_EVERY == 0
            self.refused += busy
            return busy


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if hub.is_busy():
                return self.answer(429, b"too many requests", {"Retry-After": "0"})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            url = urlparse(self.path)
            pieces = [unquote(piece) for piece in url.path.strip("/").split("/")]
            if pieces[0] == "api":
                asked = parse_qs(url.query or body.decode())
                return self.api("/".join(pieces[2:4]), pieces[4:], asked)
            if pieces[0] != "datasets":  # a model's file
                pieces = ["models", *pieces]
            name, path = "/".join(pieces[1:3]), "/".join(pieces[5:])
            commit, files = hub.files(name, pieces[4])
            if path not in files:
                code = "EntryNotFound" if files else "RepoNotFound"
                return self.answer(404, b"", {"X-Error-Code": code})
            return self.content(files[path], commit)

        do_HEAD = do_POST = do_GET

        def api(self, name, what, asked):
            revision = what[1] if len(what) > 1 else "main"
            commit, files = hub.files(name, revision)
            if name not in hub.repositories:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if commit is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            hub.asked[what[0] if what else "info"] += 1
            if what and what[0] == "tree":
                folder = "/".join(what[2:])
                if asked.get("recursive", ["False"])[0].lower() == "true":
                    return self.json([_entry(path, data) for path, data in files.items()])
                return self.json(_tree(files, folder + "/" if folder else ""))
            if what and what[0] == "paths-info":
                return self.json([_entry(p, files[p]) for p in asked["paths"] if p in files])
            readme = files.get("README.json", b"{}")
            return self.json(
                {
                    "id": name,
                    "sha": commit,
                    "cardData": json.loads(readme),
                    "siblings": [
                        {"rfilename": path, "size": len(data)} for path, data in files.items()
                    ],
                }
            )

        def content(self, data, commit):
            hub.asked["content" if self.command == "GET" else "about"] += 1
            span = self.headers.get("Range", "")
            if not span.startswith("bytes="):
                about = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
                return self.answer(200, data, about)
            first, last = (int(place) for place in span[6:].split("-"))
            piece = data[first : last + 1]
            about = f"bytes {first}-{first + len(piece) - 1}/{len(data)}"
            return self.answer(206, piece, {"Content-Range": about})

        def json(self, value):
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def answer(self, status, data, headers=()):
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


def _tree(files, folder):
    """The entries of one folder."""
    below = [path.removeprefix(folder) for path in files if path.startswith(folder)]
    found = {}
    for path in below:
        first, _, rest = path.partition("/")
        whole = folder + first
        found[first] = (
            {"type": "directory", "path": whole, "oid": "0" * 40, "size": 0}
            if rest
            else _entry(whole, files[whole])
        )
    return list(found.values())


def _entry(path, data):
    return {"type": "file", "path": path, "oid": "0" * 40, "size": len(data)}
