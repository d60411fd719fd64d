"""Pages of the documentation: their commands, snippets and files, and a reader who tries them from top to bottom.

A page is Markdown. Of its fenced blocks,

- `console` holds commands, each behind `$ ` (a backslash at the end of a line goes on in the next), and nothing else;
- `python` is run, in the names that the page's earlier blocks left;
- `text` that stands right below one of these is what that block prints, and below several commands what the last one prints,
  where `...` stands for anything; a command whose text begins with `act-eval: ` has to fail with that line;
- any block with a title, such as `yaml title="demo.yaml"`, is a file that later commands find under that name;
- `text`, `yaml`, `toml` and `json` without a title are only read. Other languages are not known.

A block below `<!--- skip: next "needs ..." -->` is not run. `python exec="true"` is run by the build of the site instead.
"""

from __future__ import annotations

import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest
from unittest.mock import patch

from sybil import Document, Example, Region
from sybil.evaluators.python import pad
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

FEW = "2"  # documents

_READ = ("text", "yaml", "toml", "json", "jsonl")
_OF_THE_BUILD = 'python exec="true"'
_FAILURE = "act-eval: "
_INFO = re.compile(r'(?P<language>\w+)(?: title="(?P<title>[^"]+)")?')
_COMMAND = re.compile(r"\$ (?:.*\\\n)*.*\n")
_TO_A_FILE = re.compile(r"(?P<command>[^|<>&;]+) > (?P<file>\S+)")
_OF_A_SHELL = re.compile(r"[|<>&;]|^\w+=")
_ASKED = ("run", "study", "compare", "sweep", "search", "sinks", "demo")  # commands that have --limit
_ELLIPSIS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Block:
    """A fenced block.

    Attributes:
        language: the first word behind the fence.
        title: the name of the file that it is, or None.
        source: what it holds.
        expected: what it prints, or None where the page does not show it.
    """

    language: str
    title: str | None
    source: str
    expected: str | None = None

    def commands(self) -> list[str]:
        """The command lines of a console block, without their prompts. Raises AssertionError where it holds anything else."""
        rest = _COMMAND.sub("", self.source)
        assert not rest.strip(), f"in a console block, a line without `$ `: {rest.strip().splitlines()[0]}"
        return [command[2:].strip() for command in _COMMAND.findall(self.source)]


@dataclass
class Printed:
    """What a command or snippet printed.

    Attributes:
        out, err: on stdout and stderr.
        code: exit code.
    """

    out: str
    err: str
    code: int


class Reader:
    """Tries pages in the current folder.

    Args:
        programs: those that are called in this process, by name; it takes seconds to start them. The shell finds the others.
        instead: texts of commands, and what stands for them here, such as the address of a server.
    """

    def __init__(self, programs: Mapping[str, Callable[[], object]], instead: Mapping[str, str] | None = None) -> None:
        self._programs = programs
        self._instead = instead or {}

    def read(self, path: Path) -> None:
        """Run a page from top to bottom. Raises AssertionError, with page and line, where it does not hold."""
        for example in page(path, self._run).examples():
            try:
                example.evaluate()
            except SkipTest:
                continue

    def run(self, command: str) -> None:
        """Run a command, on few documents. Raises AssertionError where it fails."""
        problem = _difference(command, self._command(command, is_shown=False), None)
        assert problem is None, problem

    def _run(self, example: Example) -> str | None:
        """Run a block; returns what is wrong."""
        block: Block = example.parsed
        if block.title is not None:
            file = Path(block.title)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.source, encoding="utf-8")
        elif block.language == "python":
            return _difference("the snippet", self._snippet(example), block.expected)
        elif block.language == "console":
            *others, last = block.commands()
            problems = [_difference(command, self._command(command, is_shown=False), None) for command in others]
            problems.append(_difference(last, self._command(last, block.expected is not None), block.expected))
            return next((problem for problem in problems if problem is not None), None)
        return None

    def _snippet(self, example: Example) -> Printed:
        code = compile(pad(example.parsed.source, example.line), example.path, "exec", dont_inherit=True)
        return _called(lambda: exec(code, example.namespace))

    def _command(self, command: str, is_shown: bool) -> Printed:
        if to_a_file := _TO_A_FILE.fullmatch(command):
            printed = self._command(to_a_file["command"], is_shown)
            Path(to_a_file["file"]).write_text(printed.out, encoding="utf-8")
            return printed
        for text, ours in self._instead.items():
            command = command.replace(text, ours)
        words = shlex.split(command.replace("\\\n", " "))
        if _OF_A_SHELL.search(command) or words[0] not in self._programs:
            return _in_a_shell(command)
        with patch.object(sys, "argv", words if is_shown else of_few_documents(words)):
            return _called(self._programs[words[0]])


def page(path: Path, evaluate: Callable[[Example], str | None] = lambda example: None) -> Document:
    """Parse a page.

    Args:
        path: of a Markdown file.
        evaluate: what is done with each of its blocks; returns what is wrong, or None.
    """

    def found(document: Document) -> Iterator[Region]:
        last: tuple[int, Block] | None = None
        for region in FencedCodeBlockLexer(".+")(document):
            info, source = region.lexemes["language"].strip(), str(region.lexemes["source"])
            if info.startswith(_OF_THE_BUILD):
                continue
            match = _INFO.fullmatch(info)
            where = f"{path}, {document.line_column(region.start)}"
            assert match is not None, f"{where}: {info!r} is not a language with or without a title"
            block = Block(match["language"], match["title"], source)
            is_known = block.language in ("console", "python", *_READ) or block.title is not None
            assert is_known, f"{where}: the language {block.language!r} is not known"
            if block.language == "text" and last is not None and not document.text[last[0] : region.start].strip():
                last[1].expected = source
            last = (region.end, block) if block.language in ("console", "python") and block.title is None else None
            yield Region(region.start, region.end, block, evaluate)

    return Document.parse(str(path), SkipParser(), found)


def blocks(path: Path) -> list[Block]:
    """All blocks of a page, also those that are not run."""
    return [example.parsed for example in page(path).examples() if isinstance(example.parsed, Block)]


def marked(path: Path) -> list[tuple[str, str]]:
    """The blocks of a page that are not run: what they hold, and the reason."""
    reasons = []
    for example in page(path).examples():
        try:
            example.evaluate()
        except SkipTest as reason:
            reasons.append((example.parsed.source, str(reason)))
    return reasons


def of_few_documents(words: Sequence[str]) -> list[str]:
    """A command that asks few documents, where it asks any, and where the page does not name them one by one."""
    asks = words[:1] == ["lm_eval"] or (words[:1] == ["act-eval"] and words[1:2] and words[1] in _ASKED)
    if not asks or {"--samples", "--config"} & set(words):
        return list(words)
    few = list(words)
    for limit in ("--limit", "--search-limit") if "study" in words else ("--limit",):
        if limit in few:
            place = few.index(limit) + 1
            few[place] = min(few[place], FEW, key=float)
        else:
            few += [limit, FEW]
    return few


def _called(function: Callable[[], object]) -> Printed:
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            function()
        except SystemExit as end:
            code = end.code
    return Printed(out.getvalue(), err.getvalue(), code if isinstance(code, int) else int(code is not None))


def _in_a_shell(line: str) -> Printed:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)
    return Printed(result.stdout, result.stderr, result.returncode)


def _difference(what: str, printed: Printed, expected: str | None) -> str | None:
    """What is wrong with something that was run, where anything is."""
    has_to_fail = expected is not None and expected.startswith(_FAILURE)
    if has_to_fail == (printed.code == 0):
        return f"{what} ended with {printed.code}:\n{printed.out}\n{printed.err}"
    if expected is None:
        return None
    shown = "\n".join(line for line in printed.err.splitlines() if line.startswith(_FAILURE)) if has_to_fail else printed.out
    shown = "".join(f"{line.rstrip()}\n" for line in shown.splitlines())
    checker, example = doctest.OutputChecker(), doctest.Example("", expected)
    if checker.check_output(example.want, shown, _ELLIPSIS):
        return None
    return f"{what} does not print what the page shows.\n{checker.output_difference(example, shown, doctest.REPORT_UDIFF)}"
