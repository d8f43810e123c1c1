"""A Hub of our own on the loopback interface: the part of the Hub's HTTP protocol that a push and a pull speak.

Notable: the real `huggingface_hub` client talks to it (`HF_ENDPOINT`, with `HF_HUB_DISABLE_XET=1` so that large files
go by LFS), and it can be told to fail as a network does, by cutting connections in the middle of an upload.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "right" * 7
USER = "ada"


class HubServer(ThreadingHTTPServer):
    """Repositories in memory, each a list of commits.

    Attributes:
        repositories: Name → commit → path → content.
        branches: Name → branch → commit.
        private: Names of private repositories.
        large: Content of LFS files by their SHA-256.
        cuts: How many uploads of large files will be cut in the middle; -1 for all.
        requests: Method and path of every request so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.cuts = 0
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        """Path → content of the last commit."""
        return self.repositories[repo][self.branches[repo][branch]]

    def commit(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        """Add a commit with these files in place of the same ones before."""
        commits = self.repositories[repo]
        files = commits[self.branches[repo][branch]] | files if branch in self.branches[repo] else files
        name = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[name] = files
        self.branches[repo][branch] = name
        return name

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that we cut are no news."""


class Handler(BaseHTTPRequestHandler):
    """Each answer as the Hub gives it, as far as the client looks at it."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test output clean."""

    def answer(self, body: Any = b"", status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", str(len(content))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        self.answer({"error": message}, status, X_Error_Code=code, X_Error_Message=message, **headers)

    def body(self) -> Any:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def knows_the_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if self.command == "PUT":
            self.upload(path.removeprefix("/lfs/"))
            return
        content = self.body()
        if self.command == "POST":
            self.post(path, content)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+)|/tree/([^/]+))?", path):
            self.describe(match[1], match[2] or match[3] or "main", is_tree=match[3] is not None)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(match[1], match[2], match[3])
        else:
            self.refuse(404, "EntryNotFound", f"nothing at {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    # ---- a push ----

    def post(self, path: str, content: bytes) -> None:
        if not self.knows_the_token:
            self.refuse(401, "", "Invalid username or password.")
            return
        if path == "/api/repos/create":
            self.create(json.loads(content))
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path):
            repo, verb, branch = match.groups()
            if repo not in self.server.repositories:
                self.refuse(404, "RepoNotFound", "Repository not found")
            elif verb != "branch" and branch not in self.server.branches[repo]:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {branch}")
            else:
                {"branch": self.branch, "preupload": self.preupload, "commit": self.commit}[verb](repo, branch, content)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self.batch(json.loads(content))
        elif path.startswith("/verify/"):
            asked = json.loads(content)
            same = len(self.server.large.get(asked["oid"], b"")) == asked["size"]
            self.answer({}, 200 if same else 422)
        else:
            self.refuse(404, "NotFound", f"nothing at {path}")

    def create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        is_new = repo not in self.server.repositories
        if is_new:
            self.server.repositories[repo], self.server.branches[repo] = {}, {}
            self.server.commit(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
            if asked.get("visibility") == "private":
                self.server.private.add(repo)
        self.answer({"url": f"{self.server.url}/{repo}"}, 200 if is_new else 409)

    def branch(self, repo: str, name: str, content: bytes) -> None:
        branches = self.server.branches[repo]
        is_new = name not in branches
        branches.setdefault(name, branches["main"])
        self.answer({}, 200 if is_new else 409)

    def preupload(self, repo: str, branch: str, content: bytes) -> None:
        modes = {True: "lfs", False: "regular"}
        files = [
            {"path": file["path"], "uploadMode": modes[file["path"].endswith(".safetensors")], "shouldIgnore": False}
            for file in json.loads(content)["files"]
        ]
        self.answer({"files": files})

    def batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for item in asked["objects"]:
            url = self.server.url
            actions = {
                "upload": {"href": f"{url}/lfs/{item['oid']}"},
                "verify": {"href": f"{url}/verify/{item['oid']}"},
            }
            known = item["oid"] in self.server.large
            objects.append({"oid": item["oid"], "size": item["size"]} | ({} if known else {"actions": actions}))
        self.answer({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if self.server.cuts:
            self.server.cuts -= 1
            self.rfile.read(int(self.headers.get("Content-Length", 2000)) // 2)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        content = self.body()
        if hashlib.sha256(content).hexdigest() == oid:
            self.server.large[oid] = content
        self.answer()

    def commit(self, repo: str, branch: str, content: bytes) -> None:
        files = {}
        for line in content.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        name = self.server.commit(repo, branch, files)
        self.answer({"commitUrl": f"{self.server.url}/{repo}/commit/{name}", "commitOid": name})

    # ---- a pull ----

    def find(self, repo: str, revision: str) -> str | None:
        """The commit of a revision; None, and an answer, where there is none that the caller may see."""
        if repo not in self.server.repositories or (repo in self.server.private and not self.knows_the_token):
            self.refuse(401, "RepoNotFound", "Repository not found")
            return None
        commit = self.server.branches[repo].get(revision, revision)
        if commit not in self.server.repositories[repo]:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit

    def describe(self, repo: str, revision: str, is_tree: bool) -> None:
        if (commit := self.find(repo, revision)) is None:
            return
        files = self.server.repositories[repo][commit]
        if is_tree:
            sums = {path: hashlib.sha1(content).hexdigest() for path, content in files.items()}
            self.answer([{"type": "file", "path": path, "size": len(files[path]), "oid": sums[path]} for path in files])
            return
        siblings = [{"rfilename": path} for path in files]
        self.answer({"_id": repo, "id": repo, "sha": commit, "private": repo in self.server.private, "tags": [],
                     "siblings": siblings})  # fmt: skip

    def resolve(self, repo: str, revision: str, path: str) -> None:
        if (commit := self.find(repo, revision)) is None:
            return
        content = self.server.repositories[repo][commit].get(path)
        if content is None:
            self.refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit)
            return
        self.answer(content, X_Repo_Commit=commit, ETag=f'"{hashlib.sha256(content).hexdigest()}"')


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A server in a thread of its own, until the end of the block."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
