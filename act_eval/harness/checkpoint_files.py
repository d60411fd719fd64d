"""The files of a checkpoint, by which one sees without loading its weights that they are still the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from act_eval.demo import MODEL_PATH

_NAMED_IN = ("pretrained", "tokenizer", "peft", "delta")

Stamps = dict[str, list[int]]


def checkpoint_stamps(model_args: Mapping[str, Any]) -> Stamps | None:
    """Look up size and times of last change of all files that a model is loaded from.

    As long as they stay, so does the model. Where they change, only the weights themselves say whether it did: copies of a
    checkpoint have other times.

    Args:
        model_args: those of `act-hf`.

    Returns:
        For each file its bytes, and the nanoseconds when its content and its entry in the folder last changed; or None where
        files cannot tell: a ready model, one that is not on this machine yet, or code that may come from another place.
    """
    if model_args.get("trust_remote_code") or "/" in str(model_args.get("gguf_file", "")):
        return None
    stamps: Stamps = {}
    for argument in _NAMED_IN:
        name = model_args.get(argument, str(MODEL_PATH) if argument == "pretrained" else None)
        if name is None:
            continue
        folder = _folder_of(name, model_args.get("revision")) if isinstance(name, str) else None
        if folder is None:
            return None
        places = dict.fromkeys((folder, folder / str(model_args.get("subfolder", ""))))
        for file in (file for place in places for file in sorted(place.glob("*"))):
            if file.is_file():
                status = file.stat()
                stamps[f"{argument}/{file.relative_to(folder)}"] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return stamps or None


def _folder_of(name: str, revision: str | None) -> Path | None:
    """Find a checkpoint's folder: the one of that path, or what was downloaded from the hub; None where there is neither."""
    if Path(name).is_dir():
        return Path(name)
    from transformers.utils import cached_file

    try:
        config = cached_file(name, "config.json", revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return None
    return None if config is None else Path(config).parent
