"""Long names of models and files, shortened to what tells them apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_LEFT_OUT = "..."
_WITH_ARGUMENTS = re.compile(r"(?P<name>.+?) (?P<arguments>\([^()=]+=.*\))")  # names that say which arguments differ
_CACHED = re.compile(r"models--(?P<name>[^/]+)/snapshots/(?P<rest>[^/]+.*)")  # in the cache of the Hugging Face hub


def short_names(names: Iterable[str], parts: int = 1) -> dict[str, str]:
    """Shorten paths to the fewest trailing parts that tell them apart; other names, such as those on a hub, stay whole.

    A snapshot in the cache of the Hugging Face hub gets the name that it has on the hub. What stands behind a name in
    parentheses, such as ` (dtype=float16)`, stays.

    Args:
        names: all that are shown together.
        parts: how many trailing parts a path keeps at least.

    Returns:
        A short name for each name; no two are the same.
    """
    forms = {name: _forms(name, parts) for name in names}
    chosen = dict.fromkeys(forms, 0)
    while True:
        shown = {name: forms[name][place] for name, place in chosen.items()}
        counts = Counter(shown.values())
        too_short = [name for name, short in shown.items() if counts[short] > 1 and chosen[name] < len(forms[name]) - 1]
        if not too_short:
            return shown
        for name in too_short:
            chosen[name] += 1


def cut_names(names: Iterable[str], longest: int) -> dict[str, str]:
    """Shorten names as `short_names` does, and leave out the middle of those that are still long, such as lists of heads.

    Args:
        names: all that are shown together.
        longest: how many characters a name may have that stays whole.

    Returns:
        A short name for each name; no two are the same, so that some may still be longer.
    """
    half = (longest - len(_LEFT_OUT)) // 2
    short = short_names(names, parts=2)
    cut = {name: text if len(text) <= longest else f"{text[:half]}{_LEFT_OUT}{text[-half:]}" for name, text in short.items()}
    counts = Counter(cut.values())
    return {name: cut[name] if counts[cut[name]] == 1 else text for name, text in short.items()}


def _forms(name: str, parts: int) -> Sequence[str]:
    """What a name may be shortened to, from the shortest to itself."""
    called = _WITH_ARGUMENTS.fullmatch(name)
    if called:
        return [f"{short} {called['arguments']}" for short in _forms(called["name"], parts)]
    cached = _CACHED.search(name)
    if cached:
        on_the_hub = cached["name"].replace("--", "/")
        return [on_the_hub, f"{on_the_hub}/{cached['rest']}", name]
    if not _is_path(name):
        return [name]
    pieces = [piece for piece in name.split("/") if piece]
    trailing = ["/".join(pieces[-count:]) for count in range(parts, len(pieces) + 1)]
    return [*trailing, name] if trailing[-1:] != [name] else trailing


def _is_path(name: str) -> bool:
    """Whether a name is a path: it begins like one, or has more parts than a name on a hub."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1
