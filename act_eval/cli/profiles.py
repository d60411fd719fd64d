"""`act-eval profiles`: the published head profiles."""

from __future__ import annotations

from typing import Annotated

import typer

from act_eval.cli.terminal import console


def profiles(name: Annotated[str | None, typer.Argument(help="Show this profile's JSON.")] = None) -> None:
    """List the published head profiles, or show one."""
    import pandas as pd

    from act_eval.profiles import ProfileError, published_profiles
    from act_eval.tables import TextTable

    published = published_profiles()
    if name is not None:
        if name not in published:
            raise ProfileError(f"there is no published head profile {name!r}: choose one of {', '.join(published)}.")
        print(published[name].to_json(), end="")
        return
    rows = [
        {
            "profile": profile_name,
            "layers": str(sum(1 for heads in profile.heads.values() if heads)),
            "heads": str(profile.size),
            "beta": str(profile.settings["beta"]),
            "threshold": str(profile.settings["threshold"]),
        }
        for profile_name, profile in published.items()
    ]
    console.print(TextTable("", pd.DataFrame(rows), ["profile"]).to_terminal())
