"""What gave an answer: the model with all that it computes with, and the versions of the packages.

This is the one definition of it. Answers are kept, gone on with, and compared only where it agrees: lm-eval's response cache,
finished runs of `compare` and `sweep`, units of `search`, statistics of `sinks`, answers of MT-Bench, pairs in a report. ACT's
settings and the prompts are beside it, since baseline and ACT differ in the former and tasks in the latter.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
import xxhash
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from act_eval.attention.model_structure import pretrained_model
from act_eval.differences import without_addresses
from act_eval.model_arguments import without_placement

if TYPE_CHECKING:
    from act_eval.harness.lm import ACTLM

PACKAGES = ("act-eval", "lm-eval", "torch", "transformers")

# Arguments of `hf` whose content is recorded in another form.
_RECORDED_OTHERWISE = frozenset(("pretrained", "tokenizer", "peft", "delta", "dtype", "max_length", "use_fast_tokenizer"))
_NOT_OF_THE_CONFIG = ("transformers_version", "dtype", "torch_dtype", "_attn_implementation", "_name_or_path", "_commit_hash")
_NOT_OF_AN_ADAPTER = ("base_model_name_or_path", "revision", "inference_mode", "peft_version")
_REMOTE_CODE = "transformers_modules"


def package_versions() -> dict[str, str]:
    """Look up the versions of the packages that answers depend on, by name."""
    return {name: version(name) for name in PACKAGES}


def what_ran(lm: ACTLM) -> dict[str, Any]:
    """Describe a loaded model, and the packages, in values that JSON can hold.

    Returns:
        `model`, such as its `weights`, `config` and `tokenizer`, and `versions`; answers depend on nothing else but the prompt
        and ACT's settings.
    """
    return {"model": _describe_model(lm), "versions": package_versions()}


def kept_arguments(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Those model arguments that answers depend on and that are not recorded by their content; values that JSON can hold.

    An argument that this module does not know is one of them.
    """
    kept = without_placement(model_args)
    return in_json({name: kept[name] for name in sorted(kept) if name not in _RECORDED_OTHERWISE})


def in_json(value: Any) -> Any:
    """Make values that JSON can hold: sets become sorted lists, other objects their text without addresses."""
    return json.loads(json.dumps(value, default=_in_other_words), parse_constant=str)


def digest_of(content: Any) -> str:
    """Compute 16 hexadecimal digits that change with a value, as `in_json` makes it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_in_other_words).encode()).hexdigest()[:16]


def _in_other_words(value: Any) -> Any:
    """What stands in JSON for a value that it cannot hold."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else without_addresses(str(value))


def _describe_model(lm: ACTLM) -> dict[str, Any]:
    model = pretrained_model(lm.model)
    generation = model.generation_config
    return {
        "class": type(model).__name__,
        "code": _remote_code(type(model)),
        "weights": lm.weights_fingerprint(),
        "dtype": str(model.dtype),
        "config": _without(in_json(model.config.to_diff_dict()), _NOT_OF_THE_CONFIG),
        "generation_config": {} if generation is None else _without(in_json(generation.to_diff_dict()), _NOT_OF_THE_CONFIG),
        "adapters": {
            name: _without(in_json(adapter.to_dict()), _NOT_OF_AN_ADAPTER)
            for name, adapter in (getattr(lm.model, "peft_config", None) or {}).items()
        },
        "tokenizer": {
            "class": type(lm.tokenizer).__name__,
            "content": lm.tokenizer_fingerprint,
            "chat_template": _digest_or_none(lm.tokenizer.chat_template),
            "special_tokens": in_json(lm.tokenizer.special_tokens_map),
        },
        "max_length": lm.max_length,
        "arguments": lm.kept_arguments,
    }


def _without(values: Any, names: Iterable[str]) -> Any:
    """Leave out some names, of nested dictionaries too."""
    if isinstance(values, dict):
        return {name: _without(value, names) for name, value in values.items() if name not in names}
    return values


def _digest_or_none(content: Any) -> str | None:
    return None if content is None else digest_of(content)


def _remote_code(model_class: type[nn.Module]) -> str | None:
    """A digest of the code of a class that came with its checkpoint, and None for those of transformers."""
    if not model_class.__module__.startswith(_REMOTE_CODE):
        return None
    return digest_of(inspect.getsource(sys.modules[model_class.__module__]))


def weights_fingerprint(model: nn.Module) -> str:
    """Compute 16 hexadecimal digits that change with the weights: with any number, name, shape or dtype.

    The same weights have the same fingerprint on every device, and also where they are offloaded or divided; processes that
    hold parts of them must call this together.
    """
    digest = xxhash.xxh3_64()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):  # what quantized modules keep beside their weights
            digest.update(f"{name} {without_addresses(str(tensor))}".encode())
            continue
        tensor = _offloaded(model, name) if tensor.is_meta else tensor.detach()
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        for part in _plain_parts(tensor):
            digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that a tensor is made of, such as the numbers and scales of a quantized one; usually itself."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain_parts(getattr(tensor, name))


def _offloaded(model: nn.Module, name: str) -> torch.Tensor:
    """A weight that accelerate keeps on the disk or in main memory while it is not needed."""
    path, _, own_name = name.rpartition(".")
    module = model.get_submodule(path)
    if not has_offloaded_params(module):
        return torch.empty(0)
    with align_module_device(module, torch.device("cpu")):
        return getattr(module, own_name).detach().clone()


def tokenizer_fingerprint(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """Compute 16 hexadecimal digits that change with all that turns text to tokens: vocabulary, merges, normalization.

    Truncation and padding, which tokenizers keep as they were last asked for, are left out.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = backend.to_str()
        return hashlib.sha256(content[content.index('"added_tokens"') :].encode()).hexdigest()[:16]
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file() and file.name != "tokenizer_config.json":  # which holds the path that it was read from
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]
