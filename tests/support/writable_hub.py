"""A loopback hub that takes datasets as the Hugging Face hub does: enough of its API for the client
of huggingface_hub to create a repository and to commit to it, and to read it back."""

import base64
import hashlib
import json
import re
from urllib.parse import urlparse

from support.hub import COMMIT, TOKEN, Hub, _handler

OWNER = "owner"  # whose repositories TOKEN may write
CREATED = re.compile(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/main")


class WritableHub(Hub):
    """private: by name. log: (method, path) of all requests; sent: bodies."""

    def __init__(self, repositories=None, private=()):
        super().__init__(repositories or {})
        self.private = {name: name in private for name in self.repositories}
        self.log, self.sent, self.uploads, self.modes = [], [], {}, "lfs"
        self.server.RequestHandlerClass = _writing(self)
        self.server.socket.listen(64)  # the client uploads by several threads

    def is_busy(self):
        return False

    def main(self, name):
        return self.repositories.setdefault(name, {"main": {}})["main"]


def _writing(hub):
    class Handler(_handler(hub)):
        def do_GET(self):
            hub.log.append((self.command, self.path))
            super().do_GET()

        do_HEAD = do_GET

        def json(self, value):
            if isinstance(value, dict) and "siblings" in value:
                value |= {"private": hub.private[value["id"]], "cardData": {}}
            super().json(value)

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_PUT(self):  # a file, to the address that the batch has given
            data, name = self.body(), urlparse(self.path).path.rpartition("/")[2]
            assert hashlib.sha256(data).hexdigest() == name
            hub.uploads[name] = data
            self.answer(200, b"")

        def do_POST(self):
            path = urlparse(self.path).path
            if path.endswith("/paths-info/main") or "/paths-info/" in path:
                hub.log.append((self.command, self.path))
                return super().do_GET()
            hub.log.append((self.command, self.path))
            body = self.body()
            hub.sent.append(body)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, b'{"error": "Invalid credentials"}')
            if path == "/api/validate-yaml":
                return self.json({"errors": [], "warnings": []})
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if path.endswith(".git/info/lfs/objects/batch"):
                return self.batch(json.loads(body))
            match = CREATED.fullmatch(path)
            if match is None or match[1] not in hub.repositories:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if match[2] == "preupload":
                files = json.loads(body)["files"]
                modes = [
                    {"path": file["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular"}
                    for file in files
                ]  # fmt: skip
                return self.json({"files": modes})
            return self.commit(match[1], body)

        def create(self, asked):
            owner = asked.get("organization") or OWNER
            if owner == "nobody":
                return self.answer(404, b'{"error": "no such organization"}')
            if owner != OWNER:
                return self.answer(403, b'{"error": "You have no rights to create under it"}')
            name = f"{owner}/{asked['name']}"
            if name in hub.repositories:
                return self.answer(409, b'{"error": "You already created this dataset repo"}')
            assert asked["type"] == "dataset"
            hub.main(name)
            private = asked.get("private", asked.get("visibility") == "private")
            hub.private[name] = private
            return self.json({"url": f"{hub.endpoint}/datasets/{name}"})

        def batch(self, asked):
            objects = [
                {"oid": each["oid"], "size": each["size"],
                 "actions": {"upload": {"href": f"{hub.endpoint}/upload/{each['oid']}"}}}
                for each in asked["objects"]
            ]  # fmt: skip
            self.json({"transfer": "basic", "objects": objects})

        def commit(self, name, body):
            files = hub.main(name)
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = hub.uploads[value["oid"]]
                elif entry["key"] == "deletedFile":
                    del files[value["path"]]
            url = f"{hub.endpoint}/datasets/{name}/commit/{COMMIT['main']}"
            self.json({"success": True, "commitOid": COMMIT["main"], "commitUrl": url})

    return Handler
