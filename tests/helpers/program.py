"""The commands of the program, and their command lines, read without running anything."""

import typer

from act_eval.cli.app import app


def every_command(group=None, path=()):
    """(path, command) of all commands of the program."""
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


def context_of(path, arguments, **reading):
    """The context of a command, its command line read and nothing run; what is missing counts as not given by default."""
    reading = {"resilient_parsing": True, **reading}
    program = typer.main.get_command(app)
    context = program.make_context("act-eval", list(path), resilient_parsing=True)
    for name in path[:-1]:
        program = program.commands[name]
        context = program.make_context(name, [], parent=context, resilient_parsing=True)
    return program.commands[path[-1]].make_context(path[-1], arguments, parent=context, **reading)
