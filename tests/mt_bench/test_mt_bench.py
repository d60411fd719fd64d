"""act-eval mt-bench answer: questions, chat templates, sampling, batches, resuming, FastChat's format."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.terminal import shown_on, terminal
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from act_eval import ACT
from act_eval.cli import app as cli
from act_eval.demo import MODEL_PATH
from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings
from act_eval.mt_bench import answers as answers_module
from act_eval.mt_bench.answers import CATEGORY_TEMPERATURES, AnswerSettings, write_answers
from act_eval.mt_bench.folder import ComparisonFolder
from act_eval.mt_bench.generation import Sampling, SeededSampling
from act_eval.mt_bench.journal import open_journal, read_journal
from act_eval.mt_bench.questions import load_questions

pytestmark = pytest.mark.tier("model")

HERE = Path(__file__).parent
ALL_HEADS = ModelSettings({"act_profile": "all"}, device="cpu")
QUESTIONS, TEMPLATE = HERE / "question.jsonl", HERE / "chat.jinja"
ACT_ARGUMENTS = {"act_profile": "all", "act_threshold": 0.02, "act_beta": 0.0}
NEW_TOKENS = 10


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several threads cost a tiny model more than they save, a lot more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A random-weight Llama with the embedded model's tokenizer and a chat template: nonsense, but definite nonsense."""
    folder = tmp_path_factory.mktemp("models") / "tiny-chat"
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=828,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    tokenizer.chat_template = TEMPLATE.read_text()
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def questions():
    return load_questions(str(QUESTIONS))


def settings(chat_model, **changes):
    model = {"model_args": {"pretrained": str(chat_model), **ACT_ARGUMENTS}, "device": "cpu", "batch_size": 4}
    model |= {name: changes.pop(name) for name in model if name in changes}
    return AnswerSettings(ModelSettings(**model), **{"max_new_tokens": NEW_TOKENS, **changes})


def turns(folder):
    """What was said, by whether it is the baseline and by question."""
    variants = ComparisonFolder(folder).variants()
    return {
        variant.is_baseline: {
            question: answer.turns for question, answer in ComparisonFolder(folder).answers(variant.model_id).items()
        }
        for variant in variants
    }


@pytest.fixture(scope="module")
def answered(chat_model, questions, tmp_path_factory):
    output = tmp_path_factory.mktemp("answered")
    write_answers(settings(chat_model), questions, None, output)
    return output


def test_the_format_is_fastchats(answered, questions):
    assert (answered / "question.jsonl").read_text() == QUESTIONS.read_text()
    files = sorted((answered / "model_answer").glob("*.jsonl"))
    assert [file.stem for file in files] == sorted(variant.model_id for variant in ComparisonFolder(answered).variants())
    for file in files:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert sorted(line["question_id"] for line in lines) == [question.question_id for question in questions]
        assert len({line["answer_id"] for line in lines}) == len(lines)
        for line in lines:
            assert set(line) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
            assert line["model_id"] == file.stem
            (choice,) = line["choices"]
            assert choice["index"] == 0
            assert [type(turn) for turn in choice["turns"]] == [str, str]


def test_the_files_say_what_was_run(answered):
    baseline, act = ComparisonFolder(answered).variants()
    assert (baseline.is_baseline, act.is_baseline) == (True, False)
    assert (baseline.settings, act.settings) == ("baseline", "all (8 heads), beta 0, threshold 0.02")
    assert act.model_id.startswith("tiny-chat-act-")
    assert set(act.versions) == {"act-eval", "lm-eval", "torch", "transformers"}


@pytest.mark.parametrize("is_baseline", [True, False])
def test_greedy_answers_are_those_of_plain_generation(chat_model, answered, questions, is_baseline):
    """Alone, without padding, through transformers and the context manager; the second turn sees the first answer."""
    model = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    said = turns(answered)
    assert sum(said[True][question] != said[False][question] for question in said[True]) > 3
    act = ACT("none") if is_baseline else ACT("all", threshold=0.02, beta=0.0)
    for question in questions[:3]:
        messages = []
        for turn, answer in zip(question.turns, said[is_baseline][question.question_id], strict=True):
            messages.append({"role": "user", "content": turn})
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")
            with act(model):
                output = model.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False)
            expected = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
            assert answer == expected
            messages.append({"role": "assistant", "content": answer})


@pytest.mark.tier("slow")
@pytest.mark.parametrize("temperatures", ["greedy", "category"])
def test_answers_do_not_depend_on_batch_and_order(chat_model, questions, answered, tmp_path, temperatures):
    write_answers(settings(chat_model, temperatures=temperatures, batch_size=1), questions, None, tmp_path / "1")
    if temperatures == "category":
        write_answers(settings(chat_model, temperatures=temperatures, batch_size=5), questions[::-1], None, tmp_path / "5")
    assert turns(tmp_path / "1") == turns(answered if temperatures == "greedy" else tmp_path / "5")


def test_temperatures_are_those_of_the_category_and_seeds_those_of_the_question(chat_model, questions):
    drawn = settings(chat_model, temperatures="category")
    for question in questions:
        first, second = (drawn.sampling(question, turn) for turn in (1, 2))
        assert first.temperature == second.temperature == CATEGORY_TEMPERATURES[question.category]
        assert settings(chat_model).sampling(question, 1).temperature == 0
    seeds = [drawn.sampling(question, turn).seed for question in questions for turn in (1, 2)]
    assert len(set(seeds)) == len(seeds)
    assert settings(chat_model, temperatures="category", seed=5).sampling(questions[0], 1).seed not in seeds


def test_sampling_draws_from_the_softmax():
    logits, temperature, rows = torch.tensor([1.0, 0.5, -1.0, -torch.inf]), 0.7, 6000
    noisy = SeededSampling([Sampling(temperature, seed) for seed in range(rows)])(torch.empty(0), logits.expand(rows, -1))
    counts = Counter(noisy.argmax(-1).tolist())
    expected = torch.softmax(logits / temperature, -1)
    for token, probability in enumerate(expected.tolist()):
        assert abs(counts[token] / rows - probability) <= 4 * (probability * (1 - probability) / rows) ** 0.5
    greedy = SeededSampling([Sampling(0.0, 1), Sampling(temperature, 2)])
    assert torch.equal(greedy(torch.empty(0), logits.expand(2, -1))[0], logits)


def test_sampling_goes_on_from_token_to_token():
    sampling, logits = SeededSampling([Sampling(1.0, 3)]), torch.zeros(1, 50)
    first, second = (sampling(torch.empty(0), logits) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(logits, torch.zeros(1, 50))


def test_a_full_window_ends_answers(chat_model, questions, tmp_path):
    """Room for 4 tokens after some first turns and for none after their second ones; others in the batch do not notice."""
    small = tmp_path / "small-window"
    shutil.copytree(chat_model, small)
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 80}))
    write_answers(settings(small, batch_size=6), questions, None, tmp_path / "6")
    write_answers(settings(small, batch_size=1), questions, None, tmp_path / "1")
    assert turns(tmp_path / "6") == turns(tmp_path / "1")
    lengths = [tuple(map(len, said)) for said in turns(tmp_path / "6")[True].values()]
    assert any(second == 0 for _, second in lengths)
    assert any(first and second for first, second in lengths)


def test_batches_that_do_not_fit_into_memory_are_halved(chat_model, questions, answered, tmp_path, monkeypatch):
    original, sizes = LlamaForCausalLM.generate, []

    def generate(self, input_ids, **kwargs):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    write_answers(settings(chat_model, batch_size=6), questions, None, tmp_path)
    assert sizes[:7] == [6, 3, 2, 1, 3, 2, 1]
    assert turns(tmp_path) == turns(answered)


def test_logits_that_are_not_numbers_are_refused(chat_model, questions, tmp_path):
    broken = tmp_path / "broken"
    model = LlamaForCausalLM.from_pretrained(chat_model)
    model.lm_head.weight.data[3] = torch.nan
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(chat_model).save_pretrained(broken)
    with pytest.raises(InputError, match="are not numbers"):
        write_answers(settings(broken), questions, 1, tmp_path / "output")


# --- stopping and going on


def test_a_stopped_run_goes_on(chat_model, questions, answered, tmp_path, monkeypatch):
    original, calls = answers_module.generate, []

    def dies_in_the_sixth_call(lm, prompts, rows, max_new_tokens):
        calls.append(len(prompts))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(lm, prompts, rows, max_new_tokens)

    with monkeypatch.context() as patch:
        patch.setattr(answers_module, "generate", dies_in_the_sixth_call)
        with pytest.raises(KeyboardInterrupt):
            write_answers(settings(chat_model, batch_size=2), questions, None, tmp_path)
    (file,) = (tmp_path / "model_answer").glob("*-baseline.jsonl")
    assert len(file.read_text().splitlines()) == 4
    file.write_bytes(file.read_bytes()[:-20])
    calls.clear()
    monkeypatch.setattr(answers_module, "generate", lambda *arguments: calls.append(len(arguments[1])) or original(*arguments))
    write_answers(settings(chat_model, batch_size=3), questions, None, tmp_path, console := terminal())
    assert "6 of 6 questions" in shown_on(console)
    assert calls == [3, 3, 3, 3, 3, 3]  # three baseline answers were left; two turns each
    assert turns(tmp_path) == turns(answered)


def test_finished_answers_are_not_made_again(chat_model, questions, answered, monkeypatch):
    monkeypatch.setattr(ACTLM, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    before = {file: file.read_bytes() for file in answered.rglob("*") if file.is_file()}
    lines = write_answers(settings(chat_model), questions, None, answered)
    assert [line.split()[0] for line in lines] == ["6", "6"]
    assert before == {file: file.read_bytes() for file in answered.rglob("*") if file.is_file()}


@pytest.fixture
def changeable(chat_model, tmp_path):
    """A copy of the model, in files that a test may change."""
    return Path(shutil.copytree(chat_model, tmp_path / "tiny-chat"))


def change_weights(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data[3] += 1
    model.save_pretrained(folder)


@pytest.mark.parametrize("limit", [1, None], ids=["nothing is missing", "answers are missing"])
def test_answers_of_another_model_are_not_gone_on_with(changeable, questions, tmp_path, limit):
    write_answers(settings(changeable), questions, 1, tmp_path / "output")
    change_weights(changeable)
    with pytest.raises(
        InputError, match=r"holds answers from before this changed: weights \(\w{16}; now \w{16}\): choose another folder"
    ):
        write_answers(settings(changeable), questions, limit, tmp_path / "output")


def test_a_copied_model_is_the_same_model(changeable, chat_model, questions, tmp_path):
    """Its files have other times, so the model is loaded to see that; and nothing is answered again."""
    write_answers(settings(chat_model), questions, 1, tmp_path / "output")
    (changeable / "config.json").write_text((changeable / "config.json").read_text())
    said = turns(tmp_path / "output")
    file = tmp_path / "output" / "settings.json"
    file.write_text(file.read_text().replace(str(chat_model), str(changeable)))
    write_answers(settings(changeable), questions, 1, tmp_path / "output")
    assert turns(tmp_path / "output") == said


def test_a_limit_can_be_raised(chat_model, questions, answered, tmp_path):
    write_answers(settings(chat_model), questions, 1, tmp_path)
    assert sorted(turns(tmp_path)[False]) == [1, 3, 5, 6]
    write_answers(settings(chat_model), questions, None, tmp_path)
    assert turns(tmp_path) == turns(answered)


def test_where_the_model_runs_may_change(chat_model, questions, answered, tmp_path, monkeypatch):
    """Also in a folder of an earlier version, which wrote down some of that."""
    monkeypatch.setattr(ACTLM, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    model_args = {"pretrained": str(chat_model), **ACT_ARGUMENTS}
    write_answers(settings(chat_model, model_args={**model_args, "low_cpu_mem_usage": True}), questions, None, answered)
    older = Path(shutil.copytree(answered, tmp_path / "older"))
    recorded = json.loads((older / "settings.json").read_text())
    recorded["model_args"]["device_map"] = "auto"
    (older / "settings.json").write_text(json.dumps(recorded))
    write_answers(settings(chat_model, model_args={**model_args, "parallelize": False}), questions, None, older)
    with pytest.raises(InputError, match="answers with another model_args"):
        write_answers(settings(chat_model, model_args={**model_args, "dtype": "bfloat16"}), questions, None, older)


def test_several_settings_share_a_baseline(chat_model, questions, tmp_path):
    model_args = {"pretrained": str(chat_model), **ACT_ARGUMENTS}
    for beta in (0.0, 0.5):
        write_answers(settings(chat_model, model_args={**model_args, "act_beta": beta}), questions, 1, tmp_path)
    assert [variant.is_baseline for variant in ComparisonFolder(tmp_path).variants()] == [True, False, False]


def test_half_a_line_is_dropped_and_broken_lines_are_named(tmp_path):
    file = tmp_path / "journal.jsonl"
    with open_journal(file) as append:
        append({"a": "line\nbreak \u2028"})
        append({"a": 2})
        with pytest.raises(InputError, match="another process is writing"), open_journal(file):
            pass
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"a": 3')
    assert read_journal(file) == [{"a": "line\nbreak \u2028"}, {"a": 2}]
    with open_journal(file) as append:
        append({"a": 4})
    assert file.read_bytes() == whole + b'{"a": 4}\n'
    file.write_bytes(b"{}\nnonsense\n{}\n")
    with pytest.raises(InputError, match="line 2 of"):
        read_journal(file)


# --- bad input


def test_no_chat_template_is_found_before_the_weights_are_loaded(questions, tmp_path, monkeypatch):
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=r"has no chat template: choose a chat model.*chat_template"):
        write_answers(AnswerSettings(ALL_HEADS), questions, None, tmp_path)
    assert not list(tmp_path.glob("model_answer/*"))


def test_a_chat_template_from_a_file(questions, tmp_path):
    """Also in a folder where a run without it came to nothing."""
    without = AnswerSettings(ALL_HEADS, max_new_tokens=2)
    with pytest.raises(InputError, match="has no chat template"):
        write_answers(without, questions, 1, tmp_path)
    write_answers(replace(without, chat_template=TEMPLATE), questions, 1, tmp_path)
    assert len(turns(tmp_path)[True]) == 4


@pytest.mark.parametrize("template", ["{% for %}", "{{ raise_exception('no assistants here') }}"])
def test_a_chat_template_that_fails(questions, tmp_path, monkeypatch, template):
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "bad.jinja").write_text(template)
    bad = AnswerSettings(ALL_HEADS, chat_template=tmp_path / "bad.jinja")
    with pytest.raises(InputError, match=r"chat template of .*bad.jinja cannot write two turns"):
        write_answers(bad, questions, None, tmp_path / "output")


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"temperatures": "hot"}, "temperatures hot"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"chat_template": Path("no-such-file")}, "no-such-file"),
        ({"model_args": {"act_profile": "none"}}, "baseline itself"),
        ({"model_args": {"act_theta": 1}}, "takes beta, not theta"),
        ({"model_args": {"act_profile": "all", "act_beta": 7}}, "beta is 7"),
        ({"seed": 1}, "answers with another seed"),
        ({"model_args": {"act_profile": "all", "act_base": "eager"}}, "answers with another act_base"),
        ({"max_new_tokens": 5}, "answers with another max_new_tokens"),
        ({"model_args": {"pretrained": "another", "act_profile": "all"}}, "answers with another model"),
    ],
)
def test_bad_input_before_the_model_is_loaded(chat_model, questions, answered, monkeypatch, changes, culprit):
    monkeypatch.setattr(ACTLM, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=culprit):
        write_answers(settings(chat_model, **changes), questions, None, answered)


def test_other_questions_go_to_another_folder(chat_model, questions, answered):
    with pytest.raises(InputError, match="answers to other questions"):
        write_answers(settings(chat_model), questions[1:], None, answered)


FOREIGN = {
    "settings.json": [b'{"editor.tabSize": 4}', b"", b"[]", b"\xff"],
    "question.jsonl": [
        b'{"question_id": 1, "category": "x", "turns": ["one", "two"], "author": "me"}\n',
        b'{"question": "mine"}\n',
        b"\xff",
    ],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, contents in FOREIGN.items() for content in contents])
def test_files_of_others_are_not_written_over(chat_model, questions, tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(ACTLM, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} (was not written by|is not readable).*: choose another folder") as refused:
        write_answers(settings(chat_model), questions, None, tmp_path)
    assert "\n" not in str(refused.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.name != ".lock"} == {name: content}


def test_fastchats_own_file_of_the_same_questions_stays(questions, tmp_path):
    """Which it writes with other escapes, and may hold more."""
    records = ({**json.loads(question.to_json()), "author": "\N{LATIN SMALL LETTER E WITH ACUTE}"} for question in questions)
    (tmp_path / "question.jsonl").write_text(text := "".join(f"{json.dumps(record)}\n" for record in records))
    ComparisonFolder(tmp_path).start(questions, settings("no-such-model").identity)
    assert (tmp_path / "question.jsonl").read_text() == text


def test_files_of_a_run_that_came_to_nothing_are_written_over(questions, tmp_path):
    """Also those of other settings and questions, as long as nothing was answered."""
    for asked, changes in ((questions[1:], {"seed": 1}), (questions, {})):
        ComparisonFolder(tmp_path).start(asked, settings("no-such-model", **changes).identity)
    assert ComparisonFolder(tmp_path).questions() == questions
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == AnswerSettings(ALL_HEADS).seed


def test_an_access_token_is_never_written(chat_model, questions, tmp_path):
    model_args = {"pretrained": str(chat_model), **ACT_ARGUMENTS, "token": "hf_secret"}
    write_answers(settings(chat_model, model_args=model_args), questions, 1, tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and "hf_secret" in file.read_text()]


def test_one_process_only(chat_model, questions, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="tp_plan=auto"):
        write_answers(settings(chat_model), questions, None, tmp_path)


# --- questions


def test_questions_of_the_hub(tmp_path, monkeypatch):
    """The columns of HuggingFaceH4/mt_bench_prompts, read by `datasets` from a folder of that name."""
    folder = tmp_path / "HuggingFaceH4" / "mt_bench_prompts"
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    for row in rows:
        row["prompt"], row["prompt_id"] = row.pop("turns"), row.pop("question_id")
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert load_questions("HuggingFaceH4/mt_bench_prompts") == load_questions(str(QUESTIONS))


def test_the_real_questions(test_data, monkeypatch):
    monkeypatch.chdir(test_data / "hub")
    questions = load_questions("lm-sys/mt_bench/question.jsonl")
    assert load_questions("HuggingFaceH4/mt_bench_prompts") == questions
    counts = Counter(question.category for question in questions)
    assert counts == dict.fromkeys(CATEGORY_TEMPERATURES, 10)
    assert questions[30].reference == ("Area is 3", "5pi")
    assert [any(question.reference) for question in questions].count(True) == 39


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        ("", "holds no questions"),
        ("nonsense", "not a file with a line of JSON"),
        ('{"question_id": 1, "category": "x", "turns": ["one"]}', "question 1 of .* two turns"),
        ('{"question_id": 1, "category": "x", "turns": ["one", " "]}', "question 1 of .* empty turn"),
        ('{"category": "x", "turns": ["one", "two"]}', "question_id"),
        ("[]", "question 1 of"),
        ('{"question_id": 1, "category": "x", "turns": ["one", "two"]}\n' * 2, "repeats a question_id"),
    ],
)
def test_bad_questions(tmp_path, content, culprit):
    file = tmp_path / "question.jsonl"
    file.write_text(content)
    with pytest.raises(InputError, match=culprit):
        load_questions(str(file))


@pytest.mark.parametrize(("source", "culprit"), [("none.jsonl", "no file none.jsonl"), ("no/such-dataset", "cannot be loaded")])
def test_missing_questions(tmp_path, monkeypatch, source, culprit):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=culprit):
        load_questions(source)


def test_the_command(chat_model, answered, tmp_path):
    arguments = ["mt-bench", "answer", "--questions", str(QUESTIONS), "--device", "cpu", "--max-new-tokens", str(NEW_TOKENS)]
    model_args = f"pretrained={chat_model},act_profile=all,act_threshold=0.02,act_beta=0"
    arguments += ["--model-args", model_args, "--batch-size", "8", "--limit", "1", "--output", str(tmp_path)]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert "4 answers in" in result.output
    expected = turns(answered)
    assert all(expected[side][question] == said for side in (True, False) for question, said in turns(tmp_path)[side].items())
