"""`act-eval profiles`: the published head profiles."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from act_eval.cli.terminal import console


def profiles(name: Annotated[str | None, typer.Argument(help="Show this profile's JSON.")] = None) -> None:
    """List the published head profiles, or show one."""
    from act_eval.profiles import ProfileError, published_profiles

    published = published_profiles()
    if name is not None:
        if name not in published:
            raise ProfileError(f"there is no published head profile {name!r}: choose one of {', '.join(published)}.")
        print(published[name].to_json(), end="")
        return
    table = Table("profile", "layers", "heads", "beta", "threshold", box=box.SIMPLE)
    for profile_name, profile in published.items():
        layers = sum(1 for heads in profile.heads.values() if heads)
        settings = profile.settings
        table.add_row(profile_name, str(layers), str(profile.size), str(settings["beta"]), str(settings["threshold"]))
    console.print(table)
