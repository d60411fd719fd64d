"""`act-eval profiles`: head profiles that are published, and those on the hub."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from act_eval.cli.failures import DEBUG_HELP
from act_eval.cli.options import HUB, option
from act_eval.cli.terminal import console, say

_SHOW = "show"


class _WithNames(TyperGroup):
    """Takes the name of a profile for `show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else [_SHOW, *args])


app = typer.Typer(cls=_WithNames, epilog=DEBUG_HELP, invoke_without_command=True)


@app.callback()
def profiles(context: typer.Context) -> None:
    """List the published head profiles, show one, or share one on the Hugging Face hub.

    Example: act-eval profiles
    """
    if context.invoked_subcommand is not None:
        return
    import pandas as pd

    from act_eval.profiles import published_profiles
    from act_eval.tables import TextTable

    rows = [
        {
            "profile": profile_name,
            "layers": str(sum(1 for heads in profile.heads.values() if heads)),
            "heads": str(profile.size),
            "beta": str(profile.settings["beta"]),
            "threshold": str(profile.settings["threshold"]),
        }
        for profile_name, profile in published_profiles().items()
    ]
    console.print(TextTable("", pd.DataFrame(rows), ["profile"]).to_terminal())


@app.command(epilog=DEBUG_HELP)
def show(
    name: Annotated[str, typer.Argument(help="A published name, the path of a JSON file, or hf://user/repo.")],
) -> None:
    """Show the JSON of a head profile.

    Example: act-eval profiles show llama-2-7b-chat/mt-bench
    """
    from act_eval.near_names import did_you_mean
    from act_eval.profiles import ProfileError, published_profiles, stored_profile

    published = published_profiles()
    profile = published.get(name) or stored_profile(name)
    if profile is None:
        raise ProfileError(
            f"there is no head profile {name!r}{did_you_mean(name, published)}: give the path of a JSON file, hf://user/repo, "
            f"or one of {', '.join(published)}."
        )
    print(profile.to_json(), end="")


@app.command(epilog=DEBUG_HELP)
def push(
    profile: Annotated[str, typer.Argument(help="The path of a profile, such as the profile.json of a search.")],
    repository: Annotated[str, typer.Argument(metavar="USER/REPO", help="The repository on the hub; made when missing.")],
    file: Annotated[
        str | None,
        option(HUB, "The profile's name there.", default="model, tasks and number of heads", metavar="NAME.json"),
    ] = None,
    model: Annotated[
        str | None,
        option(HUB, "What others call the model, where the profile names a path.", default="as the profile says"),
    ] = None,
    private: Annotated[bool, option(HUB, "Make the repository private, if it is made here.", "--private")] = False,
) -> None:
    """Share a head profile on the Hugging Face hub, with a card that says what it is. Nothing else is written.

    Others then use it as act_profile=hf://USER/REPO, or hf://USER/REPO@REVISION. Writing needs a token: hf auth login.

    Example: act-eval profiles push heads-of-mine/profile.json someone/heads-of-mine
    """
    from act_eval.profiles import HeadProfile
    from act_eval.shared_profiles import push_profile

    shared = HeadProfile.load(profile)
    pushed = push_profile(shared if model is None else replace(shared, model=model), repository, file, private)
    say([f"wrote {shared.size} heads and their card: {pushed.url}", f"to use them: act_profile={pushed.name}"])
