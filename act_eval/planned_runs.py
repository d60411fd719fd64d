"""The runs that comparisons into a folder are to have, kept beside their results: what is not finished can be told from it.

A results file of a comparison says what was asked for. A planned run is finished where there is one that asked for the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from act_eval.errors import InputError
from act_eval.files import write_texts

PLANNED_RUNS_FILE = "planned_runs.json"
IDENTITY_KEY = "act_eval_run"  # of a results file: what was asked for, and what it stood for


@dataclass(frozen=True)
class PlannedRun:
    """One variant of one task with one seed.

    Attributes:
        variant: what it is called, such as `ACT` or `baseline`.
        task: its name.
        seed: of the few-shot sampler.
        asked: what results files hold as what was asked for, in values that JSON can hold.
        command: which planned it, such as `sweep`; empty in files of version 0.2.
    """

    variant: str
    task: str
    seed: int
    asked: Mapping[str, Any]
    command: str = ""

    @property
    def model(self) -> str:
        """What the model was asked for by; empty for the embedded one."""
        return str((self.asked.get("model_args") or {}).get("pretrained", ""))

    @property
    def name(self) -> tuple[str, str, str, int]:
        """What tells a run apart from others of the same command in a folder: one that comes later takes its place."""
        return self.model, self.variant, self.task, self.seed


def asked_of(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What was asked for, from the content of a results file; None where a comparison did not write it."""
    recorded = results.get(IDENTITY_KEY)
    asked = recorded.get("asked") if isinstance(recorded, Mapping) else None
    return asked if isinstance(asked, Mapping) else None


def read_planned_runs(file: Path) -> list[PlannedRun]:
    """Read what is planned. Raises InputError where the file holds something else."""
    try:
        return [
            PlannedRun(str(run["variant"]), str(run["task"]), int(run["seed"]), dict(run["asked"]), str(run.get("command", "")))
            for run in json.loads(file.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} does not hold the planned runs of a comparison ({error!r}): delete it, and compare again."
        ) from error


def add_planned_runs(runs: Iterable[PlannedRun], folder: Path, finished: Iterable[Mapping[str, Any]] = ()) -> None:
    """Keep what is planned in a folder, beside what other commands, or the same one for other models, planned there.

    Of what the same command planned there before for the same models, what is finished is kept, and the rest is dropped: it is
    not asked for any more. A run takes the place of one of the same command, model, variant, task and seed that was asked for
    in another way.

    Args:
        runs: all that a command is to have in the end.
        folder: exists.
        finished: what results files in the folder say was asked for.
    """
    file, runs = folder / PLANNED_RUNS_FILE, list(runs)
    earlier = read_planned_runs(file) if file.is_file() else []
    by_model = {run.model: run.command for run in runs}
    own = [run for run in earlier if run.model in by_model and run.command in ("", by_model[run.model])]
    now = {run.name for run in runs}
    dropped = [*missing_runs(own, finished), *(run for run in own if run.name in now)]
    together = [*(run for run in earlier if run not in dropped), *runs]
    content = [asdict(run) for run in sorted(together, key=lambda run: (run.name, run.command))]
    write_texts({PLANNED_RUNS_FILE: json.dumps(content, indent=1, ensure_ascii=False) + "\n"}, folder)


def each_once(planned: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Planned runs, each of them once that several commands planned."""
    return list({(run.variant, _as_text(run.asked)): run for run in planned}.values())


def missing_runs(planned: Iterable[PlannedRun], finished: Iterable[Mapping[str, Any]]) -> list[PlannedRun]:
    """The planned runs without results.

    Args:
        planned: all of them.
        finished: what results files say was asked for.
    """
    there = {_as_text(asked) for asked in finished}
    return [run for run in planned if _as_text(run.asked) not in there]


def _as_text(asked: Mapping[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True)
