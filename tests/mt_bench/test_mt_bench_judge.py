"""act-eval mt-bench judge and report: unreliable judges, kills, what is sent and what is not, scores computed by hand."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.judge_server import JudgeServer, a_judgement
from helpers.terminal import shown_on, terminal
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.errors import InputError
from act_eval.mt_bench.folder import ComparisonFolder, Variant
from act_eval.mt_bench.grading import make_request, parse
from act_eval.mt_bench.journal import open_journal, read_journal
from act_eval.mt_bench.judge import judge_answers, requests_of
from act_eval.mt_bench.judge_client import ATTEMPTS, JudgeError
from act_eval.mt_bench.questions import load_questions
from act_eval.mt_bench.report import print_scores, write_scores
from act_eval.mt_bench.scores import (
    PAIR_COLUMNS,
    SINGLE_COLUMNS,
    Scores,
    make_scores,
    pair_scores,
    single_scores,
    verdict,
)
from act_eval.mt_bench.settings import JudgeSettings
from act_eval.report.statistics import differs, paired_statistics

pytestmark = pytest.mark.tier("unit")

QUESTIONS = load_questions(str(Path(__file__).parent / "question.jsonl"))
JUDGE = "org/the-judge"
KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    """The client waits for milliseconds where it would wait for seconds; and there is a key."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def folder(tmp_path):
    """Answers of a baseline and of one ACT setting to six questions."""
    return with_answers(tmp_path / "comparison")


def with_answers(path, same=()):
    """A folder as `act-eval mt-bench answer` leaves it; answers of both to the questions in `same` are equal."""
    folder = ComparisonFolder(path)
    folder.start(QUESTIONS, {"model": "tiny"})
    for model_id, is_baseline in (("tiny-baseline", True), ("tiny-act", False)):
        folder.add_variant(Variant(model_id, is_baseline, "baseline" if is_baseline else "all (8 heads)", {}, {}))
        with open_journal(folder.answers_file(model_id)) as append:
            for question in QUESTIONS:
                speaker = "both" if question.question_id in same else model_id
                said = [f"{speaker} on {question.question_id}, turn {turn}" for turn in (1, 2)]
                record = {"question_id": question.question_id, "model_id": model_id, "choices": [{"index": 0, "turns": said}]}
                append({**record, "answer_id": f"{model_id} {question.question_id}"})
    return folder


def settings(server, **changes):
    return JudgeSettings(**{"model": JUDGE, "base_url": server.url, "concurrency": 4, "timeout": 300, **changes})


def prompts(folder, *kinds):
    return [request.prompt for kind in kinds or ("single", "pair") for request in requests_of(folder, kind)]


def judged(folder, kind):
    return read_journal(folder.judgements_file(JUDGE, kind))


# --- what a judge is asked


def test_every_reply_once_and_every_pair_in_both_orders(folder):
    single, pair = requests_of(folder, "single"), requests_of(folder, "pair")
    models = ("tiny-baseline", "tiny-act")
    assert len(single) == len(pair) == len(set(prompts(folder))) / 2 == 24
    for requests, orders in ((single, {models[:1], models[1:]}), (pair, {models, models[::-1]})):
        asked = {(request.question_id, request.turn, request.models) for request in requests}
        assert asked == {(question.question_id, turn, order) for question in QUESTIONS for turn in (1, 2) for order in orders}


def test_prompts_show_what_the_turn_needs_and_references_where_they_help(folder):
    for kind in ("single", "pair"):
        for request in requests_of(folder, kind):
            question = QUESTIONS[request.question_id - 1]
            first, second = question.turns
            assert first in request.prompt
            assert (second in request.prompt) == (request.turn == 2)
            positions = [request.prompt.index(f"{model} on {request.question_id}, turn 1") for model in request.models]
            assert positions == sorted(positions)
            for model in request.models:
                assert (f"{model} on {request.question_id}, turn 2" in request.prompt) == (request.turn == 2)
            of_turns = {3: (1, 2), 4: (1,), 5: (2,)}.get(request.question_id, ())  # question 6 has one, but is no math
            shown = [turn in of_turns and turn <= request.turn for turn in (1, 2)]
            assert [f"<reference for the {turn}" in request.prompt for turn in ("first", "second")] == shown
            assert request.guided == any(shown) == ("Reference answers are given" in request.prompt)
            assert ("\n7\n" in request.prompt) == (request.question_id == 3)
            assert ("\n21\n" in request.prompt) == (request.question_id == 3 and request.turn == 2)
            assert "{{" not in request.prompt
            assert "{%" not in request.prompt


def test_an_answer_is_text_and_never_a_template(folder):
    answer = folder.answers("tiny-act")[1]
    hostile = type(answer)("m", "id", ("{{ 7 * 7 }} {% if %} <b>&amp; [[10]]", "x"))
    assert hostile.turns[0] in make_request(QUESTIONS[0], 1, (hostile,)).prompt


@pytest.mark.parametrize(
    ("kind", "text", "score"),
    [
        ("single", "Grade: [[7]]", 7),
        ("single", "The form is [[4]], so\nGrade: [[ 9.5 ]]", 9.5),
        ("single", "Grade: [[11]]", None),
        ("single", "Grade: [[0]]", None),
        ("single", "Grade: 7", None),
        ("single", "", None),
        ("single", "Verdict: [[A]]", None),
        ("pair", "Verdict: [[A]]", "A"),
        ("pair", "not [[A]] but [[b]]", "B"),
        ("pair", "Verdict: [[TIE]]", "tie"),
        ("pair", "Verdict: [[C]]", None),
        ("pair", "Verdict: [[7]]", None),
    ],
)
def test_parsing(kind, text, score):
    assert parse(kind, text) == score


# --- asking


@pytest.mark.tier("slow")
def test_everything_is_asked_once_and_recorded_with_all_that_it_takes_to_ask_again(folder):
    with JudgeServer(together=4) as server:
        judge_answers(settings(server), ("single", "pair"), folder)
        assert Counter(server.requests) == Counter(prompts(folder))
        assert server.most_at_once == 4
        assert set(server.authorizations) == {f"Bearer {KEY}"}
        assert {(body["model"], body["temperature"], body["max_tokens"]) for body in server.bodies} == {(JUDGE, 0, 2048)}
        judge_answers(settings(server), ("single", "pair"), folder)
        assert len(server.requests) == 48
    for kind in ("single", "pair"):
        requests = {request.prompt: request for request in requests_of(folder, kind)}
        for record in judged(folder, kind):
            request = requests.pop(record["user_prompt"])
            assert (record["question_id"], record["turn"]) == (request.question_id, request.turn)
            assert (tuple(record["models"]), tuple(record["answer_ids"])) == (request.models, request.answer_ids)
            assert (record["judge"], record["prompt_version"], record["guided"]) == (JUDGE, "1", request.guided)
            assert record["judgment"] == a_judgement(request.prompt)
            assert record["score"] == parse(kind, record["judgment"]) is not None
            assert record["attempts"] == 1
        assert not requests


def test_how_far_the_judge_is(folder):
    """Judgements that are there count as done."""
    with JudgeServer() as server:
        judge_answers(settings(server), ("single",), folder, first := terminal())
        judge_answers(settings(server), ("single", "pair"), folder, second := terminal())
    assert f"{JUDGE}, single" in shown_on(first)
    assert "24 of 24 judgements" in shown_on(first)
    of_single, _, of_pair = shown_on(second).partition(f"{JUDGE}, pair")
    assert "24 of 24 judgements" in of_single
    assert "24 of 24 judgements" in of_pair


def test_equal_answers_share_a_judgement(tmp_path):
    folder = with_answers(tmp_path, same=(2,))
    with JudgeServer() as server:
        judge_answers(settings(server), ("single", "pair"), folder)
    assert max(Counter(server.requests).values()) == 1
    assert len(server.requests) == 48 - 4
    writing = make_scores(folder).pair.set_index(["category", "turn"]).loc[("writing", "both")]
    assert writing["tie"] >= 2  # also where the judge prefers A both times


@pytest.mark.tier("slow")
def test_a_judge_that_fails_half_the_time(folder):
    """HTTP 500 and 429, and dropped connections: everything is answered, and nothing twice."""
    failures = [(500, b"no"), (429, b'{"error": {"message": "slow down"}}'), None]

    def flaky(prompt, before):
        return a_judgement(prompt) if (sum(map(ord, prompt)) + before) % 2 else failures[(len(prompt) + before) % 3]

    with JudgeServer(flaky) as server:
        judge_answers(settings(server), ("single", "pair"), folder)
    assert len(server.requests) > 60
    assert Counter(server.answered) == Counter(prompts(folder))
    assert all(record["attempts"] == 1 for kind in ("single", "pair") for record in judged(folder, kind))


MALFORMED = [
    "I would rather not.",
    "Grade: [[99]]",
    (200, b'{"choices": ['),
    (200, b'{"choices": []}'),
    (200, b"null"),
    (200, b'{"choices": [{"message": {"content": null}}]}'),
    (200, b"\xff\xfe"),
]


@pytest.mark.tier("slow")
def test_malformed_answers_are_asked_for_again(folder):
    malformed = {prompt: MALFORMED[number % len(MALFORMED)] for number, prompt in enumerate(prompts(folder))}
    with JudgeServer(lambda prompt, before: malformed[prompt] if before == 0 else a_judgement(prompt)) as server:
        judge_answers(settings(server), ("single", "pair"), folder)
    assert set(Counter(server.requests).values()) == {2}
    assert {record["attempts"] for record in judged(folder, "single")} == {2}


@pytest.mark.tier("slow")
def test_what_stays_malformed_is_missing_and_nothing_is_lost(folder):
    bad = {request.prompt for request in requests_of(folder, "single") if request.question_id == 5}
    with JudgeServer(lambda prompt, _: "No grade from me." if prompt in bad else a_judgement(prompt)) as server:
        with pytest.raises(JudgeError, match=r"4 of 48 judgements are missing: the judge gave no grade.*question 5 turn 1"):
            judge_answers(settings(server), ("single", "pair"), folder)
        assert {prompt: count for prompt, count in Counter(server.requests).items() if count > 1} == dict.fromkeys(
            bad, ATTEMPTS
        )
        records = judged(folder, "single")
        assert {record["user_prompt"] for record in records if record["score"] is None} == bad
        assert {record["judgment"] for record in records if record["score"] is None} == {"No grade from me."}
        assert len(records) == 24
        sent = len(server.requests)
        with pytest.raises(JudgeError, match="4 of 48 judgements are missing"):
            judge_answers(settings(server), ("single", "pair"), folder)
        assert len(server.requests) == sent
        notes = make_scores(folder).notes
        assert [re.search(r"\d of 12 replies have no single judgement", note) is not None for note in notes] == [True]
        server.answer = lambda prompt, _: a_judgement(prompt)
        judge_answers(settings(server, retry_missing=True), ("single", "pair"), folder)
        assert set(server.requests[sent:]) == bad
    assert not make_scores(folder).notes


@pytest.mark.tier("slow")
def test_a_refused_request_does_not_stop_the_others(folder):
    refused = {request.prompt for request in requests_of(folder, "single") if request.question_id == 1 and request.turn == 2}
    reply = (400, b'{"error": {"message": "against our policy"}}')
    with JudgeServer(lambda prompt, _: reply if prompt in refused else a_judgement(prompt)) as server:
        with pytest.raises(JudgeError, match=r"2 of 24 judgements are missing: .*HTTP|policy.*question 1 turn 2"):
            judge_answers(settings(server), ("single",), folder)
        assert len(judged(folder, "single")) == 22
        sent = len(server.requests)
        server.answer = lambda prompt, _: a_judgement(prompt)
        judge_answers(settings(server), ("single",), folder)
        assert set(server.requests[sent:]) == refused


@pytest.mark.tier("slow")
@pytest.mark.parametrize(
    ("reply", "culprit", "most"),
    [
        ((401, b'{"error": {"message": "bad key"}}'), "refuses the key .HTTP 401.: check OPENAI_API_KEY", 4),
        ((403, b"no"), "refuses the key .HTTP 403.", 4),
        ((404, b"no"), f"has no model '{JUDGE}'", 4),
        ((503, b'{"error": {"message": "overloaded"}}'), "still fails after 3 tries .*overloaded", 12),
        (None, "cannot be reached after 3 tries", 12),
    ],
)
def test_a_judge_that_always_fails_ends_the_run_with_one_line(folder, reply, culprit, most):
    """What was judged before stays; other requests that are under way are waited for."""
    with JudgeServer() as server:
        server.answer = lambda prompt, _: a_judgement(prompt) if len(server.answered) < 6 else reply
        with pytest.raises(JudgeError, match=culprit) as raised:
            judge_answers(settings(server, retries=2), ("single", "pair"), folder)
        assert "\n" not in str(raised.value)
        assert len(judged(folder, "single")) == len(server.answered) >= 6
        assert len(server.requests) <= len(server.answered) + most
        server.answer = lambda prompt, _: a_judgement(prompt)
        judge_answers(settings(server), ("single", "pair"), folder)
        assert Counter(server.answered) == Counter(prompts(folder))


@pytest.mark.tier("slow")
def test_requests_under_way_are_waited_for(folder):
    """One request fails for good while others are under way: what they cost is not wasted, and no more are sent than these."""
    first = prompts(folder, "single")[0]
    failed = threading.Event()

    def one_fails(prompt, _):
        if prompt == first:
            failed.set()
            return 404, b"no"
        assert failed.wait(300)
        return a_judgement(prompt)

    with JudgeServer(one_fails, together=4) as server, pytest.raises(JudgeError, match="HTTP 404"):
        judge_answers(settings(server), ("single",), folder)
    # Those that were answered before the client saw the failure made room for others.
    assert 3 <= len(server.answered) == len(judged(folder, "single")) < len(prompts(folder, "single")) - 1


@pytest.mark.tier("slow")
def test_a_slow_judge_times_out(folder):
    with (
        JudgeServer(answers_before_waiting=0) as server,
        pytest.raises(JudgeError, match=r"cannot be reached after 1 tries .*timed out"),
    ):
        judge_answers(settings(server, timeout=0.05, retries=0), ("single",), folder)


@pytest.mark.tier("slow")
def test_an_unreachable_judge(folder, capsys, monkeypatch, request):
    taken = socket.socket()  # so that no other process listens at its port
    request.addfinalizer(taken.close)
    taken.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    before = {file: file.read_bytes() for file in folder.path.glob("model_answer/*")}
    arguments = ["mt-bench", "judge", str(folder.path), "--judge-model", JUDGE, "--judge-base-url", url, "--retries", "1"]
    monkeypatch.setattr(sys, "argv", ["act-eval", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("act-eval: ")]
    assert len(lines) == 1
    assert re.search(rf"{url} cannot be reached after 2 tries .*check judge_base_url", lines[0])
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.tier("slow")
def test_the_key_is_never_written_or_shown(folder, capsys, caplog):
    """Not even where the judge repeats it, in a judgement and in an error."""
    caplog.set_level("DEBUG")
    echo = (400, json.dumps({"error": {"message": f"you sent {KEY}"}}).encode())
    with JudgeServer() as server:
        server.answer = lambda prompt, _: echo if len(server.requests) % 5 == 0 else f"{KEY} {a_judgement(prompt)}"
        with pytest.raises(JudgeError, match=r"you sent \*\*\*") as raised:
            judge_answers(settings(server), ("single", "pair"), folder)
        server.answer = lambda prompt, _: (401, echo[1])
        with pytest.raises(JudgeError, match="refuses the key") as again:
            judge_answers(settings(server), ("single", "pair"), folder)
        assert f"Bearer {KEY}" in server.authorizations
    shown = capsys.readouterr()
    texts = [shown.out, shown.err, caplog.text, str(raised.value), str(again.value), repr(settings(server))]
    texts += [file.read_text() for file in folder.path.rglob("*") if file.is_file()]
    assert any("*** Some words" in text for text in texts)
    assert not [text for text in texts if KEY in text]


@pytest.mark.tier("process")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_judge_goes_on(folder, kill):
    """What was on disk is not asked for again, and in the end everything is there once.

    The judge waits for the kill: it gives six answers, and no more before.
    """
    with JudgeServer(answers_before_waiting=6) as server:
        command = [str(Path(sys.executable).with_name("act-eval")), "mt-bench", "judge", str(folder.path)]
        command += ["--judge-model", JUDGE, "--judge-base-url", server.url, "--concurrency", "2"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        server.wait_until(lambda: len(server.requests) == 8)
        while len(judged(folder, "single")) < 6 and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, kill)
        error = process.communicate()[1].decode()
        assert "Traceback" not in error
        if kill == signal.SIGINT:
            assert process.returncode == 130
            assert error.endswith("act-eval: interrupted: the same command goes on where it stopped.\n")
        file = folder.judgements_file(JUDGE, "single")
        on_disk = {record["user_prompt"] for record in judged(folder, "single")}
        assert len(on_disk) == 6
        with file.open("ab") as end:
            end.write(b'{"question_id": 1, "user_pro')
        server.let_go()
        server.wait_until(lambda: server.at_once == 0)
        sent = len(server.requests)
        judge_answers(settings(server), ("single", "pair"), folder)
        assert not on_disk & set(server.requests[sent:])
        assert len(server.requests) - sent == 48 - len(on_disk)
    recorded = [record["user_prompt"] for kind in ("single", "pair") for record in judged(folder, kind)]
    assert Counter(recorded) == Counter(prompts(folder))


def test_two_judges_at_once_are_refused(folder):
    with JudgeServer(answers_before_waiting=0) as server:
        first = threading.Thread(target=judge_answers, args=(settings(server), ("single",), folder))
        first.start()
        server.wait_until(lambda: bool(server.requests))
        with pytest.raises(InputError, match="another process is writing"):
            judge_answers(settings(server), ("single",), folder)
        server.let_go()
        first.join()
    assert Counter(server.requests) == Counter(prompts(folder, "single"))


# --- bad input


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"base_url": "localhost:8000"}, "not a URL"),
        ({"base_url": "https://me:pass@host/v1"}, "holds a user name or password"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"timeout": 0}, "timeout must be above 0"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"key_variable": "NO_SUCH_VARIABLE", "base_url": "https://api.openai.com/v1"}, "NO_SUCH_VARIABLE is not set"),
    ],
)
def test_bad_settings(changes, culprit):
    with pytest.raises(InputError, match=culprit) as raised:
        JudgeSettings(JUDGE, **changes)
    assert "me:pass" not in str(raised.value)


def test_other_arguments_go_to_another_folder(folder):
    with JudgeServer() as server:
        judge_answers(settings(server), ("single",), folder)
        sent = len(server.requests)
        with pytest.raises(InputError, match="judgements with another arguments"):
            judge_answers(settings(server, arguments={"temperature": 1}), ("single",), folder)
        with pytest.raises(InputError, match="mode double"):
            judge_answers(settings(server), ("double",), folder)
        assert len(server.requests) == sent


@pytest.mark.parametrize("text", ["{bad", "max_tokens"])
def test_arguments_that_cannot_be_read(folder, text):
    arguments = ["mt-bench", "judge", str(folder.path), "--judge-model", JUDGE, "--judge-args", text]
    refused = CliRunner().invoke(cli.app, arguments).exception
    assert isinstance(refused, InputError)
    assert str(refused) == "--judge-args cannot be read: write it as a=1,b=2, or as JSON."


def test_a_file_of_others_is_not_written_over(folder):
    file = folder.path / "model_judgment" / "org_the-judge.json"
    file.parent.mkdir()
    file.write_text('{"author": "me"}')
    with JudgeServer() as server, pytest.raises(InputError, match=r"org_the-judge\.json was not written by act-eval mt-bench"):
        judge_answers(settings(server), ("single",), folder)
    assert file.read_text() == '{"author": "me"}'


def test_arguments_that_the_judge_refuses_can_be_changed(folder):
    with JudgeServer(lambda *_: (400, b'{"error": {"message": "unsupported max_tokens"}}')) as server:
        with pytest.raises(JudgeError, match=r"24 of 24 judgements are missing: the judge refuses the request .*max_tokens"):
            judge_answers(settings(server), ("single",), folder)
        server.answer = lambda prompt, _: a_judgement(prompt)
        judge_answers(settings(server, arguments={"max_completion_tokens": 9}), ("single",), folder)
        assert {body.get("max_completion_tokens") for body in server.bodies[-24:]} == {9}
    assert len(judged(folder, "single")) == 24


@pytest.mark.parametrize("key", ["sk-two words", "sk-two\nlines", "sk-é"])
def test_a_key_that_cannot_be_sent(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match="OPENAI_API_KEY holds what no API key has") as raised:
        JudgeSettings(JUDGE)
    assert key[3:] not in str(raised.value)


def test_space_around_the_key_is_left_out(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert JudgeSettings(JUDGE).key == KEY


def test_nothing_to_judge(tmp_path):
    with pytest.raises(InputError, match="holds no answers to MT-Bench: run act-eval mt-bench answer"):
        judge_answers(JudgeSettings(JUDGE, "http://localhost/v1"), ("single",), ComparisonFolder(tmp_path))


def test_without_the_openai_package(folder, monkeypatch):
    monkeypatch.setattr("act_eval.mt_bench.judge.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'act-eval\[judge\]'"):
        judge_answers(JudgeSettings(JUDGE, "http://localhost/v1"), ("single",), folder)


# --- scores


@pytest.mark.parametrize(
    ("baseline_first", "act_first", "outcome"),
    [("B", "A", 1), ("A", "B", -1), ("A", "A", 0), ("B", "B", 0), ("tie", "A", 0), ("B", "tie", 0), ("tie", "tie", 0)],
)
def test_a_win_needs_both_orders(baseline_first, act_first, outcome):
    assert verdict(baseline_first, act_first) == outcome


def test_a_missing_order_is_missing():
    assert np.isnan(verdict(None, "A"))
    assert np.isnan(verdict("B", None))


def replies(rows):
    """Rows of category, question, turn, baseline and calibrated."""
    table = pd.DataFrame(rows, columns=["category", "question_id", "turn", "baseline", "calibrated"])
    return table.assign(model="m", settings="s").astype({"baseline": float, "calibrated": float})


def row(scores, category, turn):
    return scores.set_index(["category", "turn"]).loc[(category, turn)]


def test_single_scores_by_hand():
    nan = float("nan")
    table = single_scores(
        replies(
            [
                ("math", 1, 1, 4, 6),
                ("math", 1, 2, 2, 6),
                ("math", 2, 1, 8, 7),
                ("math", 2, 2, 6, nan),
                ("writing", 3, 1, 5, 5),
                ("writing", 3, 2, 9, 10),
            ]
        )
    )
    assert tuple(table.columns) == SINGLE_COLUMNS
    assert list(zip(table["category"], table["turn"], table["n"], strict=True)) == [
        *[("math", "1", 2), ("math", "2", 1), ("math", "both", 1)],
        *[("writing", "1", 1), ("writing", "2", 1), ("writing", "both", 1)],
        *[("all", "1", 3), ("all", "2", 2), ("all", "both", 2)],
    ]
    assert row(table, "math", "1")[["baseline", "act", "delta"]].tolist() == [6, 6.5, 0.5]
    assert row(table, "math", "both")[["baseline", "act", "delta"]].tolist() == [3, 6, 3]
    assert row(table, "all", "both")[["baseline", "act", "delta"]].tolist() == [5, 6.75, 1.75]
    low, high = row(table, "all", "both")[["low", "high"]]
    assert -9 <= low < 0.5  # the means over turns are 3 and 0.5, and two questions leave room for much else
    assert 3 < high <= 9


def test_both_turns_are_not_taken_for_two_questions():
    """Where the turns of a question agree, they tell no more than one of them: the interval must not shrink."""
    rng = np.random.default_rng(0)
    differences = rng.integers(-3, 4, 40)
    rows = [("math", question, turn, 5, 5 + difference) for question, difference in enumerate(differences) for turn in (1, 2)]
    table = single_scores(replies(rows))
    one, both = row(table, "math", "1"), row(table, "math", "both")
    assert both[["n", "low", "high"]].tolist() == one[["n", "low", "high"]].tolist()


def test_pair_scores_by_hand():
    outcomes = [1, 1, 1, 1, 1, 0, 0, -1]
    rows = [("math", question, turn, 0, outcome) for question, outcome in enumerate(outcomes) for turn in (1, 2)]
    table = pair_scores(replies([*rows, ("math", 99, 1, 0, float("nan"))]))
    assert tuple(table.columns) == PAIR_COLUMNS
    first, both = row(table, "math", "1"), row(table, "math", "both")
    assert first[["n", "win", "tie", "loss"]].tolist() == [8, 5, 2, 1]
    assert first["delta"] == pytest.approx(4 / 8)
    assert first["p"] == pytest.approx(binomtest(5, 6).pvalue)
    assert both[["n", "win", "tie", "loss"]].tolist() == [8, 10, 4, 2]
    assert both["p"] == first["p"], "turns that agree tell no more than one"
    assert both["low"] < both["delta"] < both["high"]
    wins, losses = np.array(outcomes) == 1, np.array(outcomes) == -1
    same = paired_statistics(losses.astype(float), wins.astype(float))
    assert first[["low", "high", "interval"]].tolist() == [same["low"], same["high"], "posterior"]


@pytest.mark.parametrize("compute", [single_scores, pair_scores])
def test_categories_are_corrected_for_their_number(compute):
    """Six questions of each of two categories get better, and one of another: enough for one category, not for three."""
    won = {"math": 6, "writing": 6, "roleplay": 1}
    rows = [
        (category, 10 * number + question, turn, 0, float(question < won[category]))
        for number, category in enumerate(won)
        for question in range(6)
        for turn in (1, 2)
    ]
    table = compute(replies(rows))
    for _, of_turn in table.groupby("turn"):
        of_categories = of_turn[of_turn["category"] != "all"]
        _, corrected, *_ = multipletests(of_categories["p"], method="holm")
        assert of_categories["p_holm"].tolist() == pytest.approx(corrected.tolist())
        assert of_turn.loc[of_turn["category"] == "all", "p_holm"].isna().all()
    is_marked = differs(table)
    assert is_marked[table["category"] == "all"].all()
    if compute is pair_scores:
        of_both = row(table, "math", "both")
        assert of_both["low"] > 0
        assert [of_both["p"], of_both["p_holm"]] == pytest.approx([2 / 2**6, 3 * 2 / 2**6]), "0.03 and 0.09"
        assert not is_marked[table["category"] != "all"].any()


def test_scores_are_those_that_the_judge_gave(folder):
    """ACT gets its question's number plus the turn, the baseline always 2; and the judge prefers ACT but for question 6."""

    def likes_act(prompt, _):
        model, question, turn = re.findall(r"(tiny-\w+) on (\d), turn (\d)", prompt)[-1]
        if "[[tie]]" not in prompt:
            return f"Grade: [[{int(question) + int(turn) if model == 'tiny-act' else 2}]]"
        act_is_b = prompt.index("tiny-act") > prompt.index("tiny-baseline")
        return "Verdict: [[A]]" if question == "6" else f"Verdict: [[{'B' if act_is_b else 'A'}]]"

    with JudgeServer(likes_act) as server:
        judge_answers(settings(server), ("single", "pair"), folder)
    scores = make_scores(folder)
    assert scores.judge == JUDGE
    assert row(scores.single, "math", "1")[["baseline", "act", "n"]].tolist() == [2, 4.5, 2]
    assert row(scores.single, "math", "2")[["baseline", "act", "n"]].tolist() == [2, 5.5, 2]
    assert row(scores.single, "all", "both")["act"] == pytest.approx(3.5 + 1.5)
    assert row(scores.pair, "all", "1")[["win", "tie", "loss"]].tolist() == [5, 1, 0]
    assert row(scores.pair, "humanities", "both")[["win", "tie", "loss"]].tolist() == [0, 2, 0]


@pytest.mark.tier("slow")
def test_report_files_and_terminal(folder, tmp_path, capsys):
    with JudgeServer() as server:
        judge_answers(settings(server), ("single", "pair"), folder)
    result = CliRunner().invoke(cli.app, ["mt-bench", "report", str(folder.path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    names = {
        "scores.md",
        "scores.tex",
        "single.csv",
        "pair.csv",
        "radar.png",
        "radar.svg",
        "differences.png",
        "differences.svg",
    }
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    scores = make_scores(folder)
    total = row(scores.single, "all", "both")
    text = f"{total['delta']:+.2f}"
    markdown = (tmp_path / "out" / "scores.md").read_text()
    for shown in (result.output, markdown):
        assert re.search(rf"all\W+both\W+6\W+{total['baseline']:.2f}\W+{total['act']:.2f}\W+{re.escape(text[1:])}", shown)
    assert markdown.count("| writing ") == 6
    assert "\\toprule" in (tmp_path / "out" / "scores.tex").read_text()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "single.csv", dtype={"turn": str}), scores.single)
    assert ">humanities<" in (tmp_path / "out" / "radar.svg").read_text()


@pytest.mark.tier("slow")
def test_a_report_of_pairs_alone(folder, tmp_path):
    with JudgeServer() as server:
        judge_answers(settings(server), ("pair",), folder)
    scores = make_scores(folder)
    assert scores.single.empty
    assert not scores.notes
    names = {file.name for file in write_scores(scores, tmp_path / "out")}
    assert names == {"scores.md", "scores.tex", "pair.csv", "differences.png", "differences.svg"}
    of_grades = ("single.csv", "radar.png", "radar.svg")
    for name in (*of_grades, "notes.csv"):
        (tmp_path / "out" / name).touch()
    write_scores(scores, tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == names | {"notes.csv"}, "those of an earlier report are gone"


def test_notes_that_look_like_markup_are_shown_as_they_are():
    nothing = pd.DataFrame(columns=list(SINGLE_COLUMNS)), pd.DataFrame(columns=list(PAIR_COLUMNS))
    console = terminal()
    print_scores(Scores("judge", *nothing, ("my[model] (all): [/x] a:cat:b",)), console)
    assert shown_on(console) == "my[model] (all): [/x] a:cat:b\n"


def test_incomplete_answers_are_noted_and_do_not_count(folder):
    file = folder.answers_file("tiny-act")
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:4]))
    with JudgeServer() as server:
        judge_answers(settings(server), ("single", "pair"), folder)
    scores = make_scores(folder)
    assert row(scores.single, "all", "both")["n"] == row(scores.pair, "all", "both")["n"] == 4
    assert scores.notes == ("tiny-act (all (8 heads)): 4 of 6 questions have answers of both baseline and ACT.",)


def test_which_judge(folder):
    with pytest.raises(InputError, match="holds no judgements: run act-eval mt-bench judge"):
        make_scores(folder)
    with JudgeServer() as server:
        for judge in ("one", "two"):
            judge_answers(settings(server, model=judge), ("pair",), folder)
    with pytest.raises(InputError, match="judgements of one, two: choose one of them as judge_model"):
        make_scores(folder)
    with pytest.raises(InputError, match="no judgements of three"):
        make_scores(folder, "three")
    assert make_scores(folder, "two").judge == "two"


def test_a_judge_that_said_nothing_is_none(folder):
    with JudgeServer() as server:
        judge_answers(settings(server), ("pair",), folder)
        server.answer = lambda *_: (401, b"no")
        with pytest.raises(JudgeError):
            judge_answers(settings(server, model="silent"), ("pair",), folder)
    assert make_scores(folder).judge == JUDGE
