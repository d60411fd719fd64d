"""Small JSON files on the Hugging Face hub, by name: `hf://user/repo` or `hf://user/repo/file.json`, either with `@revision`.

A name is looked up once in a process, so that all of it reads the same content even where a branch moves meanwhile. Where the
hub cannot be reached, the copy in its cache is taken, with a line that says of which commit it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

from act_eval.errors import InputError

logger = logging.getLogger(__name__)

LARGEST_FILE = 4 * 2**20  # bytes; the profile of a search over 5,000 heads has half a million

_SCHEME = "hf://"
_PART = r"\w[\w.-]*"
_NAME = re.compile(
    rf"{_SCHEME}(?P<repository>{_PART}/{_PART})(/(?P<file>{_PART}(/{_PART})*))?(@(?P<revision>{_PART}(/{_PART})*))?", re.ASCII
)
_DEFAULT_REVISION = "main"
_SUFFIX = ".json"
_FILES_SHOWN = 5


class HubError(InputError):
    """A file that cannot be had from the hub, or a repository that cannot be written."""


@dataclass(frozen=True)
class HubName:
    """What the name of a file on the hub says.

    Attributes:
        repository: `user/repo`.
        file: its path in the repository; None for the only JSON file of the repository.
        revision: a branch, a tag or a commit.
    """

    repository: str
    file: str | None
    revision: str

    @classmethod
    def parse(cls, name: str) -> HubName:
        """Read a name. Raises HubError."""
        parts = _NAME.fullmatch(name)
        if parts is None:
            raise HubError(
                f"{name!r} is not the name of a file on the hub: write hf://user/repo or hf://user/repo/file.json, either with "
                "@revision."
            )
        if parts["file"] is not None and not parts["file"].endswith(_SUFFIX):
            raise HubError(f"{name} is no JSON file: name one that ends in {_SUFFIX}, or the repository alone.")
        return cls(parts["repository"], parts["file"], parts["revision"] or _DEFAULT_REVISION)

    @property
    def text(self) -> str:
        """Repository and revision, as error messages have them."""
        return self.repository if self.revision == _DEFAULT_REVISION else f"{self.repository} at {self.revision}"


@dataclass(frozen=True)
class HubFile:
    """A file as it was read from the hub.

    Attributes:
        repository, file: see `HubName`.
        commit: 40 hexadecimal digits.
        text: its content.
    """

    repository: str
    file: str
    commit: str
    text: str


def is_hub_name(name: object) -> bool:
    """Whether something is meant as the name of a file on the hub."""
    return isinstance(name, str) and name.startswith(_SCHEME)


def short_hub_name(name: str) -> str:
    """The last two parts of a name, without its revision: `user/repo`, or `repo/file.json`."""
    return "/".join(name.removeprefix(_SCHEME).partition("@")[0].split("/")[-2:])


@cache
def read_hub_file(name: str) -> HubFile:
    """Read a JSON file from the hub, or from the hub's cache where the hub cannot be reached.

    Raises:
        HubError: there is no such repository, revision or file, it may not be read, it is larger than `LARGEST_FILE`, it is no
            text, or it is not in the cache while the hub cannot be reached.
    """
    asked = HubName.parse(name)
    path = _download(asked)
    is_fresh = path is not None
    path = path or _cached(asked)
    commit, file = _place_in_cache(path)
    if not is_fresh and asked.revision != commit:
        logger.warning("The hub cannot be reached: %s is read from its cache, as of commit %s.", name, commit[:8])
    _check_size(name, path.stat().st_size)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HubError(f"{name} cannot be read as text ({error}): choose another file.") from error
    return HubFile(asked.repository, file, commit, text)


def json_files(files: Iterable[str]) -> list[str]:
    """Those files of a repository that may be meant by its name alone."""
    return sorted(file for file in files if file.endswith(_SUFFIX))


def refuse(error: Exception, repository: str) -> NoReturn:
    """Raise HubError for an answer of the hub that says no."""
    from huggingface_hub import errors

    if isinstance(error, errors.RepositoryNotFoundError):
        raise HubError(
            f"there is no repository {repository} on the hub that you may read: check its name, or log in with `hf auth login`."
        ) from error
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        raise HubError(
            f"the hub refuses access to {repository} ({status}): log in with `hf auth login`, with a token that has it."
        ) from error
    raise HubError(f"the hub answered {status or type(error).__name__} for {repository}: try again later.") from error


def connection_errors() -> tuple[type[Exception], ...]:
    """What is raised where the hub cannot be reached, in any release of huggingface_hub; some of it for other reasons too."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, HfHubHTTPError.__bases__[0]  # of requests, or of httpx, where it is the base of all


def is_of_the_connection(error: Exception) -> bool:
    """Whether one of `connection_errors` is about the connection, and not about a disk or a folder."""
    return not isinstance(error, OSError) or error.errno is None or isinstance(error, (ConnectionError, TimeoutError))


def is_of_the_server(error: Exception) -> bool:
    """Whether the hub answered that it cannot answer now."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return status == 429 or status >= 500


def _download(asked: HubName) -> Path | None:
    """Bring the cache up to date, and give the file's path in it; None where the hub cannot be reached."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    def files() -> list[str]:
        info = HfApi().model_info(asked.repository, revision=asked.revision)
        return [sibling.rfilename for sibling in info.siblings or ()]

    try:
        file = asked.file or _only_file(files(), asked)
        metadata = get_hf_file_metadata(hf_hub_url(asked.repository, file, revision=asked.revision))
        _check_size(f"{file} of {asked.text}", metadata.size or 0)
        return Path(hf_hub_download(asked.repository, file, revision=asked.revision))
    except HFValidationError as error:
        raise HubError(f"{asked.repository} is no name of a repository: check it.") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{asked.repository} has no revision {asked.revision}: check its name.") from error
    except LocalEntryNotFoundError:  # the connection broke between two requests
        return None
    except EntryNotFoundError as error:
        there: list[str] = []
        with suppress(HfHubHTTPError, *connection_errors()):
            there = files()
        raise HubError(f"{asked.text} has no file {asked.file}: {_choices(there)}") from error
    except HfHubHTTPError as error:
        if is_of_the_server(error):
            return None
        refuse(error, asked.repository)
    except connection_errors() as error:
        if not is_of_the_connection(error):
            raise
        return None


def _only_file(files: Iterable[str], asked: HubName) -> str:
    there = json_files(files)
    if len(there) != 1:
        problem = "no JSON file" if not there else f"{len(there)} JSON files"
        raise HubError(f"{asked.text} has {problem}, so that its name alone does not say which: {_choices(there)}")
    return there[0]


def _choices(files: Iterable[str]) -> str:
    there = json_files(files)
    if not there:
        return "name another one."
    more = f" and {len(there) - _FILES_SHOWN} more" if len(there) > _FILES_SHOWN else ""
    return f"choose among {', '.join(there[:_FILES_SHOWN])}{more}."


def _cached(asked: HubName) -> Path:
    """The path in the cache of what was downloaded before. Raises HubError where it is not there."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=asked.repository, repo_type="model"))
    reference = folder / "refs" / asked.revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else asked.revision
    snapshot = folder / "snapshots" / commit
    name = asked.file
    if name is None and snapshot.is_dir():
        name = _only_file((path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*")), asked)
    if name is None or not (snapshot / name).is_file():
        raise HubError(
            f"{asked.file or 'a JSON file'} of {asked.text} is not in the hub's cache, and the hub cannot be reached: go "
            "online once (without HF_HUB_OFFLINE), or give the path of a file."
        )
    return snapshot / name


def _place_in_cache(path: Path) -> tuple[str, str]:
    """Commit and name of a file of a snapshot in the hub's cache."""
    parts = path.parts
    at = len(parts) - 1 - parts[::-1].index("snapshots")
    return parts[at + 1], "/".join(parts[at + 2 :])


def _check_size(name: str, size: int) -> None:
    if size > LARGEST_FILE:
        raise HubError(
            f"{name} has {size:,} bytes, more than the {LARGEST_FILE:,} that a head profile may have: choose another file."
        )
