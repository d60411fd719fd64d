"""The `act-eval` command line. It parses and prints; the work is done elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from act_eval.errors import InputError

if TYPE_CHECKING:
    from act_eval.compare import ComparisonSettings
    from act_eval.report.build import ReportOptions

app = typer.Typer(
    help="Does calibrating attention sinks (ACT) help your language model on your tasks?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
mt_bench = typer.Typer(
    help="MT-Bench: two-turn answers with and without ACT, a judge, and paired scores.",
    no_args_is_help=True,
)
app.add_typer(mt_bench, name="mt-bench")
console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of processes that accelerate launched, the first one speaks

_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

Tasks = Annotated[str, typer.Option(help="Names of lm-eval tasks or groups, separated by commas.")]
NumFewshot = Annotated[int | None, typer.Option(help="Solved examples per prompt; each task's own number by default.")]
Limit = Annotated[float | None, typer.Option(help="Documents per task; below 1, a share of them.")]
EvaluationBatchSize = Annotated[str, typer.Option(help="A number, auto or auto:N.")]
Device = Annotated[str | None, typer.Option(help="Such as cuda or cpu; by default cuda where there is one.")]
ChatTemplate = Annotated[bool, typer.Option(help="Use the tokenizer's chat template.")]
Seeds = Annotated[
    str, typer.Option(help="For the few-shot sampler and all random generators; several, separated by commas, are averaged.")
]
IncludePath = Annotated[str | None, typer.Option(help="A folder with more task configs.")]
Verbose = Annotated[bool, typer.Option(help="Show lm-eval's own messages.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for results and report.")]
MTBenchFolder = Annotated[Path, typer.Argument(help="Folder that act-eval mt-bench answer wrote.")]


def main() -> None:
    """Entry point: bad input ends with one line and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"act-eval: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@app.command(context_settings=_PASS_THROUGH)
def run(context: typer.Context) -> None:
    """lm_eval itself, with the project's tasks on the path and act-hf as the default model. Takes all that lm_eval takes."""
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from act_eval.harness.tasks import explained_dataset_errors, tasks_path
    from act_eval.registration import register

    setup_logging()
    register()
    harness = HarnessCLI()
    sys.argv = ["act-eval run", *context.args]
    arguments = harness.parse_args()
    if hasattr(arguments, "include_path"):
        arguments.include_path = [str(tasks_path()), *([arguments.include_path] if arguments.include_path else [])]
    names_model = any(argument == "--model" or argument.startswith(("--model=", "-M")) for argument in context.args)
    if hasattr(arguments, "model") and not names_model:
        arguments.model = "act-hf"
    with explained_dataset_errors():
        harness.execute(arguments)


@app.command()
def compare(
    tasks: Tasks,
    output: Output,
    model_args: Annotated[
        str, typer.Option(help="As for lm_eval --model act-hf: pretrained=...,act_profile=...,act_beta=...")
    ] = "",
    num_fewshot: NumFewshot = None,
    limit: Limit = None,
    batch_size: EvaluationBatchSize = "1",
    device: Device = None,
    apply_chat_template: ChatTemplate = False,
    seeds: Seeds = "1234",
    include_path: IncludePath = None,
    verbose: Verbose = False,
) -> None:
    """Run baseline and ACT on the same tasks, the model loaded once, then report. Finished parts are not run again."""
    _quiet(verbose)

    from act_eval.compare import run_comparison

    settings = _evaluation(tasks, model_args, num_fewshot, limit, batch_size, device, apply_chat_template, seeds, include_path)
    if run_comparison(settings, output, console):
        _report([output], output)


@app.command()
def sweep(
    tasks: Tasks,
    output: Output,
    vary: Annotated[
        list[str],
        typer.Option(help="What varies, an argument of act-hf without act_: beta=0,0.2,0.4 or method=act,boost. Repeat."),
    ],
    model_args: Annotated[
        str, typer.Option(help="As for lm_eval --model act-hf: pretrained=...,act_profile=... and all that does not vary.")
    ] = "",
    metric: Annotated[
        str | None, typer.Option(help="What tables and plots show; by default the metric that most tasks have.")
    ] = None,
    num_fewshot: NumFewshot = None,
    limit: Limit = None,
    batch_size: EvaluationBatchSize = "1",
    device: Device = None,
    apply_chat_template: ChatTemplate = False,
    seeds: Seeds = "1234",
    include_path: IncludePath = None,
    verbose: Verbose = False,
) -> None:
    """Compare ACT with the baseline over a grid of settings, the baseline run once. Finished parts are not run again."""
    _quiet(verbose)

    from act_eval.sweep.grid import Axis
    from act_eval.sweep.run import run_sweep
    from act_eval.sweep.tables import main_metric, print_tables
    from act_eval.sweep.write import write_sweep

    axes = [Axis.parse(text) for text in vary]
    settings = _evaluation(tasks, model_args, num_fewshot, limit, batch_size, device, apply_chat_template, seeds, include_path)
    results = run_sweep(settings, axes, output, console)
    if results is not None:
        shown = main_metric(results, metric)
        print_tables(results, shown, console)
        for path in write_sweep(results, shown, output):
            console.print(f"wrote {path}", soft_wrap=True, highlight=False)


@app.command()
def demo(
    output: Output = Path("act-eval-demo"),
    limit: Annotated[int | None, typer.Option(help="Documents per task; all test documents, and 100 to search on.")] = None,
) -> None:
    """Search for heads on the embedded demo model, then compare it with ACT, in those heads and in all: offline, on a CPU."""
    _quiet(verbose=False)

    from act_eval.compare import ComparisonSettings, run_comparison
    from act_eval.search.run import run_search
    from act_eval.search.settings import SearchSettings

    tasks, act, heads = ("demo_sentiment", "demo_topic", "demo_choice"), {"act_alpha": 5}, output / "heads"
    settings = SearchSettings(tasks, act, limit or 100, layers="all", selection="top-k", k=4, batch_size=32, device="cpu")
    console.print(*run_search(settings, heads).summary(), soft_wrap=True, highlight=False)
    for profile in ("all", str(heads / "profile.json")):
        model_args = {"act_profile": profile, **act}
        run_comparison(
            ComparisonSettings(tasks=tasks, model_args=model_args, limit=limit, batch_size="50", device="cpu"), output, console
        )
    _report([output], output)


@app.command()
def search(
    tasks: Annotated[str, typer.Option(help="Names of multiple-choice tasks or groups, separated by commas.")],
    output: Output,
    model_args: Annotated[str, typer.Option(help="As for lm_eval --model act-hf, without act_profile.")] = "",
    limit: Annotated[int | None, typer.Option(help="Documents per task, of its training split.")] = 100,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers to search: all, or such as 2-30,33; all but the first two and the last by default."),
    ] = None,
    mode: Annotated[str, typer.Option(help="exact, screened, or auto: exact up to 64 heads.")] = "auto",
    budget: Annotated[
        float, typer.Option(help="Of screened mode: exact scores cost at most this share of a full pass for each head.")
    ] = 0.12,
    selection: Annotated[str, typer.Option(help="validated, improving or top-k.")] = "validated",
    k: Annotated[int | None, typer.Option(help="Heads to choose with --selection top-k.")] = None,
    num_fewshot: NumFewshot = None,
    apply_chat_template: ChatTemplate = False,
    seed: Annotated[int, typer.Option(help="Draws documents and few-shot examples.")] = 1234,
    batch_size: Annotated[int, typer.Option(help="Rows that run at once.")] = 8,
    device: Device = None,
    include_path: IncludePath = None,
    verbose: Verbose = False,
) -> None:
    """Find the heads whose calibration helps, on training documents. A search that was stopped goes on where it was."""
    _quiet(verbose)

    from lm_eval.utils import simple_parse_args_string

    from act_eval.search.run import run_search
    from act_eval.search.settings import SearchSettings

    settings = SearchSettings(
        tasks=tuple(task for task in tasks.split(",") if task),
        model_args=simple_parse_args_string(model_args),
        limit=limit,
        seed=seed,
        layers=layers,
        mode=mode,  # type: ignore[arg-type]
        budget=budget,
        selection=selection,  # type: ignore[arg-type]
        k=k,
        num_fewshot=num_fewshot,
        apply_chat_template=apply_chat_template,
        batch_size=batch_size,
        device=device,
        include_path=include_path,
    )
    result = run_search(settings, output)
    for line in [*result.summary(), f"wrote {result.profile.size} heads to {output / 'profile.json'}"]:
        console.print(line, soft_wrap=True, highlight=False)


@app.command()
def sinks(
    tasks: Tasks,
    output: Output,
    model_args: Annotated[
        str,
        typer.Option(help="As for lm_eval --model act-hf; act_profile: the heads calibrated in maps after ACT, else all."),
    ] = "",
    split: Annotated[str, typer.Option(help="evaluation or train.")] = "evaluation",
    limit: Annotated[int | None, typer.Option(help="Documents per task.")] = 100,
    layers: Annotated[str, typer.Option(help="Layers to look at: all, or such as 2-30,33.")] = "all",
    document: Annotated[
        int | None, typer.Option(help="Also show the map of this document of the first task, by its number in the split.")
    ] = None,
    search: Annotated[
        Path | None, typer.Option(help="Also show the accuracy changes per head of a search: its --output folder.")
    ] = None,
    num_fewshot: NumFewshot = None,
    apply_chat_template: ChatTemplate = False,
    seed: Annotated[int, typer.Option(help="Draws documents and few-shot examples.")] = 1234,
    batch_size: Annotated[int, typer.Option(help="Documents that run at once.")] = 8,
    device: Device = None,
    include_path: IncludePath = None,
    verbose: Verbose = False,
) -> None:
    """Show where a model's attention sinks are in the documents of tasks: the paper's figures, with the data behind them."""
    _quiet(verbose)

    from lm_eval.utils import simple_parse_args_string

    from act_eval.sinks.run import run_sinks
    from act_eval.sinks.settings import SinksSettings

    settings = SinksSettings(
        tasks=tuple(task for task in tasks.split(",") if task),
        model_args=simple_parse_args_string(model_args),
        split=split,  # type: ignore[arg-type]
        limit=limit,
        seed=seed,
        layers=layers,
        document=document,
        search=search,
        num_fewshot=num_fewshot,
        apply_chat_template=apply_chat_template,
        batch_size=batch_size,
        device=device,
        include_path=include_path,
    )
    for path in run_sinks(settings, output):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders with lm-eval's results, searched recursively.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the report; the first folder by default.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Only these metrics, separated by commas.")] = "",
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="Only rows where a column matches a pattern: task=mmlu_*, filter=strict-match. Repeat."),
    ] = None,
    group_by: Annotated[str, typer.Option(help="What is averaged: tasks of each group, tag, all or none.")] = "group",
    style: Annotated[str | None, typer.Option(help="A matplotlib style, by name or as a file, for the plots.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON and nothing else; no file is written.")
    ] = False,
) -> None:
    """Tables, plots and a page of what ACT changed, from results that are there."""
    from act_eval.report.build import ReportOptions, make_report
    from act_eval.report.machine_readable import to_json

    patterns = dict(_column_pattern(text) for text in filters or [])
    metrics = tuple(name for name in metric.split(",") if name)
    options = ReportOptions(metrics, patterns, group_by)  # type: ignore[arg-type]
    if json:
        print(to_json(make_report(folders, options)), end="")
    else:
        _report(folders, output or folders[0], options, style)


@app.command()
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


@app.command()
def models() -> None:
    """List the model families that ACT was tested on, and what holds for them."""
    from act_eval.model_families import CHECKS, checked_by, checked_families

    table = Table("family", "transformers class", "attention", "since", "checked", "", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for family in checked_families():
        table.add_row(family.family, family.model, family.attention, family.since, checked_by(family), family.note)
    console.print(table)
    for check, meaning in CHECKS.items():
        console.print(f"{check}: {meaning}", soft_wrap=True, highlight=False)
    console.print("since: the oldest tested release of transformers in which it works", soft_wrap=True, highlight=False)


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="Show a prompt of this task; its dataset is loaded.")] = None,
) -> None:
    """List the project's tasks and groups, or show one task's prompt."""
    from act_eval.harness.tasks import describe_tasks, example_prompt

    if name is not None:
        print(example_prompt(name))
        return
    descriptions, groups = describe_tasks()
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True)
    for column in ("dataset", "evaluated", "shots", "metrics"):
        table.add_column(column, overflow="fold")
    for task in descriptions:
        evaluated = f"{task.split_sizes[task.evaluation_split]:,} {task.evaluation_split}"
        shots = f"{task.num_fewshot} of {task.split_sizes[task.fewshot_split]:,} {task.fewshot_split}"
        table.add_row(task.name, task.dataset, evaluated, shots, ", ".join(task.metrics))
    console.print(table)
    for group, members in groups.items():
        console.print(f"group {group}: {', '.join(members)}", soft_wrap=True, highlight=False)


@mt_bench.command()
def answer(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the comparison, laid out as FastChat's.")],
    model_args: Annotated[
        str, typer.Option(help="As for lm_eval --model act-hf: pretrained=...,act_profile=...,act_beta=...")
    ] = "",
    questions: Annotated[
        str, typer.Option(help="FastChat's question.jsonl, or the id of a dataset on the hub.")
    ] = "HuggingFaceH4/mt_bench_prompts",
    limit: Annotated[int | None, typer.Option(help="Questions of each category; all by default.")] = None,
    temperatures: Annotated[str, typer.Option(help="greedy, or category: FastChat's temperature of each category.")] = "greedy",
    max_new_tokens: Annotated[int, typer.Option(help="Where each reply ends at the latest.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of sampled replies; each question and turn has random numbers of its own.")] = 1234,
    batch_size: Annotated[int, typer.Option(help="Questions that are answered at once.")] = 8,
    device: Device = None,
    chat_template: Annotated[Path | None, typer.Option(help="A Jinja file in place of the tokenizer's chat template.")] = None,
    verbose: Verbose = False,
) -> None:
    """Answer the questions with baseline and ACT, the model loaded once. Answers that are there are not made again."""
    _quiet(verbose)

    from lm_eval.utils import simple_parse_args_string

    from act_eval.mt_bench.answers import AnswerSettings, write_answers
    from act_eval.mt_bench.questions import load_questions

    settings = AnswerSettings(
        simple_parse_args_string(model_args),
        temperatures,  # type: ignore[arg-type]
        max_new_tokens,
        seed,
        batch_size,
        device,
        chat_template,
    )
    for line in write_answers(settings, load_questions(questions), limit, output):
        console.print(line, soft_wrap=True, highlight=False)


@mt_bench.command()
def judge(
    folder: MTBenchFolder,
    judge_model: Annotated[str, typer.Option(help="The judge's name at the endpoint.")],
    judge_base_url: Annotated[
        str, typer.Option(help="Of an OpenAI-compatible endpoint, up to /v1.")
    ] = "https://api.openai.com/v1",
    judge_key_variable: Annotated[
        str, typer.Option(help="The environment variable that holds the API key, if the endpoint needs one.")
    ] = "OPENAI_API_KEY",
    judge_args: Annotated[str, typer.Option(help="What else goes into each request.")] = "temperature=0,max_tokens=2048",
    mode: Annotated[
        str, typer.Option(help="single (a grade from 1 to 10 for each reply), pair (ACT against baseline), or both.")
    ] = "single,pair",
    concurrency: Annotated[int, typer.Option(help="Requests that are under way at once.")] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 120,
    retries: Annotated[int, typer.Option(help="How often a request that failed on the way is sent again.")] = 6,
    retry_missing: Annotated[bool, typer.Option(help="Ask again where an earlier run got no judgement.")] = False,
) -> None:
    """Have the answers judged. Judgements that are there are not asked for again."""
    from lm_eval.utils import simple_parse_args_string

    from act_eval.mt_bench.folder import ComparisonFolder
    from act_eval.mt_bench.judge import judge_answers
    from act_eval.mt_bench.settings import JudgeSettings

    settings = JudgeSettings(
        judge_model,
        judge_base_url,
        judge_key_variable,
        simple_parse_args_string(judge_args),
        concurrency,
        timeout,
        retries,
        retry_missing,
    )
    kinds = tuple(kind for kind in mode.split(",") if kind)
    for line in judge_answers(settings, kinds, ComparisonFolder(folder)):  # type: ignore[arg-type]
        console.print(line, soft_wrap=True, highlight=False)


@mt_bench.command("report")
def mt_bench_report(
    folder: MTBenchFolder,
    judge_model: Annotated[str | None, typer.Option(help="Whose judgements, where several judges were asked.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the report; the folder itself by default.")
    ] = None,
) -> None:
    """Tables and plots of what ACT changed, paired by question."""
    from act_eval.mt_bench.folder import ComparisonFolder
    from act_eval.mt_bench.report import print_scores, write_scores
    from act_eval.mt_bench.scores import make_scores

    scores = make_scores(ComparisonFolder(folder), judge_model)
    print_scores(scores, console)
    for path in write_scores(scores, output or folder):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def _evaluation(
    tasks: str,
    model_args: str,
    num_fewshot: int | None,
    limit: float | None,
    batch_size: str,
    device: str | None,
    apply_chat_template: bool,
    seeds: str,
    include_path: str | None,
) -> ComparisonSettings:
    from lm_eval.utils import simple_parse_args_string

    from act_eval.compare import ComparisonSettings

    return ComparisonSettings(
        tasks=tuple(task for task in tasks.split(",") if task),
        model_args=simple_parse_args_string(model_args),
        num_fewshot=num_fewshot,
        limit=limit,
        batch_size=batch_size,
        device=device,
        apply_chat_template=apply_chat_template,
        seeds=_seeds(seeds),
        include_path=include_path,
    )


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise InputError(f"--seeds {text!r} is not a list of whole numbers: write them as 0,42,84.") from None


def _quiet(verbose: bool) -> None:
    """Warnings as plain lines, and none of lm-eval's own messages unless they are asked for."""
    if not verbose:
        os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def _column_pattern(text: str) -> tuple[str, str]:
    column, equals, pattern = text.partition("=")
    if not equals:
        raise InputError(f"--filter {text!r} is not COLUMN=PATTERN: write it as task=mmlu_*.")
    return column, pattern


def _report(folders: list[Path], output: Path, options: ReportOptions | None = None, style: str | None = None) -> None:
    from act_eval.report.build import make_report
    from act_eval.report.tables import print_tables
    from act_eval.report.write import write_report

    report = make_report(folders, options)
    print_tables(report, console)
    for note in report.notes:
        console.print(f"not compared: {note}", soft_wrap=True, highlight=False)
    for path in write_report(report, output, style):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)
