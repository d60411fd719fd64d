"""Read lm-eval's results and samples into two tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from act_eval.errors import InputError

RUN_COLUMNS = ("run", "date", "model", "settings", "is_baseline", "task", "version", "num_fewshot", "seed", "limit")
SAMPLE_COLUMNS = ("run", "task", "metric", "doc_id", "doc_hash", "prompt_hash", "target_hash", "value")


class ReportError(InputError):
    """Results that cannot be read or must not be compared."""


def load(folders: Iterable[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every run below some folders.

    A run is one `results_<date>.json`; its samples are the files of the same date beside it. Two runs may share a folder,
    since lm-eval names folders by checkpoint only: the ACT settings in the results tell them apart.

    Args:
        folders: where to look, recursively.

    Returns:
        `runs`, a row per run and task (`RUN_COLUMNS`): `run` is the path of the results file, `settings` the ACT settings in
        one line, `is_baseline` whether nothing was calibrated, `seed` that of the few-shot sampler (None without few-shot
        examples, where it decides nothing). `samples`, a row per run, task, metric and document
        (`SAMPLE_COLUMNS`), for every metric that is a number per document.

    Raises:
        ReportError: a folder does not exist, or no run with samples is in any of them, or a file is not what lm-eval writes.
    """
    runs: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"there is no folder {folder}: give the --output_path of lm_eval or act-eval compare.")
        for file in sorted(folder.rglob("results_*.json")):
            results = _read_json(file)
            for run in _runs(file, results):
                samples_file = file.with_name(f"samples_{run['task']}_{run['date']}.jsonl")
                if samples_file.is_file():
                    runs.append(run)
                    samples += _samples(samples_file, run)
    if not runs:
        raise ReportError(
            "no runs with samples were found: run lm_eval with --log_samples and --output_path, or act-eval compare."
        )
    return pd.DataFrame(runs, columns=list(RUN_COLUMNS)), pd.DataFrame(samples, columns=list(SAMPLE_COLUMNS))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{file} cannot be read as JSON ({error}): delete it and run that evaluation again.") from error
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("config"), dict)
        or not isinstance(content.get("configs"), dict)
    ):
        raise ReportError(f"{file} is not a results file of lm-eval.")
    return content


def _runs(file: Path, results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    config = results["config"]
    act = config.get("act")
    for task in results["configs"]:
        num_fewshot = results.get("n-shot", {}).get(task)
        yield {
            "run": str(file),
            "date": file.stem.removeprefix("results_"),
            "model": results.get("model_name") or config.get("model"),
            "settings": describe_settings(act),
            "is_baseline": act is None or _changes_nothing(act),
            "task": task,
            "version": results.get("versions", {}).get(task),
            "num_fewshot": num_fewshot,
            "seed": config.get("fewshot_seed") if num_fewshot else None,
            "limit": config.get("limit"),
        }


def _changes_nothing(act: dict[str, Any]) -> bool:
    return act["num_heads"] == 0 or (act["beta"] == 1 and act["decode"] != "official")


def describe_settings(act: dict[str, Any] | None) -> str:
    """The ACT settings of a run in one line, such as `all (32 heads), beta 0.4, alpha 5`.

    A profile file is named by its last two path components and by its content's hash, since files change.
    """
    if act is None or _changes_nothing(act):
        return "baseline"
    detection = f"alpha {act['alpha']:g}" if act["alpha"] is not None else f"threshold {act['threshold']:g}"
    profile = act["profile"]
    if profile.endswith(".json"):
        profile = f"{'/'.join(Path(profile).parts[-2:])} {act['profile_hash'][:8]}"
    parts = [f"{profile} ({act['num_heads']} heads)", f"beta {act['beta']:g}", detection]
    parts += [act["keep"]] if act["keep"] != "first-sink" else []
    parts += [f"decode {act['decode']}"] if act["decode"] != "prefill" else []
    return ", ".join(parts)


def _samples(file: Path, run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                sample = json.loads(line)
                identity = {key: sample[key] for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash")}
                metrics = sample["metrics"]
            except (ValueError, KeyError, TypeError) as error:
                raise ReportError(f"line {number} of {file} is not a sample of lm-eval ({error!r}).") from error
            for metric in metrics:
                value = sample.get(metric)
                if isinstance(value, (bool, int, float)):
                    yield {"run": run["run"], "task": run["task"], "metric": metric, **identity, "value": float(value)}
