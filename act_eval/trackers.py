"""Comparisons in experiment trackers: through lm-eval's own loggers, with the paired differences beside the scores.

A comparison is one run of the tracker. Each task stands there once for each variant, such as `demo_topic.baseline` and
`demo_topic.ACT`, since lm-eval's loggers know one evaluation at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any

from act_eval.errors import InputError, SettingError, explained
from act_eval.files import files_below
from act_eval.launch import is_first_launched
from act_eval.model_arguments import results_without_secrets
from act_eval.planned_runs import PLANNED_RUNS_FILE, asked_of, read_planned_runs
from act_eval.report.build import Report, make_report
from act_eval.report.verdict import Conclusion

_DIFFERENCE = ("baseline", "act", "delta", "low", "high", "n", "p", "p_holm", "detectable")
_OF_TASKS = ("results", "configs", "versions", "n-shot", "n-samples", "higher_is_better")
_TABLE_COLUMNS = ("task", "variant", "metric", *_DIFFERENCE)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TrackerSettings:
    """What is logged where.

    Args:
        wandb_args: of `wandb.init`, by name; nothing is logged to Weights & Biases without any.
        wandb_config_args: of `wandb.config.update`, by name.
        trackio_args: of `trackio.init`, by name; nothing is logged to Trackio without any.

    Raises:
        SettingError: a package is missing, or there is a configuration for no tracker.
    """

    wandb_args: Mapping[str, Any] = field(default_factory=dict)
    wandb_config_args: Mapping[str, Any] = field(default_factory=dict)
    trackio_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.wandb_config_args and not self.wandb_args:
            raise SettingError("wandb_config_args", "goes with wandb_args, which say where to log: give both.")
        for package, asked in (("wandb", self.wandb_args), ("trackio", self.trackio_args)):
            if asked and not _is_installed(package):
                raise SettingError(
                    f"{package}_args", f"needs {package}, which is not installed: pip install 'act-eval[{package}]'."
                )


class Trackers:
    """The runs of trackers that a comparison is logged to, see `tracking`."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self._wandb = self._trackio = None

    def start(self) -> None:
        """Start the runs, unless they have been started. Raises SettingError where a tracker refuses its arguments."""
        settings = self._settings
        if settings.wandb_args and self._wandb is None:
            self._wandb = _started("wandb_args", lambda: _wandb_logger(settings))
        if settings.trackio_args and self._trackio is None:
            self._trackio = _started("trackio_args", lambda: _trackio_logger(settings))

    def log(
        self,
        output: Path,
        is_wanted: Callable[[Mapping[str, Any]], bool],
        without_heads: Sequence[Conclusion] = (),
    ) -> None:
        """Log scores, paired differences and conclusions of a comparison, to runs that are started where they are not.

        Args:
            output: its folder.
            is_wanted: says from the content of a results file whether it is of this comparison.
            without_heads: what the comparison comes to where no heads were found, so that there are no pairs.
        """
        self.start()
        if self._wandb is None and self._trackio is None:
            return
        evaluations = Evaluations.read(output, is_wanted)
        rows, conclusions = [], without_heads
        if not without_heads:
            report = make_report([output], is_wanted=is_wanted)
            of_files = report.runs[report.runs["file"].isin(evaluations.variants)]
            variants = dict(zip(of_files["settings"], of_files["file"].map(evaluations.variants), strict=True))
            rows, conclusions = list(difference_rows(report, variants)), report.conclusions
        verdicts = {
            "verdict": "; ".join(conclusion.headline for conclusion in conclusions),
            "verdict_text": " ".join(sentence for conclusion in conclusions for sentence in conclusion.sentences),
        }
        words = {name: text for name, text in verdicts.items() if text}
        for logger in filter(None, (self._wandb, self._trackio)):
            logger.post_init(evaluations.results)
            logger.log_eval_result()
        if self._wandb is not None:
            import wandb

            table = wandb.Table(columns=list(_TABLE_COLUMNS), data=[[row.get(name) for name in _TABLE_COLUMNS] for row in rows])
            self._wandb.run.log({**_metrics(rows), "act/differences": table}, step=self._wandb.step)
            self._wandb.run.summary.update(words)
        if self._trackio is not None:
            import trackio

            trackio.log({**_metrics(rows), **words}, step=self._trackio.step)

    def finish(self, exit_code: int) -> None:
        """End the runs that have been started; 0 for one that went well."""
        if self._wandb is not None:
            self._wandb.run.finish(exit_code=exit_code)
        if self._trackio is not None:
            self._trackio.finish()


@contextmanager
def tracking(settings: TrackerSettings) -> Iterator[Trackers]:
    """Runs of trackers, which the block starts when there is something to log, so that what is refused before leaves none.

    They end with the block, also after an exception. Of several processes, the first one logs.
    """
    trackers = Trackers(settings if is_first_launched() else TrackerSettings())
    try:
        yield trackers
    except BaseException:
        trackers.finish(exit_code=1)
        raise
    trackers.finish(exit_code=0)


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a comparison as one of lm-eval.

    Attributes:
        results: what lm-eval's `simple_evaluate` returns for tasks of these names, without samples.
        variants: by the results file, what its run is called.
    """

    results: Mapping[str, Any]
    variants: Mapping[str, str]

    @classmethod
    def read(cls, output: Path, is_wanted: Callable[[Mapping[str, Any]], bool]) -> Evaluations:
        """Read those results files of a folder that are wanted."""
        planned = read_planned_runs(output / PLANNED_RUNS_FILE)
        several_seeds = len({run.seed for run in planned}) > 1
        parts: dict[str, dict[str, Any]] = {part: {} for part in _OF_TASKS}
        configs, variants = {}, {}
        for file in files_below(output, "results_*.json"):
            content = results_without_secrets(json.loads(file.read_text(encoding="utf-8")))
            run = next((run for run in planned if run.asked == asked_of(content)), None)
            if run is None or not is_wanted(content):
                continue
            seed = f".seed-{run.seed}" if several_seeds else ""
            for part in _OF_TASKS:
                for task, value in content.get(part, {}).items():
                    parts[part][f"{_key(task, run.variant)}{seed}"] = value
            configs[run.variant] = content["config"]
            variants[str(file)] = run.variant
        return cls({**parts, "config": configs}, variants)


def difference_rows(report: Report, variants: Mapping[str, str]) -> Iterator[Row]:
    """The differences of a report, of tasks and of averages over them, each with its variant; what is missing is None.

    Args:
        report: of one comparison.
        variants: by settings, what they are called.
    """
    for table, column in ((report.comparison, "task"), (report.groups, "group")):
        for row in table.to_dict("records"):
            if row["settings"] in variants:
                metric = row["metric"] if row["filter"] == "none" else f"{row['metric']},{row['filter']}"
                numbers = {name: _number(row.get(name)) for name in _DIFFERENCE}
                yield {"task": str(row[column]), "variant": variants[row["settings"]], "metric": metric, **numbers}


def _metrics(rows: list[Row]) -> dict[str, float]:
    """The differences as numbers by name, such as `demo_topic.ACT/acc_delta`."""
    return {
        f"{_key(row['task'], row['variant'])}/{row['metric']}_{name}": row[name]
        for row in rows
        for name in _DIFFERENCE
        if row[name] is not None
    }


def _key(task: str, variant: str) -> str:
    """A task and a variant in characters that names in trackers may have."""
    return ".".join(re.sub(r"[^A-Za-z0-9_-]+", "-", part).strip("-") for part in (task, variant))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _is_installed(package: str) -> bool:
    """Whether there is such a package; a folder of its name, in which trackers keep their runs, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None


def _started(name: str, start: Callable[[], Any]) -> Any:
    """Start the run of a tracker. Raises SettingError where it says no."""

    def explain(error: Exception) -> InputError:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        return SettingError(name, f"cannot be used to log ({reason}): change it, or log without.")

    with explained(explain, Exception):
        return start()


def _wandb_logger(settings: TrackerSettings) -> Any:
    from lm_eval.loggers import WandbLogger

    return WandbLogger(dict(settings.wandb_args), dict(settings.wandb_config_args))


def _trackio_logger(settings: TrackerSettings) -> Any:
    try:
        from lm_eval.loggers import TrackioLogger
    except ImportError:
        raise SettingError("trackio_args", "needs lm-eval 0.4.12 or newer: update lm-eval, or log without.") from None
    return TrackioLogger(dict(settings.trackio_args))
