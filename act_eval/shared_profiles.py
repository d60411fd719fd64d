"""Head profiles on the Hugging Face hub: what their files are called, the card beside them, and how both get there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act_eval.demo import DEMO_MODEL_NAME
from act_eval.errors import InputError
from act_eval.hub_files import (
    HubError,
    HubName,
    connection_errors,
    is_of_the_connection,
    is_of_the_server,
    json_files,
    refuse,
)
from act_eval.profiles import HeadProfile

CARD_FILE = "README.md"

_LIBRARY = "act-eval"
_LIBRARY_LINE = f"library_name: {_LIBRARY}"  # of the card's metadata, by which a card is known as one of these
_TASKS_NAMED = 3
_ON_THE_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_OF_THIS_MACHINE = re.compile(r"(file://)?([/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\])")
_OF_THE_PROMPTS = (
    "limit",
    "num_fewshot",
    "samples",
    "apply_chat_template",
    "fewshot_as_multiturn",
    "system_instruction",
    "metadata",
    "seed",
)


@dataclass(frozen=True)
class PushedProfile:
    """Where a profile is now.

    Attributes:
        name: what `act_profile` takes.
        url: of the commit that brought it.
    """

    name: str
    url: str


def push_profile(profile: HeadProfile, repository: str, file: str | None = None, private: bool = False) -> PushedProfile:
    """Write a profile and its card to a repository of the hub in one commit, and nothing else.

    Args:
        profile: the heads; all that its file says goes with them.
        repository: `user/repo`; made when missing. It holds one profile, so that its card and its name say which.
        file: the profile's name there; by default `file_name`.
        private: whether a repository that is made here is private.

    Raises:
        InputError: the profile names no head, or a path of this machine.
        HubError: the repository is somebody else's or holds other files that are in the way, there is no token, or the hub says
            no or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if not profile.size:
        raise InputError("the head profile names no head, so that there is nothing to share: choose another one.")
    _check_paths(profile)
    file = file or file_name(profile)
    asked = HubName.parse(f"hf://{repository}/{file}")
    if asked.repository != repository or asked.file != file:
        raise HubError(f"{repository!r} is no name of a repository: write user/repo.")
    if get_token() is None:
        raise HubError(f"writing to {repository} needs a token of the hub: log in with `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    try:
        try:
            info = api.model_info(repository)
        except RepositoryNotFoundError:
            api.create_repo(repository, private=private)
            info = api.model_info(repository)
        there = [sibling.rfilename for sibling in info.siblings or ()]
        _check_room(there, repository, file)
        if CARD_FILE in there and _LIBRARY_LINE not in _text(api.hf_hub_download(repository, CARD_FILE)):
            raise HubError(f"{repository} has a {CARD_FILE} that is no card of a head profile: choose another repository.")
        commit = api.create_commit(
            repository,
            operations=[
                CommitOperationAdd(file, profile.to_json().encode()),
                CommitOperationAdd(CARD_FILE, card(profile, repository).encode()),
            ],
            commit_message=f"{profile.size} heads of {profile.model or 'a model'}",
            parent_commit=info.sha,
        )
    except HFValidationError as error:
        raise HubError(f"{repository!r} is no name of a repository: write user/repo.") from error
    except HfHubHTTPError as error:
        if is_of_the_server(error):
            raise HubError(f"the hub cannot answer for {repository} now: try again later.") from error
        refuse(error, repository)
    except connection_errors() as error:
        if not is_of_the_connection(error):
            raise
        raise HubError(
            f"the hub cannot be reached, so that nothing was written to {repository}: go online (without HF_HUB_OFFLINE)."
        ) from error
    return PushedProfile(f"hf://{repository}", str(commit.commit_url))


def file_name(profile: HeadProfile) -> str:
    """What a profile's file says it is: the model, the tasks that the heads were found on, and how many they are."""
    tasks = list(_mapping(profile.provenance.get("tasks")))
    if len(tasks) > _TASKS_NAMED:
        tasks = [tasks[0], f"and-{len(tasks) - 1}-more"]
    parts = [(profile.model or "any-model").rpartition("/")[2], "-".join(tasks), f"{profile.size}-heads"]
    plain = (re.sub(r"[^A-Za-z0-9_.-]+", "-", part).strip("-.") for part in parts)
    return ".".join(filter(None, plain)) + ".json"


def card(profile: HeadProfile, repository: str) -> str:
    """Write the card of a profile: what it is for, what it gains as far as its file says, and how it was found."""
    metadata = ["---", _LIBRARY_LINE]
    if profile.model and _ON_THE_HUB.fullmatch(profile.model):
        metadata.append(f"base_model: {json.dumps(profile.model)}")
    metadata += ["tags:", "- act-eval", "- head-profile", "- attention-sinks", "---"]
    heads = f"{profile.size} heads" if profile.size > 1 else "1 head"
    model = _in_a_cell(profile.model or "any model of this shape")
    rows = [
        ("model", model),
        ("heads", _heads_text(profile)),
        ("settings", _in_a_cell(_settings_text(profile.settings))),
        ("found on", _in_a_cell(_tasks_text(profile.provenance))),
        ("gain", _gain_text(profile.provenance)),
        ("source", _in_a_cell(str(profile.provenance.get("source", "not recorded")))),
        ("versions", _in_a_cell(_values_text(_mapping(profile.provenance.get("versions"))))),
        ("hash of the heads", f"`{profile.content_hash}`"),
    ]
    use = [*_pretrained(profile), f"act_profile=hf://{repository}", *_model_arguments(profile.settings)]
    lines = [
        *metadata,
        "",
        f"# {heads} of {model} to calibrate",
        "",
        "A head profile of [ACT](https://arxiv.org/abs/2406.15765), the Attention Calibration Technique: attention sinks in",
        "the middle of the prompt are turned down in these heads while the model runs. Nothing is trained.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "A gain here is that of the set of heads that did best of those tried, or nearly so: expect less on other documents,",
        "and compare with the plain model on your own tasks:",
        "",
        "```sh",
        "pip install act-eval",
        f"act-eval compare --tasks YOUR_TASKS --model-args {shlex.quote(','.join(use))} --output results",
        "```",
    ]
    command = search_command(profile)
    if command is not None:
        lines += ["", "Found with:", "", "```sh", command, "```"]
    return "\n".join(lines) + "\n"


def search_command(profile: HeadProfile) -> str | None:
    """The command of a search that finds these heads; None where the profile is of no search, or was asked for in a file."""
    found = profile.provenance
    tasks = _mapping(found.get("tasks"))
    if found.get("source") != "act-eval search" or not tasks or isinstance(found.get("apply_chat_template"), str):
        return None
    options: dict[str, Any] = {
        "tasks": ",".join(map(str, tasks)),
        "layers": ",".join(map(str, found.get("layers_searched", ()))),
        "mode": found.get("mode"),
        "budget": found.get("budget"),
        "objective": found.get("objective"),
    }
    selection = str(found.get("selection", ""))
    options["selection"], options["k"] = ("top-k", selection[4:]) if selection.startswith("top-") else (selection, None)
    options |= {name: found.get(name) for name in _OF_THE_PROMPTS}
    arguments = [f"{name}={value}" for name, value in _mapping(found.get("model_args")).items()]
    options["model_args"] = ",".join([*_pretrained(profile), *arguments, *_model_arguments(profile.settings)])
    return " ".join(["act-eval search", *_written(options), "--output heads"])


def _written(options: Mapping[str, Any]) -> Iterator[str]:
    """Options as they stand on a command line; those without a value are left out."""
    for name, value in options.items():
        option = name.replace("_", "-")
        if value is True:
            yield f"--{option}"
        elif value is False and name == "fewshot_as_multiturn":
            yield f"--no-{option}"
        elif value not in (None, False, ""):
            text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
            yield f"--{option} {shlex.quote(text)}"


def _pretrained(profile: HeadProfile) -> list[str]:
    """The model argument that names a profile's model; none for the embedded one, which act-hf loads without it."""
    return [] if profile.model in (None, DEMO_MODEL_NAME) else [f"pretrained={profile.model}"]


def _model_arguments(settings: Mapping[str, Any]) -> list[str]:
    return [f"act_{name}={value}" for name, value in settings.items() if value is not None]


def _heads_text(profile: HeadProfile) -> str:
    layers = [str(layer) for layer, heads in profile.heads.items() if heads]
    known = None not in (profile.num_layers, profile.num_heads)
    of_all = f" of {profile.num_layers * profile.num_heads}" if known else ""  # type: ignore[operator]
    return f"{profile.size}{of_all}, in layers {', '.join(layers)}"


def _settings_text(settings: Mapping[str, Any]) -> str:
    return _values_text({name: value for name, value in settings.items() if value is not None}) or "not recorded"


def _values_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "not recorded"


def _tasks_text(found: Mapping[str, Any]) -> str:
    tasks = ", ".join(f"{name} ({split})" for name, split in _mapping(found.get("tasks")).items())
    documents = _mapping(found.get("documents"))
    sizes = ", ".join(f"{number} for the {part}" for part, number in documents.items())
    return "; ".join(filter(None, [tasks, sizes and f"documents: {sizes}"])) or "not recorded"


def _gain_text(found: Mapping[str, Any]) -> str:
    """The gain that a search measured of the heads that it chose, in a sentence."""
    gain = _mapping(found.get("evidence"))
    if not gain.get("chosen"):
        return "not recorded in this profile"
    over = f"over {gain['documents']} documents that had no part in finding the heads"
    if gain.get("by_entropy"):
        return f"{-float(gain['margin_change']):+.4f} nats of mean entropy (p = {gain['p_value']:.2g}) {over}"
    points, low, high = (100 * float(gain[name]) for name in ("accuracy_change", "accuracy_low", "accuracy_high"))
    return f"{points:+.1f} points of accuracy (95% interval {low:+.1f} to {high:+.1f}, p = {gain['p_value']:.2g}) {over}"


def _mapping(value: Any) -> Mapping[str, Any]:
    """A part of a profile that people write, too: what is no mapping counts as missing."""
    return value if isinstance(value, Mapping) else {}


def _in_a_cell(text: str) -> str:
    """A text that stays within its cell of a Markdown table."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def _check_room(there: list[str], repository: str, file: str) -> None:
    others = [name for name in json_files(there) if name != file]
    if others:
        raise HubError(
            f"{repository} holds {others[0]} already, and a repository has one profile: choose another repository, or replace "
            f"that file with --file {others[0]}."
        )


def _check_paths(profile: HeadProfile) -> None:
    """Raise InputError where a profile names a path of this machine, which would tell others what they cannot use."""
    content = {"model": profile.model, "settings": profile.settings, "provenance": profile.provenance}
    for where, text in _texts(content, ""):
        if _OF_THIS_MACHINE.match(text) or (where == "model" and Path(text).exists()):
            remedy = "give its name with --model" if where == "model" else "change it in the file"
            raise InputError(f"the head profile names a path of this machine as its {where} ({text}): {remedy}.")


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """All texts of a profile, with their places."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(part, f"{where}.{name}".strip("."))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part, where)


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")
