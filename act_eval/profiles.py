"""Head profiles: which attention heads are calibrated, for which model, and where that list comes from.

A profile is a small JSON file that people read, share and edit. Everything that names a profile on a command line goes
through `resolve_profile`: a file, here or on the Hugging Face hub, a published list, `all`, `none`, `auto`, or heads written
inline as `2:8+13;5:1`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from act_eval.errors import InputError, SettingError
from act_eval.files import atomic_file
from act_eval.hub_files import is_hub_name, read_hub_file
from act_eval.near_names import did_you_mean
from act_eval.value_checks import is_number, is_whole_number

logger = logging.getLogger(__name__)

FORMAT = "act-eval head profile"
VERSION = 1
VERSION_WITH_GROUPS = 2  # which earlier act-evals refuse: they would do the same in all heads
GROUP_SEPARATOR = "|"

_INLINE = re.compile(r"{0}:{0}(\+{0})*(;{0}:{0}(\+{0})*)*;?".format("[0-9]{1,9}"))

_WORDS = ("all", "none", "auto")
_HEADS = "\0heads"  # stands for heads in the JSON of a profile, whose lists would have a line for each head; no text holds it


class ProfileError(InputError):
    """A head profile that cannot be read, or does not fit the model."""


@dataclass(frozen=True)
class HeadGroup:
    """Heads of a profile in which the same is done.

    Args:
        heads: layer index -> head indices, as those of a profile.
        method: name of the method that is meant for them, or None where the profile does not say.
        parameters: of the method, by name.
    """

    heads: Mapping[int, tuple[int, ...]]
    method: str | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # 2 and 2.0 are the same in the hash of a profile; what is no number is left for the method to refuse.
        same = {name: float(value) if is_number(value) else value for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", same)


@dataclass(frozen=True)
class HeadProfile:
    """The attention heads that ACT calibrates.

    Args:
        heads: layer index -> head indices, both 0-based; heads are query heads, also where they share key/value heads.
        model: name of the checkpoint that the profile was found for, or None when it was made for no particular one.
        num_layers: number of decoder layers of that model, or None when unknown.
        num_heads: number of query heads per layer of that model, or None when unknown.
        settings: the ACT settings that the heads were found with (beta, threshold, ...).
        provenance: where the list comes from: source, search settings, data, seeds, scores, versions.
        groups: parts of the heads, for methods that do not do the same in all of them; none by default. Each head is in one.

    Raises:
        ProfileError: a head or layer is out of range, negative or listed twice, groups are no division of the heads, or some of
            them name a method and others do not.
    """

    heads: Mapping[int, tuple[int, ...]]
    model: str | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[HeadGroup, ...] = ()

    def __post_init__(self) -> None:
        heads = _in_order(self.heads)
        object.__setattr__(self, "heads", heads)
        for layer, layer_heads in heads.items():
            if layer < 0 or any(head < 0 for head in layer_heads):
                raise ProfileError(
                    f"layers and heads are counted from 0, but the profile names layer {layer}, heads {layer_heads}."
                )
            if len(set(layer_heads)) < len(layer_heads):
                raise ProfileError(f"the profile lists a head of layer {layer} twice: {list(layer_heads)}.")
        if self.groups:
            self._check_groups()
        if self.num_layers is not None and self.num_heads is not None:
            self._check_ranges(self.num_layers, self.num_heads)

    @classmethod
    def of_groups(cls, groups: Iterable[HeadGroup], **rest: Any) -> HeadProfile:
        """Make a profile of groups of heads; `rest` is what else a profile takes. Raises ProfileError where they overlap."""
        groups = tuple(groups)
        return cls(_heads_of_groups(groups), groups=groups, **rest)

    def _check_groups(self) -> None:
        object.__setattr__(self, "groups", tuple(replace(group, heads=_in_order(group.heads)) for group in self.groups))
        if _named(_heads_of_groups(self.groups)) != _named(self.heads):
            raise ProfileError("the groups of the profile do not hold the same heads as the profile itself.")
        without = [number for number, group in enumerate(self.groups, 1) if group.method is None]
        if len(without) < len(self.groups) and without:
            raise ProfileError(
                f"group {without[0]} of the heads names no method, and others do: give each group one, or none of them."
            )
        if without and any(group.parameters for group in self.groups):
            raise ProfileError("a group of heads has parameters, but names no method that takes them: name it.")

    def group(self, number: int) -> HeadProfile:
        """The heads of a group alone, as a profile; of a profile without groups, all of them."""
        return replace(self, heads=self.groups[number].heads, groups=()) if self.groups else self

    @property
    def size(self) -> int:
        """Number of heads in the profile."""
        return sum(map(len, self.heads.values()))

    @property
    def content_hash(self) -> str:
        """16 hexadecimal digits that change when, and only when, the set of heads changes, or their groups do."""
        heads: Any = {str(layer): list(layer_heads) for layer, layer_heads in self.heads.items() if layer_heads}
        if self.groups:
            named = [{str(layer): list(heads) for layer, heads in group.heads.items() if heads} for group in self.groups]
            done = [(group.method, dict(group.parameters)) for group in self.groups]
            heads = list(zip(named, done, strict=True))
        return hashlib.sha256(json.dumps(heads, sort_keys=True).encode()).hexdigest()[:16]

    def share(self, share: float) -> HeadProfile:
        """Choose a share of the heads, their number rounded; a smaller share is part of a larger one.

        The best come first where the profile says what a search measured for each head alone (its margin change), and else the
        order is random, but always the same.

        Args:
            share: in [0, 1].

        Raises:
            SettingError: it is no number in that range.
        """
        if not is_number(share) or not 0 <= share <= 1:
            raise SettingError(
                "head_share", f"is {reprlib.repr(share)}, but it is a share of the heads: give a number in [0, 1]."
            )
        if share == 1:
            return self
        names = [(layer, head) for layer, layer_heads in self.heads.items() for head in layer_heads]
        scores = self._margin_changes()
        if all(f"{layer}:{head}" in scores for layer, head in names):
            ranked = sorted(names, key=lambda name: (-scores[f"{name[0]}:{name[1]}"], name))
        else:
            ranked = sorted(names, key=lambda name: hashlib.sha256(f"{name[0]}:{name[1]}".encode()).digest())
        kept = set(ranked[: int(share * len(ranked) + 0.5)])

        def among_kept(heads: Mapping[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
            some = {layer: tuple(head for head in of_layer if (layer, head) in kept) for layer, of_layer in heads.items()}
            return {layer: of_layer for layer, of_layer in some.items() if of_layer}

        groups = tuple(replace(group, heads=among_kept(group.heads)) for group in self.groups)
        return replace(self, heads=among_kept(self.heads), groups=groups)

    def _margin_changes(self) -> dict[str, float]:
        """What a search measured, or estimated, for each of its heads, as far as the profile says so, by `layer:head`."""
        alone = self.provenance.get("heads_alone")
        measured = alone.items() if isinstance(alone, dict) else ()
        of_dicts = {name: scores for name, scores in measured if isinstance(scores, dict)}
        changes = {name: scores.get("margin_change", scores.get("estimate_together")) for name, scores in of_dicts.items()}
        return {name: change for name, change in changes.items() if isinstance(change, (int, float))}

    def check(self, num_layers: int, num_heads: int) -> None:
        """Raise ProfileError, saying exactly what does not fit, unless the profile fits a model of this shape."""
        for name, own, actual in (("layers", self.num_layers, num_layers), ("heads per layer", self.num_heads, num_heads)):
            if own is not None and own != actual:
                raise ProfileError(
                    f"the profile was made for {self.model or 'a model'} with {own} {name}, but this model has {actual}: "
                    "choose a profile of this model, or `all`."
                )
        self._check_ranges(num_layers, num_heads)

    def _check_ranges(self, num_layers: int, num_heads: int) -> None:
        for layer, layer_heads in self.heads.items():
            if layer >= num_layers:
                raise ProfileError(f"the profile names layer {layer}, but the model has layers 0 to {num_layers - 1}.")
            if layer_heads and layer_heads[-1] >= num_heads:
                raise ProfileError(
                    f"the profile names head {layer_heads[-1]} of layer {layer}, but the model has heads 0 to {num_heads - 1}."
                )

    def to_json(self) -> str:
        """Write the profile as text, as its file has it."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION_WITH_GROUPS if self.groups else VERSION,
            "model": {"name": self.model, "layers": self.num_layers, "heads": self.num_heads},
            "heads": _HEADS,
            "settings": dict(self.settings),
            "provenance": dict(self.provenance),
        }
        bodies = [_heads_as_text(self.heads, "  ")]
        if self.groups:
            content["groups"] = [
                {"method": group.method, "parameters": dict(group.parameters), "heads": _HEADS} for group in self.groups
            ]
            bodies += [_heads_as_text(group.heads, "      ") for group in self.groups]
        parts = json.dumps(content, indent=2, ensure_ascii=False).split(json.dumps(_HEADS))
        return "".join(part + body for part, body in zip(parts, [*bodies, "\n"], strict=True))

    def save(self, path: str | Path) -> None:
        """Write the profile to a JSON file."""
        with atomic_file(Path(path)) as file:
            file.write(self.to_json().encode())

    @classmethod
    def from_json(cls, text: str, source: str) -> HeadProfile:
        """Read a profile from the text of its file; `source` names it in error messages.

        Raises:
            ProfileError: the text is no JSON, no head profile, or one of a later version.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProfileError(f"{source} is not readable as JSON ({error}).") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ProfileError(f'{source} is not a head profile: it has no "format": "{FORMAT}".')
        if content.get("version") not in (VERSION, VERSION_WITH_GROUPS):
            raise ProfileError(
                f"{source} has version {reprlib.repr(content.get('version'))}, but this act-eval reads versions up to "
                f"{VERSION_WITH_GROUPS}: update act-eval."
            )
        model = content.get("model") or {}
        heads: Any = content.get("heads")
        settings, provenance = content.get("settings") or {}, content.get("provenance") or {}
        if not all(isinstance(part, dict) for part in (model, heads, settings, provenance)):
            raise ProfileError(
                f'{source} needs "heads": {{"layer": [head, ...]}}, and "model", "settings" and "provenance" as objects.'
            )
        groups = content.get("groups") or []
        has_groups = content["version"] == VERSION_WITH_GROUPS
        if not isinstance(groups, list) or not all(map(_is_group, groups)) or bool(groups) != has_groups:
            raise ProfileError(
                f'{source} needs "groups" in version {VERSION_WITH_GROUPS}, and there alone: a list of objects with "heads" by '
                'layer, the "method" by name, or null, and its "parameters" as numbers by name.'
            )
        try:
            parsed = _heads_of_json(heads)
            num_layers, num_heads = (None if model.get(key) is None else _integer(model[key]) for key in ("layers", "heads"))
            return cls(
                heads=parsed,
                model=model.get("name"),
                num_layers=num_layers,
                num_heads=num_heads,
                settings=settings,
                provenance=provenance,
                groups=tuple(
                    HeadGroup(_heads_of_json(group["heads"]), group.get("method"), group.get("parameters") or {})
                    for group in groups
                ),
            )
        except ProfileError as error:
            raise ProfileError(f"{source}: {error}") from None
        except (OverflowError, TypeError, ValueError) as error:
            raise ProfileError(
                f'{source} needs "heads" as lists of whole numbers by layer, and the numbers of "model" whole ({error}).'
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> HeadProfile:
        """Read a profile from a JSON file. Raises ProfileError."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(f"the head profile {path} cannot be read ({error}).") from error
        return cls.from_json(text, str(path))

    @classmethod
    def from_layers(cls, layers: Iterable[int], num_layers: int, num_heads: int) -> HeadProfile:
        """Make a profile of every head of some layers, for a model of this shape."""
        return cls({layer: tuple(range(num_heads)) for layer in layers}, num_layers=num_layers, num_heads=num_heads)

    @classmethod
    def parse(cls, inline: str) -> HeadProfile:
        """Read heads written inline: `2:8+13;5:1` is heads 8 and 13 of layer 2 and head 1 of layer 5. Raises ProfileError."""
        if not _INLINE.fullmatch(inline):
            raise ProfileError(f"{inline!r} is not a list of heads: write layer:head+head;layer:head, for example 2:8+13;5:1.")
        heads: dict[int, tuple[int, ...]] = {}
        for part in inline.rstrip(";").split(";"):
            layer, layer_heads = part.split(":")
            heads[int(layer)] = heads.get(int(layer), ()) + tuple(map(int, layer_heads.split("+")))
        return cls(heads)


def _in_order(heads: Mapping[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    return {layer: tuple(sorted(heads[layer])) for layer in sorted(heads)}


def _heads_of_groups(groups: Iterable[HeadGroup]) -> dict[int, tuple[int, ...]]:
    """The heads of all groups. Raises ProfileError where one is in two of them."""
    heads: dict[int, tuple[int, ...]] = {}
    for number, group in enumerate(groups, 1):
        for layer, of_layer in group.heads.items():
            if len(set(of_layer)) < len(of_layer):
                raise ProfileError(f"group {number} of the heads lists one of layer {layer} twice: {list(of_layer)}.")
            both = sorted(set(heads.get(layer, ())) & set(of_layer))
            if both:
                raise ProfileError(
                    f"head {both[0]} of layer {layer} is in group {number} of the heads and in one before: leave it in one."
                )
            heads[layer] = heads.get(layer, ()) + tuple(of_layer)
    return heads


def _named(heads: Mapping[int, tuple[int, ...]]) -> set[tuple[int, int]]:
    return {(layer, head) for layer, of_layer in heads.items() for head in of_layer}


def _heads_as_text(heads: Mapping[int, tuple[int, ...]], indent: str) -> str:
    """Heads as JSON, a line for each layer."""
    lines = ",\n".join(f'{indent}  "{layer}": {list(layer_heads)}' for layer, layer_heads in heads.items())
    return f"{{\n{lines}\n{indent}}}" if lines else "{}"


def _heads_of_json(heads: Mapping[str, Any]) -> dict[int, tuple[int, ...]]:
    """Heads from JSON. Raises ProfileError, TypeError or ValueError where they are none."""
    parsed = {int(layer): tuple(_integer(head) for head in layer_heads) for layer, layer_heads in heads.items()}
    again = next((layer for layer in heads if layer != str(int(layer))), None)
    if again is not None:
        raise ProfileError(f"layers are named by plain numbers such as 2, but the profile has {again!r}.")
    return parsed


def _is_group(group: Any) -> bool:
    if not isinstance(group, dict) or not isinstance(group.get("heads"), dict):
        return False
    parameters, method = group.get("parameters") or {}, group.get("method")
    are_numbers = isinstance(parameters, dict) and all(map(is_number, parameters.values()))
    return are_numbers and (method is None or isinstance(method, str))


def _integer(value: Any) -> int:
    if not is_whole_number(value):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def published_profiles() -> dict[str, HeadProfile]:
    """Read the head lists published with the paper, by name: `llama-2-7b-chat/classification` and so on."""
    root = resources.files("act_eval") / "published_profiles"
    profiles = {}
    for folder in sorted(root.iterdir(), key=lambda entry: entry.name):
        if folder.is_dir():
            for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
                name, _, suffix = file.name.rpartition(".")
                if suffix == "json":
                    profiles[f"{folder.name}/{name}"] = HeadProfile.from_json(file.read_text(encoding="utf-8"), file.name)
    return profiles


def normalize_name(spec: str | HeadProfile | None) -> str | HeadProfile:
    """Write what names a profile as it is compared: `all`, `none` and `auto` are known in capitals and between spaces, too.

    Args:
        spec: as `resolve_profile` gets it, or None, which lm-eval makes of the word none.
    """
    if isinstance(spec, HeadProfile):
        return spec
    word = str(spec).strip().lower()
    return word if word in _WORDS else str(spec)


def has_lists_of_groups(spec: str | HeadProfile) -> bool:
    """Whether a name of a profile is several lists of heads side by side, one for each group, and no file."""
    return isinstance(spec, str) and GROUP_SEPARATOR in spec and not os.path.isfile(spec)


def stored_profile(spec: str | HeadProfile | None) -> HeadProfile | None:
    """Read the profile of a file, or of the hub: one whose content may change under the same name. None for any other name.

    What an answer came from is told by this content, and not by the name. Of profiles for groups of heads (`A|B`) it is the
    whole.

    Raises:
        ProfileError: it is no head profile.
        HubError: it cannot be had from the hub.
    """
    if not isinstance(spec, str) or normalize_name(spec) in _WORDS:
        return None
    if has_lists_of_groups(spec):
        return grouped_profile(spec)
    if is_hub_name(spec):
        return HeadProfile.from_json(read_hub_file(spec).text, spec)
    return HeadProfile.load(spec) if os.path.isfile(spec) else None  # where Path would raise for a text that is no path


def known_profile(spec: str | HeadProfile | None) -> HeadProfile | None:
    """A profile that is given itself, or that of a file or of the hub; None for any other name. Raises as `stored_profile`."""
    return spec if isinstance(spec, HeadProfile) else stored_profile(spec)


def grouped_profile(spec: str) -> HeadProfile:
    """Make a profile with groups of profiles that are written side by side: `2:8+13|heads.json` has two groups of heads.

    Raises:
        ProfileError: one of them is no list of heads, or has groups itself, or a head is in two of them.
        HubError: one cannot be had from the hub.
    """
    groups, parts = [], [part.strip() for part in spec.split(GROUP_SEPARATOR)]
    for part in parts:
        if not part or normalize_name(part) in _WORDS:
            raise ProfileError(
                f"{spec!r} needs a list of heads on each side of a {GROUP_SEPARATOR}, not {part!r}: give heads inline "
                "(2:8+13;5:1), the path of a JSON file, hf://user/repo, or a published name."
            )
        found = _named_profile(part)
        if found.groups:
            raise ProfileError(f"{part} has groups of heads itself, so it cannot be one of {spec!r}: give it alone.")
        groups.append(HeadGroup(found.heads))
    return HeadProfile.of_groups(groups)


def resolve_profile(
    spec: str | HeadProfile,
    num_layers: int,
    num_heads: int,
    checkpoint: str = "",
    attention_layers: Sequence[int] | None = None,
) -> HeadProfile:
    """Turn whatever names a profile into one that fits the model.

    Args:
        spec: a profile; `all` or `none`; the name of a published list; a path to a JSON file, or its name on the hub
            (`hf://user/repo`, see `hub_files`); heads inline (`2:8+13;5:1`); or `auto`: the published list of this checkpoint
            (the classification list, the one the published code uses for every task), else all heads of all layers but the
            first two and the last, with one warning. The three words may be in capitals. Several lists of heads with `|`
            between them are groups of heads, see `grouped_profile`.
        num_layers: number of decoder layers of the model.
        num_heads: number of query heads per layer.
        checkpoint: name or path of the checkpoint, for `auto`.
        attention_layers: the layers that `all` and `auto` choose from, for hybrid models; all layers by default.

    Raises:
        ProfileError: nothing goes by that name, the profile does not fit the model, or `auto` names no head of it.
        HubError: it cannot be had from the hub.
    """
    layers = range(num_layers) if attention_layers is None else attention_layers
    name = normalize_name(spec)
    profile = name if isinstance(name, HeadProfile) else _find_profile(name, layers, num_layers, num_heads, checkpoint)
    profile.check(num_layers, num_heads)
    return profile


def _find_profile(spec: str, layers: Sequence[int], num_layers: int, num_heads: int, checkpoint: str) -> HeadProfile:
    if spec == "none":
        return HeadProfile({}, num_layers=num_layers, num_heads=num_heads)
    if spec == "all":
        return HeadProfile.from_layers(layers, num_layers, num_heads)
    if spec == "auto":
        return _automatic_profile(layers, num_layers, num_heads, checkpoint)
    return _named_profile(spec)


def _named_profile(spec: str) -> HeadProfile:
    """The profile that goes by a name, whatever the model. Raises ProfileError where there is none."""
    if _INLINE.fullmatch(spec.strip()):
        return HeadProfile.parse(spec.strip())
    published = published_profiles()
    if spec in published:
        return published[spec]
    stored = stored_profile(spec)
    if stored is not None:
        return stored
    raise ProfileError(
        f"there is no head profile {spec!r}{did_you_mean(spec, [*_WORDS, *published])}: give all, none, auto, heads inline "
        f"(2:8+13;5:1), the path of a JSON file, hf://user/repo, or one of {', '.join(published)}."
    )


def _automatic_profile(attention_layers: Sequence[int], num_layers: int, num_heads: int, checkpoint: str) -> HeadProfile:
    checkpoint_name = checkpoint.rstrip("/").rpartition("/")[2].lower()
    for name, profile in published_profiles().items():
        if profile.model and profile.model.rpartition("/")[2].lower() == checkpoint_name and name.endswith("/classification"):
            logger.info("act_profile=auto: using the published head list %s.", name)
            return profile
    layers = [layer for layer in attention_layers if 2 <= layer < num_layers - 1]
    if not layers:
        raise ProfileError(
            "act_profile=auto stands for the heads of all layers but the first two and the last where no head list is "
            f"published, and there are {num_layers} layers: name the heads, or give all."
        )
    logger.warning(
        "act_profile=auto: no head list is published for this checkpoint, so all heads of layers %s are calibrated; "
        "`act-eval search` finds the heads that help.",
        f"{layers[0]} to {layers[-1]}",
    )
    return HeadProfile.from_layers(layers, num_layers, num_heads)
