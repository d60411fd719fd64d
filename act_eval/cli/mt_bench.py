"""`act-eval mt-bench`: answers, a judge, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from act_eval.cli.failures import DEBUG_HELP, goes_on
from act_eval.cli.options import DOCUMENTS, OUTPUT, PROMPTS, RUNNING, Verbose, names, option, values_by_name, with_settings
from act_eval.cli.terminal import console, quiet, say, say_written
from act_eval.harness.settings import ModelSettings
from act_eval.mt_bench.settings import DEFAULT_KEY_VARIABLE, DEFAULT_URL, JudgeSettings

app = typer.Typer(
    help="MT-Bench: two-turn answers with and without ACT, a judge, and paired scores.\n\n"
    "Example: act-eval mt-bench answer --model-args pretrained=M,act_profile=all --output chat",
    epilog=DEBUG_HELP,
    no_args_is_help=True,
)

JUDGE = "Judge"

AnswersFolder = Annotated[Path, typer.Argument(help="Folder that act-eval mt-bench answer wrote.")]


@app.command(epilog=DEBUG_HELP)
@with_settings(batch_size="8")
@goes_on
def answer(
    *,
    output: Annotated[Path, option(OUTPUT, "Folder of the comparison, laid out as FastChat's.", "--output", "-o")],
    model: ModelSettings,
    questions: Annotated[
        str, option(DOCUMENTS, "FastChat's question.jsonl, or the id of a dataset on the hub.")
    ] = "HuggingFaceH4/mt_bench_prompts",
    limit: Annotated[int | None, option(DOCUMENTS, "Questions of each category.", default="all")] = None,
    temperatures: Annotated[str, option(PROMPTS, "greedy, or category: FastChat's temperature of each category.")] = "greedy",
    max_new_tokens: Annotated[int, option(PROMPTS, "Where each reply ends at the latest.")] = 1024,
    seed: Annotated[int, option(PROMPTS, "Of sampled replies; each question and turn has random numbers of its own.")] = 1234,
    chat_template: Annotated[
        Path | None, option(PROMPTS, "A Jinja file in place of the tokenizer's chat template.", default="the tokenizer's")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Answer the questions with baseline and ACT, the model loaded once. Answers that are there are not made again.

    Example: act-eval mt-bench answer --model-args pretrained=M,act_profile=all --output chat
    """
    quiet(verbose)

    from act_eval.mt_bench.answers import AnswerSettings, write_answers
    from act_eval.mt_bench.questions import load_questions

    settings = AnswerSettings(model, temperatures, max_new_tokens, seed, chat_template)  # type: ignore[arg-type]
    say(write_answers(settings, load_questions(questions), limit, output))


@app.command(epilog=DEBUG_HELP)
@with_settings()
@goes_on
def judge(
    folder: AnswersFolder,
    judge_model: Annotated[str, option(JUDGE, "The judge's name at the endpoint.")],
    judge_base_url: Annotated[str, option(JUDGE, "Of an OpenAI-compatible endpoint, up to /v1.")] = DEFAULT_URL,
    judge_key_variable: Annotated[
        str, option(JUDGE, "The environment variable that holds the API key, if the endpoint needs one.")
    ] = DEFAULT_KEY_VARIABLE,
    judge_args: Annotated[str, option(JUDGE, "What else goes into each request.")] = "temperature=0,max_tokens=2048",
    mode: Annotated[
        str, option(JUDGE, "single (a grade from 1 to 10 for each reply), pair (ACT against baseline), or both.")
    ] = "single,pair",
    concurrency: Annotated[int, option(RUNNING, "Requests that are under way at once.")] = 8,
    timeout: Annotated[float, option(RUNNING, "Seconds to wait for an answer.")] = 120,
    retries: Annotated[int, option(RUNNING, "How often a request that failed on the way is sent again.")] = 6,
    retry_missing: Annotated[bool, option(RUNNING, "Ask again where an earlier run got no judgement.")] = False,
) -> None:
    """Have the answers judged. Judgements that are there are not asked for again.

    Example: act-eval mt-bench judge chat --judge-model gpt-4
    """
    from act_eval.mt_bench.folder import ComparisonFolder
    from act_eval.mt_bench.judge import judge_answers

    settings = JudgeSettings(
        judge_model,
        judge_base_url,
        judge_key_variable,
        values_by_name("judge_args", judge_args),
        concurrency,
        timeout,
        retries,
        retry_missing,
    )
    say(judge_answers(settings, names(mode), ComparisonFolder(folder)))  # type: ignore[arg-type]


@app.command(epilog=DEBUG_HELP)
@with_settings()
def report(
    folder: AnswersFolder,
    judge_model: Annotated[
        str | None, option(JUDGE, "Whose judgements, where several judges were asked.", default="the only judge's")
    ] = None,
    output: Annotated[Path | None, option(OUTPUT, "Folder for the report.", "--output", "-o", default="FOLDER itself")] = None,
) -> None:
    """Tables and plots of what ACT changed, paired by question.

    Example: act-eval mt-bench report chat
    """
    from act_eval.mt_bench.folder import ComparisonFolder
    from act_eval.mt_bench.report import print_scores, write_scores
    from act_eval.mt_bench.scores import make_scores

    scores = make_scores(ComparisonFolder(folder), judge_model)
    print_scores(scores, console)
    say_written(write_scores(scores, output or folder))
