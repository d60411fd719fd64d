"""Weights & Biases and Trackio as far as lm-eval's loggers and ours use them: they keep what is logged, and ask no server."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace


class Record:
    """What a tracker was told.

    Attributes:
        init: arguments of the run.
        config, summary: by name.
        logged: all that was logged, by name, tables as (columns, rows).
        exit_code: of the run; None while it goes on, and for a tracker that has none.
        is_finished: whether the run has ended.
    """

    def __init__(self):
        self.init, self.config, self.summary, self.logged = None, {}, {}, {}
        self.exit_code, self.is_finished = None, False


class _Table:
    def __init__(self, columns, data=()):
        self.columns, self.data = columns, [list(row) for row in data]

    def add_data(self, *row):
        self.data.append(list(row))


class _Artifact:
    def __init__(self, name, type):
        self.name, self.files = name, {}

    def new_file(self, name, mode="w", encoding=None):
        import io

        return io.StringIO()


def _module(monkeypatch, name, **content):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, origin="the tests")
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def stand_in_for_wandb(monkeypatch, refusal: Exception | None = None) -> Record:
    """Let `import wandb` give a stand-in; `refusal` is what its `init` raises."""
    record = Record()

    def update(target):
        return lambda values, **_: target.update(values)

    def finish(exit_code=None):
        record.exit_code, record.is_finished = exit_code, True

    run = SimpleNamespace(
        config=SimpleNamespace(update=update(record.config)),
        summary=SimpleNamespace(update=update(record.summary)),
        log=lambda values, step=None: record.logged.update(values),
        log_artifact=lambda artifact: None,
        finish=finish,
    )

    def init(**arguments):
        if refusal is not None:
            raise refusal
        record.init = arguments
        return run

    _module(monkeypatch, "wandb", __version__="0.31.0", run=None, init=init, Table=_Table, Artifact=_Artifact)
    _module(monkeypatch, "wandb.sdk")
    _module(monkeypatch, "wandb.sdk.lib")
    _module(monkeypatch, "wandb.sdk.lib.printer", new_printer=lambda: None)
    return record


def stand_in_for_trackio(monkeypatch) -> Record:
    """Let `import trackio` give a stand-in."""
    record = Record()

    def init(**arguments):
        record.init = arguments

    def finish():
        record.is_finished = True

    _module(
        monkeypatch,
        "trackio",
        init=init,
        config=record.config,
        log=lambda values, step=None: record.logged.update(values),
        finish=finish,
    )
    return record
