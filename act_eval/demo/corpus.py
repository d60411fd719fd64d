"""The text of the embedded demo model: three seeded tasks, and the prompts that pose them.

Everything is generated, so the project ships no dataset and the demo needs no network. A document is a plain dictionary, as
a row of a Hugging Face dataset would be; `prompt` and `answer` render it exactly as the YAML files in `tasks/act_demo` do
(a test compares the two), so the model is trained on the very format it is evaluated in.

- **sentiment**: a short review with several opinions; the label is the opinion of the majority. Some opinions are negated.
- **topic**: a short article; most sentences, not all, are about the topic that labels it.
- **choice**: which of four things is of a kind, or the smallest or largest, or both, in a little world stated in `WORLD`.
"""

from __future__ import annotations

import copy
import random
from functools import cache
from typing import Any, Literal

Task = Literal["sentiment", "topic", "choice"]
Split = Literal["train", "test"]
Document = dict[str, Any]

TASKS: tuple[Task, ...] = ("sentiment", "topic", "choice")
DOCUMENTS_PER_SPLIT = 500
FEWSHOT_DELIMITER = "\n\n"

SENTIMENTS = ("negative", "positive")

ADJECTIVES = {
    "negative": ("boring", "awful", "dull", "weak", "slow", "poor", "ugly", "silly", "bad", "terrible"),
    "positive": ("great", "funny", "clever", "strong", "lovely", "superb", "brilliant", "sweet", "good", "wonderful"),
}
ASPECTS = ("plot", "acting", "ending", "cast", "music", "dialogue", "director", "story", "picture", "humour")
ADVERBS = ("", "", "very ", "really ", "quite ")
NEUTRAL = (
    "I saw it on a Monday.",
    "It has two parts.",
    "My friend came with me.",
    "The cinema was full.",
    "It is based on a book.",
    "We had seats in the back.",
)
VERDICTS = {"negative": "I left early.", "positive": "I would see it again."}

TOPICS = {
    "sport": ("team", "coach", "goal", "match", "player", "race", "ball", "league", "runner", "stadium"),
    "food": ("cook", "soup", "bread", "kitchen", "recipe", "oven", "salad", "meal", "cheese", "dinner"),
    "weather": ("storm", "rain", "wind", "cloud", "snow", "sun", "fog", "frost", "thunder", "flood"),
    "music": ("band", "song", "drum", "concert", "singer", "piano", "guitar", "album", "choir", "melody"),
}
ARTICLE_SENTENCES = (
    "The {0} has a new {1}.",
    "People talk about the {0}.",
    "There was a {0} near the {1}.",
    "The {0} came before the {1}.",
    "Nobody in the town expected the {0}.",
    "The {0} was on the news.",
)

# The little world: kinds of things and their members; members of the first three kinds stand in order of size.
WORLD = {
    "an animal": ("mouse", "rabbit", "cat", "fox", "dog", "goat", "lion", "bear", "cow", "horse"),
    "a fruit": ("cherry", "grape", "plum", "lemon", "apple", "pear", "peach", "mango", "banana", "melon"),
    "a vehicle": ("bicycle", "car", "van", "tram", "bus", "truck", "boat", "plane", "train", "ship"),
    "a tool": ("hammer", "saw", "drill", "wrench", "chisel", "shovel", "rake", "axe", "pliers", "file"),
    "a colour": ("red", "blue", "green", "yellow", "black", "white", "purple", "pink", "brown", "grey"),
    "clothing": ("shirt", "coat", "hat", "sock", "shoe", "scarf", "glove", "skirt", "belt", "jacket"),
}
SIZED = ("an animal", "a fruit", "a vehicle")
NUMBER_OF_OPTIONS = 4

INSTRUCTIONS: dict[Task, str] = {
    "sentiment": "Classify the sentiment of the review into one of the following categories: 'positive' or 'negative'.\n\n",
    "topic": "Classify the article into one of the following categories: 'sport', 'food', 'weather' or 'music'.\n\n",
    "choice": "Answer the question with one of the options.\n\n",
}


def _opinion(rng: random.Random, sentiment: str, negations: float) -> str:
    """Draw one sentence that holds `sentiment`, "negative" or "positive", in a share of the cases by negating the opposite."""
    negated = rng.random() < negations
    opposite = SENTIMENTS[1 - SENTIMENTS.index(sentiment)]
    adjective = rng.choice(ADJECTIVES[opposite if negated else sentiment])
    words = f"not {adjective}" if negated else f"{rng.choice(ADVERBS)}{adjective}"
    return f"The {rng.choice(ASPECTS)} was {words}."


def _sentiment(rng: random.Random, training: bool) -> Document:
    label = rng.randrange(2)
    opinions = rng.choice((3, 5, 5) if training else (3, 5, 7))
    negations = 0.15 if training else 0.25
    against = rng.randint(0, opinions // 2)
    sentences = [_opinion(rng, SENTIMENTS[label], negations) for _ in range(opinions - against)]
    sentences += [_opinion(rng, SENTIMENTS[1 - label], negations) for _ in range(against)]
    sentences += rng.sample(NEUTRAL, rng.randint(0, 2))
    rng.shuffle(sentences)
    if rng.random() < 0.2:
        sentences.append(VERDICTS[SENTIMENTS[label]])
    return {"review": " ".join(sentences), "label": label}


def _topic(rng: random.Random, training: bool) -> Document:
    names = tuple(TOPICS)
    label, rival = rng.sample(range(len(names)), 2)
    count = rng.randint(4, 7)
    majority = count // 2 + 1
    about = [label] * majority + [rival] * (count - majority)
    rng.shuffle(about)
    sentences = []
    for index in about:
        first, second = rng.sample(TOPICS[names[index]], 2)
        if rng.random() < 0.5:
            second = rng.choice(TOPICS[rng.choice(names)])
        sentences.append(rng.choice(ARTICLE_SENTENCES).format(first, second))
    return {"article": " ".join(sentences), "label": label}


def _choice(rng: random.Random, training: bool) -> Document:
    if not training and rng.random() < 1 / 3:
        return _choice_of_kind_and_size(rng)
    if rng.random() < 0.5:
        kind = rng.choice(SIZED)
        options = rng.sample(WORLD[kind], NUMBER_OF_OPTIONS)
        superlative, extreme = rng.choice((("smallest", min), ("largest", max)))
        question = f"Which of these is the {superlative}?"
        answer = extreme(options, key=WORLD[kind].index)
    else:
        kinds = rng.sample(tuple(WORLD), NUMBER_OF_OPTIONS)
        options = [rng.choice(WORLD[kind]) for kind in kinds]
        answer = rng.choice(options)
        question = f"Which of these is {kinds[options.index(answer)]}?"
    return {"question": question, "options": options, "label": options.index(answer)}


def _choice_of_kind_and_size(rng: random.Random) -> Document:
    """Two options are of the kind in question: what training asks one at a time, here together."""
    kind = rng.choice(SIZED)
    of_kind = rng.sample(WORLD[kind], 2)
    others = rng.sample([name for name in WORLD if name != kind], NUMBER_OF_OPTIONS - 2)
    options = of_kind + [rng.choice(WORLD[name]) for name in others]
    superlative, extreme = rng.choice((("smallest", min), ("largest", max)))
    answer = extreme(of_kind, key=WORLD[kind].index)
    rng.shuffle(options)
    question = f"Which of these is the {superlative} {kind.split()[-1]}?"
    return {"question": question, "options": options, "label": options.index(answer)}


_GENERATORS = {"sentiment": _sentiment, "topic": _topic, "choice": _choice}


def document(task: Task, rng: random.Random, training: bool = False) -> Document:
    """Draw one random document of `task` from `rng`.

    With `training`, it is of the easier sort that the model is trained on: shorter reviews with fewer negations, and choices by
    kind or by size but not by both.
    """
    return _GENERATORS[task](rng, training)


def documents(task: Task, split: Split, count: int = DOCUMENTS_PER_SPLIT) -> list[Document]:
    """The first `count` documents of a split, always the same ones; the two splits share no document."""
    return copy.deepcopy(_drawn(task, split, count))


@cache  # a study loads its tasks several times
def _drawn(task: Task, split: Split, count: int) -> list[Document]:
    if split == "train":
        train = random.Random(f"act-demo {task} train")
        return [document(task, train) for _ in range(count)]
    seen = set(map(str, _drawn(task, "train", count)))
    test = random.Random(f"act-demo {task} test")
    test_documents: list[Document] = []
    while len(test_documents) < count:
        candidate = document(task, test)
        if str(candidate) not in seen:
            test_documents.append(candidate)
    return test_documents


def choices(task: Task, doc: Document) -> tuple[str, ...]:
    """The answers that a document offers, in the order of its label."""
    return {"sentiment": SENTIMENTS, "topic": tuple(TOPICS), "choice": tuple(doc.get("options", ()))}[task]


def prompt(task: Task, doc: Document) -> str:
    """The question part of a document, without the instruction and without the answer."""
    if task == "sentiment":
        return f"Review: {doc['review']}\nSentiment:"
    if task == "topic":
        return f"Article: {doc['article']}\nTopic:"
    return f"Question: {doc['question']}\nOptions: {', '.join(doc['options'])}\nAnswer:"


def answer(task: Task, doc: Document) -> str:
    """The answer as it follows the prompt, with its leading space."""
    return f" {choices(task, doc)[doc['label']]}"


def training_pieces(task: Task, rng: random.Random) -> list[tuple[str, bool]]:
    """Draw one training text, cut into pieces that are answers (True) or not (False): zero to three shots, then one more."""
    shots = rng.randint(0, 3)
    pieces: list[tuple[str, bool]] = [(INSTRUCTIONS[task], False)]
    for index in range(shots + 1):
        doc = document(task, rng, training=True)
        delimiter = FEWSHOT_DELIMITER if index else ""
        pieces += [(delimiter + prompt(task, doc), False), (answer(task, doc), True)]
    return pieces


def world_facts(rng: random.Random) -> str:
    """Draw a few sentences that state facts of the little world, for training only."""
    facts = []
    for _ in range(rng.randint(6, 12)):
        kind = rng.choice(tuple(WORLD))
        smaller, larger = sorted(rng.sample(range(len(WORLD[kind])), 2))
        if kind in SIZED and rng.random() < 0.5:
            facts.append(f"The {WORLD[kind][smaller]} is smaller than the {WORLD[kind][larger]}.")
        else:
            facts.append(f"The {rng.choice(WORLD[kind])} is {kind}.")
    return " ".join(facts)
