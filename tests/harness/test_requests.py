"""Requests that no model can answer are refused in a line, before it runs; all others get the scores of `hf`."""

from functools import cache

import pytest
import torch
from helpers.thorough import examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer

from act_eval.demo import MODEL_PATH
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.lm import ACTLM
from act_eval.harness.nonfinite import NonFiniteLogitsError
from act_eval.harness.requests import RequestError
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.search import documents as search_documents
from act_eval.search import run as search
from act_eval.search.settings import SearchSettings
from act_eval.sinks import documents as sinks_documents
from act_eval.sinks import run as sinks
from act_eval.sinks.settings import SinksSettings

pytestmark = pytest.mark.tier("model")

WINDOW = 24
UNTIL = {"until": ["."], "max_gen_toks": 4}


@cache
def models(path=MODEL_PATH, begins_texts=True):
    """`hf` and act-hf without calibration, which share a model.

    Args:
        path: of the model.
        begins_texts: whether the demo model's tokenizer puts a token before each text; many byte-level ones do not.
    """
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if not begins_texts:
        tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=False)
    arguments = {"tokenizer": tokenizer, "batch_size": 2, "max_length": WINDOW, "device": "cpu"}
    return HFLM(model, backend="causal", **arguments), ACTLM(model, act_profile="none", **arguments)


@pytest.fixture(params=[True, False], ids=["tokenizer-begins-texts", "tokenizer-does-not"])
def pair_of_models(request):
    return models(begins_texts=request.param)


@pytest.fixture
def no_forward_pass(monkeypatch):
    """The model may not run."""
    for _, lm in (models(begins_texts=begins) for begins in (True, False)):
        monkeypatch.setattr(lm.model, "forward", lambda *_, **__: pytest.fail("the model ran"))


@pytest.fixture
def restored_act():
    """act-hf, whose ACT settings may be changed."""
    _, lm = models()
    before = lm.arguments
    yield lm
    lm.set_act(before)


def instances(kind, documents, task="some_task"):
    """Requests of lm-eval, several for each document."""
    return [
        Instance(kind, {}, arguments, choice, metadata=(task, number, 1))
        for number, choices in enumerate(documents)
        for choice, arguments in enumerate(choices)
    ]


def answer(lm, kind, arguments):
    (given_answer,) = getattr(lm, kind)(instances(kind, [[arguments]]), disable_tqdm=True)
    return given_answer


def refusal(lm, kind, documents):
    with pytest.raises(RequestError) as stop:
        getattr(lm, kind)(instances(kind, documents), disable_tqdm=True)
    assert isinstance(stop.value, InputError)
    assert len(str(stop.value).splitlines()) == 1
    return str(stop.value)


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "problem", "remedy"),
        [
            (("The cat", ""), "its continuation is empty", "doc_to_choice"),
            (("", ""), "its continuation is empty", "doc_to_choice"),
            (("<s>", ""), "its continuation is empty", "doc_to_choice"),
            (("", "<s>"), "continuation is '<s>', the token that stands for an empty context", "doc_to_text"),
            (("Ans", "wer"), "a token spans the join of its context and its continuation 'wer'", "target_delimiter"),
            (("Answ", "er"), "a token spans the join of its context and its continuation 'er'", "target_delimiter"),
            (("The", " cat" * 25), "continuation has 25 tokens, but the model's window holds 24", "raise max_length"),
            (("", " cat" * 25), "continuation has 25 tokens, but the model's window holds 24", "raise max_length"),
            (([1, 2], [3]), "its context is of type list, and not text", "doc_to_text"),
            ((None, " cat"), "its context is of type NoneType, and not text", "doc_to_text"),
            (("The", None), "its continuation is of type NoneType, and not text", "doc_to_choice"),
            (("", 3), "its continuation is of type int, and not text", "doc_to_choice"),
            ((b"The", b" cat"), "its context is of type bytes, and not text", "doc_to_text"),
            (("The \ud800", " cat"), r"its context holds '\ud800', one half of a character", "doc_to_text"),
            (("", " \udfff"), r"its continuation holds '\udfff', one half of a character", "doc_to_choice"),
        ],
    )
    def test_pairs(self, pair_of_models, no_forward_pass, arguments, problem, remedy):
        line = refusal(pair_of_models[1], "loglikelihood", [[("The", " cat")], [arguments]])
        assert line.startswith("some_task, document 1 cannot be run, because ")
        assert problem in line
        assert remedy in line.partition(problem)[2]
        assert "process_docs" in line
        assert "--samples" in line

    @pytest.mark.parametrize("context", [" ", "\n", " \t\u3000\n"])
    def test_a_context_of_spaces_alone_where_nothing_begins_texts(self, no_forward_pass, context):
        line = refusal(models(begins_texts=False)[1], "loglikelihood", [[(context, "cat")]])
        assert f"its context {context!r} has no token (spaces at its end count to the continuation)" in line
        assert "an empty context is possible" in line

    def test_a_continuation_that_the_tokenizer_drops(self, no_forward_pass, monkeypatch):
        _, lm = models()
        encode = lm.tok_encode
        monkeypatch.setattr(lm, "tok_encode", lambda text, *args, **kwargs: encode(text.replace("\u200b", ""), *args, **kwargs))
        for context in ("The", ""):
            line = refusal(lm, "loglikelihood", [[(context, "\u200b")]])
            assert r"the tokenizer gives no token for its continuation '\u200b'" in line

    @pytest.mark.parametrize(
        ("text", "problem"),
        [(None, "text is of type NoneType"), ([1], "text is of type list"), ("a\ud800", r"text holds '\ud800'")],
    )
    def test_whole_texts(self, pair_of_models, no_forward_pass, text, problem):
        line = refusal(pair_of_models[1], "loglikelihood_rolling", [[("The cat",)], [(text,)]])
        assert line.startswith("some_task, document 1 cannot be run, because its " + problem)

    @pytest.mark.parametrize(
        ("context", "generation_kwargs", "problem"),
        [
            ("The", {"max_gen_toks": WINDOW}, "max_gen_toks is 24, but the model's window holds 24 tokens"),
            ("The", {}, "max_gen_toks is 256, but the model's window holds 24 tokens"),
            ("The", {"max_gen_toks": 0}, "max_gen_toks is 0"),
            ("The", {"max_gen_toks": "many"}, "wrong kind"),
            ("The", {"max_gen_toks": 4, "temperature": "warm"}, "wrong kind"),
            ("The", {"max_gen_toks": 4, "until": None}, "stop sequence None is of type NoneType"),
            ("The", {"max_gen_toks": 4, "until": [".", 5]}, "stop sequence 5 is of type int"),
            ("The", {"max_gen_toks": 4, "until": "\ud800"}, r"holds '\ud800'"),
            ("The", {**UNTIL, "num_return_sequences": 2}, "num_return_sequences is 2, but a request has one answer"),
            ("The", {**UNTIL, "num_return_sequences": "2"}, "num_return_sequences is '2'"),
            ("The", {**UNTIL, "return_dict_in_generate": True}, "return_dict_in_generate asks for more than tokens"),
            ("The", {**UNTIL, "use_cache": False}, "generation_kwargs hold use_cache, which lm-eval's hf sets itself"),
            ("The", None, "generation_kwargs are None"),
            (None, UNTIL, "context is of type NoneType"),
            ([1, 2], UNTIL, "context is of type list"),
            ("The \ud800", UNTIL, r"context holds '\ud800'"),
        ],
    )
    def test_generation(self, pair_of_models, no_forward_pass, context, generation_kwargs, problem):
        line = refusal(pair_of_models[1], "generate_until", [[("The", UNTIL)], [(context, generation_kwargs)]])
        assert line.startswith("some_task, document 1 cannot be run, because its ")
        assert problem in line
        assert ("generation_kwargs of" in line) == (context == "The" and generation_kwargs is not None)

    @pytest.mark.parametrize(
        "setting",
        [
            {"prompt_lookup_num_tokens": 4},
            {"assistant_early_exit": 1},
            {"assistant_model": "gpt2"},
            {"use_mtp": True},
            {"prefill_chunk_size": 6},
        ],
        ids=lambda setting: next(iter(setting)),
    )
    def test_generation_that_does_not_begin_with_the_prompt(self, no_forward_pass, restored_act, setting):
        lm = restored_act
        for act in ({"act_profile": "all", "act_alpha": 2}, {"act_profile": "1:0", "act_method": "bias-span", "act_bias": 1}):
            span = {"act_span": "The"} if "act_method" in act else {}
            lm.set_act(ACTArguments.from_model_args({**act, **span}))
            line = refusal(lm, "generate_until", [[("The cat", {**UNTIL, **setting})]])
            (name,) = setting
            assert f"because its {name} lets the model begin with something else than its whole prompt" in line
            assert "remove it from generation_kwargs of the task's config" in line

    def test_generation_from_nothing(self, no_forward_pass):
        line = refusal(models(begins_texts=False)[1], "generate_until", [[("The", UNTIL)], [("", UNTIL)]])
        assert line.startswith("some_task, document 1 cannot be run, because its context '' has no token: change doc_to_text")

    def test_enable_thinking(self, no_forward_pass, monkeypatch):
        _, lm = models()
        monkeypatch.setattr(lm, "enable_thinking", True, raising=False)
        with pytest.raises(InputError, match="but some_task, document 0 is scored: leave it out"):
            answer(lm, "loglikelihood", ("The", " cat"))


@pytest.mark.parametrize(
    "act", [{"act_profile": "none"}, {"act_profile": "all", "act_beta": 1}, {"act_profile": "all", "act_method": "temperature"}]
)
@pytest.mark.parametrize("setting", [{"prompt_lookup_num_tokens": 2}, {"prefill_chunk_size": 4}, {"num_return_sequences": 1}])
def test_drafts_and_chunks_where_no_keys_are_marked(restored_act, act, setting):
    lm = restored_act
    lm.set_act(ACTArguments.from_model_args(act))
    context = "The dog is larger than the mouse. The dog is"
    plain, other = (answer(lm, "generate_until", (context, {**UNTIL, **given})) for given in ({}, setting))
    assert plain == other != ""


@pytest.mark.parametrize("kind", ["loglikelihood", "loglikelihood_rolling", "generate_until"])
@pytest.mark.parametrize("batch_size", [2, "auto"])
@pytest.mark.parametrize("refuses_some", [False, True])
def test_no_requests(restored_act, monkeypatch, kind, batch_size, refuses_some):
    """Also where some kinds of requests are refused: whole texts with a part of the prompt, scoring after thinking."""
    lm = restored_act
    monkeypatch.setattr(lm, "batch_size_per_gpu", batch_size)
    if refuses_some:
        monkeypatch.setattr(lm, "enable_thinking", True, raising=False)
        arguments = {"act_profile": "1:0", "act_method": "bias-span", "act_bias": 1, "act_span": "The"}
        lm.set_act(ACTArguments.from_model_args(arguments))
    assert getattr(lm, kind)([], disable_tqdm=True) == []


class TestNames:
    def test_the_first_is_named_and_all_documents_of_its_task_are_counted(self, no_forward_pass):
        _, lm = models()
        good, bad = [("The", " cat"), ("The", " dog")], [("The", " cat"), ("The", ""), ("The", "")]
        requests = instances("loglikelihood", [good, bad, good, bad], "first") + instances("loglikelihood", [bad], "second")
        with pytest.raises(RequestError) as stop:
            lm.loglikelihood(requests)
        assert str(stop.value).startswith("first, document 1, choice 1 (one of 2 such documents) cannot be run, because ")
        assert stop.value.documents == 2

    def test_requests_that_do_not_say_their_document(self, no_forward_pass):
        _, lm = models()
        requests = [Instance("loglikelihood", {}, ("The", continuation), 0) for continuation in (" cat", " dog", "")]
        with pytest.raises(RequestError, match=r"^request 2 cannot be run, because its continuation is empty"):
            lm.loglikelihood(requests)

    def test_one_without_finite_logits(self):
        _, lm = models()
        hook = lm.model.model.layers[1].register_forward_hook(lambda module, args, output: output * float("nan"))
        try:
            with pytest.raises(NonFiniteLogitsError, match="logits for request 0 "):
                lm.loglikelihood([Instance("loglikelihood", {}, ("The", " cat"), 0)])
        finally:
            hook.remove()


class TestElsewhere:
    """The same in a search and where sinks are looked at: the demo's tasks, with one document that is spoiled."""

    PROMPTS = PromptSettings(("demo_choice",), limit=4)

    def spoil(self, monkeypatch, module, part):
        """Let a part of the second document's last request be a lone surrogate."""
        render = module.render

        def rendered(*arguments):
            documents = render(*arguments)
            for request in documents[1]:
                request.arguments = tuple("\ud800" if at == part else value for at, value in enumerate(request.args))
            return documents

        monkeypatch.setattr(module, "render", rendered)

    def test_search(self, monkeypatch, tmp_path):
        self.spoil(monkeypatch, search_documents, 1)
        settings = SearchSettings(
            ModelSettings({"act_alpha": 5}), self.PROMPTS, layers="all", mode="exact", selection="top-k", k=2
        )
        with pytest.raises(RequestError, match=r"^demo_choice, document \d+, choice 0 cannot be run, because its continuation"):
            search.run_search(settings, tmp_path)

    def test_sinks(self, monkeypatch, tmp_path):
        self.spoil(monkeypatch, sinks_documents, 0)
        settings = SinksSettings(ModelSettings({"act_alpha": 5}), self.PROMPTS)
        with pytest.raises(RequestError, match=r"^demo_choice, document \d+ cannot be run, because its context holds"):
            sinks.run_sinks(settings, tmp_path)


pieces = st.sampled_from(
    [
        "",
        " ",
        "\n",
        "\t",
        "\0",
        "The",
        " cat",
        "Ans",
        "wer",
        "er",
        "<s>",
        "</s>",
        "é",
        "e\u0301",
        "\u200b",
        "👨‍👩",
        "\ud800",
        "  A.",
    ]
)
texts = st.lists(pieces, max_size=3).map("".join) | st.text(max_size=6) | st.just(" cat" * (WINDOW + 1))
many, few = (settings(examples(count), suppress_health_check=[HealthCheck.function_scoped_fixture]) for count in (30, 10))


@pytest.mark.tier("slow")
class TestSameAsHF:
    """A request gets the number of `hf`; where `hf` has none, it is refused."""

    def check(self, hf, lm, kind, arguments):
        try:
            expected = answer(hf, kind, arguments)
        except Exception:  # assertions, index and type errors: whatever `hf` ends in
            with pytest.raises(RequestError):
                answer(lm, kind, arguments)
        else:
            given_answer = answer(lm, kind, arguments)
            if kind == "loglikelihood":
                assert given_answer == (pytest.approx(expected[0], rel=1e-9, abs=1e-9), expected[1])
            else:
                assert given_answer == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @given(context=texts, continuation=texts)
    @example(context="Ans", continuation="ver")
    @example(context=" ", continuation="")
    @example(context="The ", continuation="")
    @example(context="", continuation="<s> cat")
    @example(context="The cat", continuation="</s>")
    @example(context="\0", continuation="\0")
    @many
    def test_pairs(self, pair_of_models, context, continuation):
        self.check(*pair_of_models, "loglikelihood", (context, continuation))

    @given(text=texts)
    @example(text="")
    @many
    def test_whole_texts(self, pair_of_models, text):
        self.check(*pair_of_models, "loglikelihood_rolling", (text,))

    @given(context=texts, until=st.lists(pieces, max_size=2) | pieces, max_gen_toks=st.integers(-1, WINDOW + 1))
    @example(context="", until=[], max_gen_toks=4)
    @example(context="The", until="", max_gen_toks=WINDOW - 1)
    @few
    def test_generation(self, pair_of_models, context, until, max_gen_toks):
        hf, lm = pair_of_models
        arguments = (context, {"until": until, "max_gen_toks": max_gen_toks})
        try:
            expected = answer(hf, "generate_until", arguments)
        except Exception:
            with pytest.raises(RequestError):
                answer(lm, "generate_until", arguments)
        else:
            assert answer(lm, "generate_until", arguments) == expected

    @pytest.mark.parametrize("model", ["stories260K", pytest.param("smollm2-135m-instruct", marks=pytest.mark.tier("real"))])
    @given(context=texts, continuation=texts)
    @example(context="Answ", continuation="er")
    @example(context="\n", continuation="cat")
    @few
    def test_pairs_with_other_tokenizers(self, model_folder, model, context, continuation):
        self.check(*models(model_folder(model)), "loglikelihood", (context, continuation))

    def test_what_else_is_asked_changes_nothing(self):
        """`hf` gives the second of two requests with the same tokens, split at different places, a number of other tokens."""
        _, lm = models()
        pairs = [("The cat is", " a big animal"), ("The cat is a", " big animal")]
        together = lm.loglikelihood(instances("loglikelihood", [[pair] for pair in pairs]))
        for (total, greedy), pair in zip(together, pairs, strict=True):
            assert (pytest.approx(total, abs=1e-9), greedy) == answer(lm, "loglikelihood", pair)
