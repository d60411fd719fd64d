"""A Hugging Face hub on this machine: what its HTTP interface says of repositories of models, their files and commits."""

import base64
import hashlib
import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.utils
from huggingface_hub import constants

from act_eval.hub_files import read_hub_file

TOKEN = "hf_of_the_tests"


class Repository:
    """The files of each commit, and the branches."""

    def __init__(self) -> None:
        self.commits, self.branches, self.is_private = {}, {}, False
        self.add({})

    def add(self, files, branch="main"):
        """Make a commit; its files replace those of the same names."""
        content = {**self.commits.get(self.branches.get(branch), {}), **files}
        commit = hashlib.sha1(repr((len(self.commits), sorted(content.items()))).encode()).hexdigest()
        self.commits[commit], self.branches[branch] = content, commit
        return commit

    def commit_of(self, revision):
        """The commit of a branch or of itself; None for no revision."""
        return self.branches.get(revision, revision if revision in self.commits else None)


class HubServer:
    """Runs while the `with` block is active.

    Attributes:
        repositories: by name; those that are asked for are made.
        requests: method and path of each request about a repository, as they came.
        broken: whether every request is answered with the status 503.
    """

    def __init__(self) -> None:
        self.repositories: defaultdict[str, Repository] = defaultdict(Repository)
        self.requests, self.broken = [], False

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.respond(self)

            def do_HEAD(self):
                hub.respond(self)

            def do_POST(self):
                hub.respond(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def respond(self, handler):
        """Answer one request."""
        length = int(handler.headers.get("content-length") or 0)
        body = handler.rfile.read(length)
        path = urlsplit(handler.path).path
        if path.startswith("/api/models/") or not path.startswith("/api/"):
            self.requests.append((handler.command, path))
        authorized = handler.headers.get("authorization") == f"Bearer {TOKEN}"
        status, headers, content = (503, {}, b"") if self.broken else self._answer(handler.command, path, body, authorized)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)

    def _answer(self, method, path, body, authorized):
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if method == "POST" and not authorized:
            return _error(403, "Forbidden")
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization'] or 'someone'}/{asked['name']}"
            self.repositories[name].is_private = asked.get("private") or asked.get("visibility") == "private"
            return _json({"url": f"{self.url}/{name}", "name": name})
        if parts[:2] == ["api", "validate-yaml"]:
            return _json({"errors": [], "warnings": []})
        if parts[0] == "api" and parts[1] != "models":
            return _error(404, "NotFound")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.repositories or (self.repositories[name].is_private and not authorized):
            return _error(401, "RepoNotFound")
        repository = self.repositories[name]
        action, revision = (parts[4:6] if parts[0] == "api" else parts[2:4]) or ("revision", "main")
        commit = repository.commit_of(revision)
        if commit is None:
            return _error(404, "RevisionNotFound")
        if action == "revision":
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            return _json({"id": name, "sha": commit, "siblings": siblings})
        if action == "preupload":
            modes = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return _json({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        if action == "commit":
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
            }
            made = repository.add(files, revision)
            return _json({"commitUrl": f"{self.url}/{name}/commit/{made}", "commitOid": made})
        content = repository.commits[commit].get("/".join(parts[4:]))
        if content is None:
            return _error(404, "EntryNotFound", {"x-repo-commit": commit})
        etag = hashlib.sha1(content).hexdigest()
        return 200, {"x-repo-commit": commit, "etag": f'"{etag}"', "accept-ranges": "bytes"}, content


def _json(content):
    return 200, {"content-type": "application/json"}, json.dumps(content).encode()


def _error(status, code, headers=None):
    return status, {"x-error-code": code, "x-error-message": code, **(headers or {})}, b""


def use_hub(monkeypatch, url: str | None, cache: Path) -> None:
    """Let huggingface_hub ask the hub at an address, or none, as its environment variables do in a new process."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", url is None)
    if url is not None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    reset = getattr(huggingface_hub.utils, "reset_sessions", None)  # before 1.0, sessions keep whether they are offline
    if reset is not None:
        reset()
    read_hub_file.cache_clear()
