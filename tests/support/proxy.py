"""A proxy before an S3 that makes trouble: errors, cut connections, delays, truncated bodies."""

import http.client
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = ("500", "503", "cut", "delay", "truncate")


class Proxy:
    """`faults`: kind -> share of the requests that meet it; 501 is for conditional PUTs. lost: of
    the first request that completes an upload in pieces the answer is lost; sent again, it is
    refused with this code, as AWS does and Ceph does not."""

    def __init__(self, upstream, faults=(), seed=0):
        self.host, self.faults, self.random = upstream.removeprefix("http://"), dict(faults), None
        self.random = random.Random(seed)
        self.counts = Counter()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_all(self):
                proxy.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_all

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        kind = self._pick(request)
        self.counts[kind or "whole"] += 1
        if kind in ("500", "503", "501"):
            return self._refuse(request, int(kind))
        if kind == "lost" and self.counts[kind] == 2:
            return self._refuse(request, self.faults[kind])
        if kind == "cut":
            request.close_connection = True
            return request.connection.close()
        if kind == "delay":
            time.sleep(0.5)
        upstream = http.client.HTTPConnection(self.host, timeout=60)
        try:
            upstream.request(request.command, request.path, body, dict(request.headers))
            response = upstream.getresponse()
            data = response.read()
        except OSError:
            request.close_connection = True
            return request.connection.close()
        finally:
            upstream.close()
        if kind == "lost":
            request.close_connection = True
            return request.connection.close()
        request.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                request.send_header(name, value)
        length = response.getheader("Content-Length") if request.command == "HEAD" else len(data)
        request.send_header("Content-Length", str(length or 0))
        request.end_headers()
        if kind == "truncate" and len(data) > 1:
            request.wfile.write(data[: len(data) // 2])
            request.close_connection = True
            return request.connection.close()
        return request.wfile.write(data)

    def _pick(self, request):
        if "501" in self.faults and request.headers.get("If-None-Match"):
            return "501"
        completes = request.command == "POST" and "uploadId=" in request.path
        if "lost" in self.faults and completes and self.counts["lost"] < 2:
            return "lost"
        draw = self.random.random()
        for kind, share in self.faults.items():
            if kind in ("501", "lost"):
                continue
            if draw < share:
                return kind
            draw -= share
        return None

    def _refuse(self, request, status):
        code = {
            500: "InternalError", 503: "SlowDown", 501: "NotImplemented",
            412: "PreconditionFailed", 404: "NoSuchUpload",
        }[status]  # fmt: skip
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message/></Error>".encode()
        request.send_response_only(status)
        request.send_header("Content-Type", "application/xml")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        return request.wfile.write(b"" if request.command == "HEAD" else body)
