"""The whole search: documents, estimates, exact scores, selection, and what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate.utils import gather_object
from lm_eval.api.task import Task
from tqdm import tqdm

from act_eval.attention.model_structure import attention_layers, model_shape
from act_eval.errors import InputError
from act_eval.harness.documents import DocumentSettings
from act_eval.harness.identity import package_versions
from act_eval.harness.lm import ACTLM
from act_eval.harness.memory import run_in_parts
from act_eval.harness.processes import shared_processes
from act_eval.harness.tasks import explained_dataset_errors, load_tasks, task_manager
from act_eval.layer_lists import resolve_layers
from act_eval.profiles import HeadProfile
from act_eval.search.documents import CalibrationDocument, calibration_split, fingerprint, load_documents
from act_eval.search.evaluate import Head, HeadEvaluator
from act_eval.search.selection import (
    ROUNDS,
    choose_union,
    mean_and_error,
    plan_halving,
    survivors,
    union_sizes,
)
from act_eval.search.settings import SearchSettings
from act_eval.search.store import Arrays, UnitStore
from act_eval.search.write import write_heads, write_profile, write_unions

_EXACT_UP_TO = 64


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        profile: the heads.
        heads: a row for each head; see `_table`.
        unions: a row for each number of heads tried together; empty unless validated.
        full_passes: what it cost, by part, in plain passes over the documents that heads were scored on.
    """

    profile: HeadProfile
    heads: pd.DataFrame
    unions: pd.DataFrame
    full_passes: dict[str, float]

    def summary(self) -> list[str]:
        """What to tell the user, in lines."""
        scored = self.heads[self.heads["documents"] > 0]
        parts = ", ".join(f"{name} {cost:.1f}" for name, cost in self.full_passes.items() if name != "total" and cost)
        cost = f"{self.full_passes['total']:.1f} full-pass equivalents ({parts})"
        lines = [
            f"{len(scored)} of {len(self.heads)} heads were scored, at a cost of {cost}; one full pass for each head would "
            f"cost {len(self.heads)}."
        ]
        for row in self.unions.to_dict("records"):
            changes = f"accuracy {100 * row['accuracy_change']:+.2f} points, margin {row['margin_change']:+.4f} nats"
            lines.append(f"{row['heads']} heads together: {changes}{' (chosen)' if row['chosen'] else ''}")
        if not self.profile.size:
            lines.append("No head was chosen: calibration did not help on these documents, and the profile is empty.")
        return lines


def _compute_in_parts(
    compute: Callable[[Sequence[CalibrationDocument]], Arrays], batch: Sequence[CalibrationDocument]
) -> Arrays:
    """What `compute` gives for a batch; in halves where the whole does not fit into memory.

    Arrays have the documents as their last dimension; numbers are sums over documents.
    """
    parts = run_in_parts(compute, batch)
    return {
        name: np.concatenate([part[name] for part in parts], axis=-1) if array.ndim else np.sum([part[name] for part in parts])
        for name, array in parts[0].items()
    }


def run_search(settings: SearchSettings, output: Path) -> SearchResult:
    """Search, or go on with a search, and write `profile.json`, `heads.csv` and the heat map to `output`.

    Args:
        settings: what to search for.
        output: folder; made when missing.

    Raises:
        InputError: a setting or a task is wrong, a dataset cannot be had, or the folder cannot be used.
    """
    manager = task_manager(settings.tasks, settings.include_path)
    with explained_dataset_errors():
        tasks = {
            name: task for name in manager.match_tasks(list(settings.tasks)) for name, task in load_tasks(name, manager).items()
        }
    splits = {name: calibration_split(task) for name, task in tasks.items()}
    device = {} if settings.device is None else {"device": settings.device}
    lm = ACTLM(**{**settings.model_args, **device, "act_profile": "none"})
    return _Search(settings, lm, tasks, splits, output).run()


class _Search:
    """The state of a running search."""

    def __init__(
        self, settings: SearchSettings, lm: ACTLM, tasks: Mapping[str, Task], splits: Mapping[str, str], output: Path
    ) -> None:
        self.settings, self.lm, self.splits, self.output = settings, lm, dict(splits), output
        self.processes = shared_processes()
        self.num_layers, self.num_heads = model_shape(lm.config)
        self.layers = self._layers()
        self.heads: list[Head] = [(layer, head) for layer in self.layers for head in range(self.num_heads)]
        self.mode = settings.mode if settings.mode != "auto" else ("exact" if len(self.heads) <= _EXACT_UP_TO else "screened")
        rendering = DocumentSettings(settings.limit, settings.seed, settings.num_fewshot, settings.apply_chat_template)
        with explained_dataset_errors():
            documents = _interleave(load_documents(lm, tasks, rendering), settings.seed)
        halves = settings.selection == "validated"
        split_at = (len(documents) + 1) // 2 if halves else len(documents)
        self.documents, self.validation = documents[:split_at], documents[split_at:]
        if halves and not self.validation:
            raise InputError("--selection validated needs at least 2 documents: raise --limit, or choose another selection.")
        self.evaluator = HeadEvaluator(lm, settings.act, self.layers, settings.batch_size)
        self.costs: dict[str, float] = {"estimates": 0, "exact": 0, "validation": 0}
        self.full_pass = 0.0
        self.weights_hash = lm.weights_fingerprint()
        self.documents_hash = fingerprint(documents)
        self.store = self._open_store(output)

    def _layers(self) -> tuple[int, ...]:
        text = self.settings.layers
        with_attention = attention_layers(self.lm.config)
        if text is None:
            layers = tuple(layer for layer in with_attention if 2 <= layer < self.num_layers - 1)
        else:
            layers = resolve_layers(text, with_attention)
        if not layers:
            raise InputError(
                f"there is nothing to search: the model has {self.num_layers} layers, and all but the first two and the last "
                "are searched by default. Give --layers, for example --layers all."
            )
        return layers

    def _open_store(self, output: Path) -> UnitStore:
        act = self.settings.act
        identity = {
            "model": {key: str(value) for key, value in self.settings.model_args.items() if not key.startswith("act_")},
            "weights": self.weights_hash,
            "act": act.settings,
            "tasks": self.splits,
            "documents": self.documents_hash,
            "layers": list(self.layers),
            "mode": self.mode,
            "budget": self.settings.budget if self.mode == "screened" else None,
            "selection": self.settings.selection,
            "k": self.settings.k,
            "batch_size": self.settings.batch_size,
            "versions": package_versions(),
        }
        needed = 10 * (len(self.heads) + 40) * (len(self.documents) + len(self.validation)) + 2**20
        with self.processes.main_process_first():
            return UnitStore.open(output, identity, needed)

    def run(self) -> SearchResult:
        table = self._exact_table() if self.mode == "exact" else self._screened_table()
        profile_heads, unions = self._select(table)
        full_passes = {name: cost / self.full_pass for name, cost in self.costs.items()}
        full_passes["total"] = sum(full_passes.values())
        profile = self._profile(profile_heads, table, unions, full_passes)
        if self.processes.is_main_process:
            write_heads(table, self.output, self.num_layers, self.num_heads)
            if len(unions):
                write_unions(unions, self.output)
            write_profile(profile, self.output)
        self.processes.wait_for_everyone()
        return SearchResult(profile, table, unions, full_passes)

    # --- units of work

    def _run_units(
        self,
        stage: str,
        batches: Sequence[Sequence[CalibrationDocument]],
        compute: Callable[[Sequence[CalibrationDocument]], Arrays],
        text: str,
    ) -> list[Arrays]:
        """Compute a stage's units, or read them where they are done; each process takes its share, and all get all.

        Args:
            stage: prefix of the units' names.
            batches: a unit each.
            compute: what to do with one.
            text: of the progress bar.
        """
        mine = range(self.processes.process_index, len(batches), self.processes.num_processes)
        weights = [sum(document.length * len(document.requests) for document in batch) for batch in batches]
        done = {number: arrays for number in mine if (arrays := self.store.load(f"{stage}-{number}")) is not None}
        bar = tqdm(
            total=sum(weights[number] for number in mine),
            initial=sum(weights[number] for number in done),
            desc=text,
            unit="tok",
            unit_scale=True,
            disable=not self.processes.is_main_process,
        )
        with bar:
            for number in mine:
                if number not in done:
                    done[number] = _compute_in_parts(compute, batches[number])
                    self.store.save(f"{stage}-{number}", done[number])
                    bar.update(weights[number])
        everything: dict[int, Arrays] = {}
        for part in gather_object([done]):
            everything |= part
        return [everything[number] for number in range(len(batches))]

    def _batches(self, documents: Sequence[CalibrationDocument]) -> list[list[CalibrationDocument]]:
        """Documents of similar length together, longest first, with at most `batch_size` contexts (or one document)."""
        batches: list[list[CalibrationDocument]] = []
        room = 0
        for document in sorted(documents, key=lambda document: -document.length):
            contexts = len({context for context, _ in document.requests})
            if contexts > room:
                batches.append([])
                room = self.settings.batch_size
            batches[-1].append(document)
            room -= contexts
        return batches

    def _score_heads(
        self, stage: str, documents: Sequence[CalibrationDocument], heads: Sequence[Head], text: str
    ) -> tuple[list[CalibrationDocument], np.ndarray, np.ndarray, float, float]:
        """Exact scores: the documents in the order of the columns, correct and margin `[1 + heads, documents]`, and costs.

        Row 0 is without calibration. Costs are those of everything, and those of the plain pass within it.
        """

        def compute(batch: Sequence[CalibrationDocument]) -> Arrays:
            scores = self.evaluator.score_heads(batch, heads)
            return {
                "correct": np.concatenate([scores.plain.correct[None], scores.calibrated.correct]),
                "margin": np.concatenate([scores.plain.margin[None], scores.calibrated.margin]),
                "cost": np.array(scores.cost),
                "plain_cost": np.array(scores.plain_cost),
            }

        batches = self._batches(documents)
        units = self._run_units(stage, batches, compute, text)
        cost, plain_cost = (sum(float(unit[name]) for unit in units) for name in ("cost", "plain_cost"))
        correct, margin = (np.concatenate([unit[name] for unit in units], axis=1) for name in ("correct", "margin"))
        return [document for batch in batches for document in batch], correct, margin, cost, plain_cost

    # --- scores of heads

    def _exact_table(self) -> pd.DataFrame:
        documents, correct, margin, self.costs["exact"], self.full_pass = self._score_heads(
            "exact", self.documents, self.heads, "scoring all heads"
        )
        changes = {head: (correct[place + 1], margin[place + 1]) for place, head in enumerate(self.heads)}
        plain = correct[0], margin[0]
        return self._table({head: (documents, plain, scores) for head, scores in changes.items()})

    def _screened_table(self) -> pd.DataFrame:
        of_documents, affected_documents = self._estimates()
        estimates, shares = of_documents.mean(-1), affected_documents.mean(-1)
        places = {id(document): place for place, document in enumerate(self.documents)}
        costs = np.array([(1 - layer / self.num_layers) for layer, _ in self.heads]) * shares
        affected = [place for place in np.argsort(-estimates, kind="stable").tolist() if shares[place]]
        plan = plan_halving(affected, costs, self.settings.budget * len(self.heads))
        competing = affected[: plan.heads_per_round[0]]
        scores: dict[int, list[tuple[list[CalibrationDocument], np.ndarray, np.ndarray]]] = {place: [] for place in affected}
        plain: list[tuple[np.ndarray, np.ndarray]] = []
        first, spent = 0, 0.0
        for number, (share, _) in enumerate(ROUNDS):
            last = len(self.documents) if number == len(ROUNDS) - 1 else first + round(share * len(self.documents))
            if plain and competing:
                # Estimates tell documents apart far better than they are right, so they correct for which documents were drawn.
                exact = np.stack([np.concatenate([margin for _, _, margin in scores[place]]) for place in competing])
                drawn = [places[id(document)] for documents, _, _ in scores[competing[0]] for document in documents]
                errors = exact - np.concatenate([margin for _, margin in plain]) - of_documents[competing][:, drawn]
                so_far = estimates[competing, None] + errors
                competing = survivors(competing, so_far, plan, number, spent)
            if last > first and competing:
                heads = [self.heads[place] for place in competing]
                text = f"round {number + 1} of {len(ROUNDS)}: {len(heads)} heads"
                documents, correct, margin, cost, plain_cost = self._score_heads(
                    f"exact{number}", self.documents[first:last], heads, text
                )
                plain.append((correct[0], margin[0]))
                for row, place in enumerate(competing, start=1):
                    scores[place].append((documents, correct[row], margin[row]))
                self.costs["exact"] += cost
                of_round = (cost - plain_cost) / self.full_pass
                plan = replace(plan, costs=plan.costs * of_round / (share * plan.costs[competing].sum()))
                spent += of_round
            first = last
        entries = {}
        for place, rounds in scores.items():
            if rounds:
                documents = [document for drawn, _, _ in rounds for document in drawn]
                base = tuple(np.concatenate([part[index] for part in plain[: len(rounds)]]) for index in (0, 1))
                own = tuple(np.concatenate([part[index] for part in rounds]) for index in (1, 2))
                entries[self.heads[place]] = (documents, base, own)
        return self._table(entries, dict(zip(self.heads, estimates, strict=True)), dict(zip(self.heads, shares, strict=True)))

    def _estimates(self) -> tuple[np.ndarray, np.ndarray]:
        """Estimated margin changes, and whether the head has a sink in the document: `[heads, documents]` each."""

        def compute(batch: Sequence[CalibrationDocument]) -> Arrays:
            estimates = self.evaluator.estimate(batch)
            return {
                "margin_change": estimates.margin_change,
                "affected": estimates.affected,
                "cost": np.array(estimates.cost),
                "plain_cost": np.array(estimates.full_pass),
            }

        batches = self._batches(self.documents)
        units = self._run_units("estimate", batches, compute, "estimating all heads")
        self.costs["estimates"] = sum(float(unit["cost"]) for unit in units)
        self.full_pass = sum(float(unit["plain_cost"]) for unit in units)
        columns = {id(document): column for column, document in enumerate(document for batch in batches for document in batch)}
        order = [columns[id(document)] for document in self.documents]
        change, affected = (np.concatenate([unit[name] for unit in units], axis=-1) for name in ("margin_change", "affected"))
        return tuple(values.reshape(len(self.heads), -1)[:, order] for values in (change, affected))  # type: ignore[return-value]

    def _table(
        self,
        scores: Mapping[Head, tuple[Sequence[CalibrationDocument], tuple[Any, ...], tuple[Any, ...]]],
        estimates: Mapping[Head, float] | None = None,
        shares: Mapping[Head, float] | None = None,
    ) -> pd.DataFrame:
        """A row for each head, by layer and head.

        Columns: `documents` it was scored on, pooled `accuracy_change` and `margin_change` with their standard errors `*_se`,
        in screened mode `estimate` (of the margin change) and `with_sinks` (share of documents), and both changes for
        each task. Changes are NaN where a head was not scored, and 0 where it has no sink in any document.
        """
        rows = []
        for head in self.heads:
            row: dict[str, Any] = {"layer": head[0], "head": head[1], "documents": 0}
            if estimates is not None and shares is not None:
                row |= {"estimate": estimates[head], "with_sinks": shares[head]}
            if head in scores:
                documents, plain, own = scores[head]
                row |= _changes(documents, plain, own)
            elif shares is not None and not shares[head]:
                nothing = np.zeros(len(self.documents))
                row |= _changes(self.documents, (nothing, nothing), (nothing, nothing))
            rows.append(row)
        return pd.DataFrame(rows)

    # --- selection

    def _select(self, table: pd.DataFrame) -> tuple[list[Head], pd.DataFrame]:
        scored = table[table["documents"] == len(self.documents)].sort_values("margin_change", ascending=False, kind="stable")
        if self.settings.selection == "improving":
            chosen = scored[scored["accuracy_change"] > 0]
        elif self.settings.selection == "top-k":
            chosen = scored.head(self.settings.k)
        else:
            return self._validated(scored[scored["margin_change"] > 0])
        return _heads_of(chosen), pd.DataFrame()

    def _validated(self, candidates: pd.DataFrame) -> tuple[list[Head], pd.DataFrame]:
        ranked = _heads_of(candidates)
        sizes = union_sizes(len(ranked))
        batches = self._batches(self.validation)
        documents = [document for batch in batches for document in batch]
        correct, margin = [], []
        for size in sizes:
            profile = _profile_of(ranked[:size])

            def compute(batch: Sequence[CalibrationDocument], profile: HeadProfile = profile) -> Arrays:
                scores, cost = self.evaluator.score_profile(batch, profile)
                return {"correct": scores.correct, "margin": scores.margin, "cost": np.array(cost)}

            text = f"validating {size} heads together"
            units = self._run_units(f"union{size}-{profile.content_hash}", batches, compute, text)
            self.costs["validation"] += sum(float(unit["cost"]) for unit in units)
            correct.append(np.concatenate([unit["correct"] for unit in units]))
            margin.append(np.concatenate([unit["margin"] for unit in units]))
        plain = correct[0], margin[0]
        rows = [
            {"heads": size, **_changes(documents, plain, (correct[place], margin[place]))} for place, size in enumerate(sizes)
        ]
        best = choose_union(np.stack(correct), np.stack(margin))
        unions = pd.DataFrame(rows)
        unions.insert(1, "chosen", [place == best for place in range(len(sizes))])
        return ranked[: sizes[best]], unions

    def _profile(
        self, heads: Sequence[Head], table: pd.DataFrame, unions: pd.DataFrame, full_passes: Mapping[str, float]
    ) -> HeadProfile:
        settings = self.settings
        alone = table.set_index(["layer", "head"])[["accuracy_change", "margin_change"]].round(6)
        scores = {f"{layer}:{head}": alone.loc[(layer, head)].to_dict() for layer, head in heads}
        provenance: dict[str, Any] = {
            "source": "act-eval search",
            "mode": self.mode,
            "selection": settings.selection if settings.k is None else f"top-{settings.k}",
            "layers_searched": list(self.layers),
            "tasks": self.splits,
            "documents": {"search": len(self.documents), "validation": len(self.validation)},
            "documents_hash": self.documents_hash,
            "limit": settings.limit,
            "num_fewshot": settings.num_fewshot,
            "apply_chat_template": settings.apply_chat_template,
            "seed": settings.seed,
            "weights_hash": self.weights_hash,
            "full_passes": {name: round(cost, 3) for name, cost in full_passes.items()},
            "heads_alone": scores,
            "versions": package_versions(),
        }
        if len(unions):
            columns = ["heads", "chosen", "accuracy_change", "margin_change"]
            provenance["heads_together"] = unions[columns].round(6).to_dict("records")
        name = settings.model_args.get("pretrained")
        return HeadProfile(
            _profile_of(heads).heads,
            model=str(name) if name is not None else "act-eval-demo",
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            settings=settings.act.settings,
            provenance=provenance,
        )


def _interleave(documents: Sequence[CalibrationDocument], seed: int) -> list[CalibrationDocument]:
    """Shuffled, with the tasks spread evenly, so that every stretch of the list holds its share of each."""
    rng = np.random.default_rng(seed)
    by_task: dict[str, list[CalibrationDocument]] = {}
    for document in documents:
        by_task.setdefault(document.task, []).append(document)
    placed = [
        ((position + 0.5) / len(of_task), task, of_task[int(index)])
        for task, of_task in by_task.items()
        for position, index in enumerate(rng.permutation(len(of_task)))
    ]
    return [document for _, _, document in sorted(placed, key=lambda item: item[:2])]


def _changes(documents: Sequence[CalibrationDocument], plain: tuple[Any, ...], own: tuple[Any, ...]) -> dict[str, Any]:
    """Pooled changes with standard errors, and changes for each task."""
    accuracy = own[0].astype(float) - plain[0].astype(float)
    margin = own[1] - plain[1]
    row: dict[str, Any] = {"documents": len(documents)}
    for name, changes in (("accuracy", accuracy), ("margin", margin)):
        row[f"{name}_change"], row[f"{name}_se"] = (float(value) for value in mean_and_error(changes))
    names = np.array([document.task for document in documents])
    for task in sorted(set(names)):
        of_task = names == task
        row[f"accuracy_change_{task}"], row[f"margin_change_{task}"] = accuracy[of_task].mean(), margin[of_task].mean()
    return row


def _heads_of(table: pd.DataFrame) -> list[Head]:
    return [(int(layer), int(head)) for layer, head in zip(table["layer"], table["head"], strict=True)]


def _profile_of(heads: Sequence[Head]) -> HeadProfile:
    return HeadProfile({layer: tuple(head for at, head in heads if at == layer) for layer in {layer for layer, _ in heads}})
