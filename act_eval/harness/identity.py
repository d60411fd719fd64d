"""What ran, as far as answers depend on it: weights, ACT settings, package versions."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor

from act_eval.attention.act import ACT
from act_eval.profiles import HeadProfile

_LONGEST_PROFILE = 20
_SAMPLED_NUMBERS = 1000  # of each tensor, for a fingerprint


def package_versions() -> dict[str, str]:
    """Look up the versions of the packages that answers depend on, by name."""
    return {name: version(name) for name in ("act-eval", "lm-eval", "torch", "transformers")}


def weights_fingerprint(model: nn.Module) -> str:
    """Compute 16 hexadecimal digits that change with the weights, from names, shapes and some numbers of every tensor.

    Processes that hold parts of the model must call this together.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        flat = whole.detach().flatten()
        sample = flat[:: max(1, flat.numel() // _SAMPLED_NUMBERS)].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + sample.tobytes())
    return digest.hexdigest()[:16]


def act_identity(act: ACT, profile: HeadProfile) -> dict[str, Any]:
    """Collect the settings that answers depend on: all of ACT's, and the profile by content."""
    nothing = act.calibration.changes_nothing
    return {**act.settings, "changes_nothing": nothing, "profile_hash": profile.content_hash}


def recorded_act(act: ACT, profile: HeadProfile, profile_name: str) -> dict[str, Any]:
    """Collect what results say of ACT: `act_identity` with the method's parameters apart, the heads, and all of it in one line.

    Args:
        act: with all settings.
        profile: the heads that are calibrated.
        profile_name: what they were asked for by.
    """
    parameters = act.method.parameters
    settings = {name: value for name, value in act_identity(act, profile).items() if name not in parameters}
    return {
        **settings,
        "parameters": parameters,
        "profile": profile_name,
        "num_heads": profile.size,
        "heads": {str(layer): list(heads) for layer, heads in profile.heads.items() if heads},
        "text": settings_text(act, profile, profile_name),
    }


def settings_text(act: ACT, profile: HeadProfile, profile_name: str) -> str:
    """Describe the ACT settings of a run in one line, such as `all (32 heads), beta 0.4, alpha 5`, or `baseline`.

    A profile file is named by its last two path components and by its content's hash, since files change; a long list of heads
    by its beginning and its hash.
    """
    if act.calibration.changes_nothing or not profile.size:
        return "baseline"
    name, digest = profile_name, profile.content_hash[:8]
    if name.endswith(".json"):
        name = f"{'/'.join(Path(name).parts[-2:])} {digest}"
    elif len(name) > _LONGEST_PROFILE:
        name = f"{name[: _LONGEST_PROFILE - 3]}... {digest}"
    return ", ".join([f"{name} ({profile.size} heads)", *filter(None, [act.calibration.text])])
