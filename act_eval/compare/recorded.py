"""Which runs of a comparison are finished, and what has changed since the others ran.

A results file says what was asked for, in the words of the user, and what that stood for when it ran: the content of the head
profile, the tasks with their documents, the model, the package versions. A run is finished where all of it is as it is now.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act_eval.compare.plan import Run
from act_eval.differences import differences, in_words
from act_eval.files import files_below
from act_eval.harness.checkpoint_files import Stamps
from act_eval.harness.what_ran import package_versions
from act_eval.planned_runs import IDENTITY_KEY
from act_eval.profiles import stored_profile

logger = logging.getLogger(__name__)

OF_WHAT_RAN = ("model", "versions")  # what of the config's `what_ran` is part of the identity

Identity = dict[str, Any]


def identity_of(run: Run, task: Mapping[str, Any], what_ran: Mapping[str, Any]) -> Identity:
    """Collect what must agree for a finished run to count as this one, in values that JSON can hold.

    Args:
        run: what is asked for.
        task: see `describe_task`.
        what_ran: see `harness.what_ran.what_ran`.
    """
    profile = stored_profile(run.arguments.profile)
    digest = None if profile is None else profile.content_hash
    return {"asked": run.asked, "profile": digest, "tasks": {run.task: dict(task)}, **what_ran}


def recorded_identity(content: Mapping[str, Any]) -> Identity | None:
    """Read from the content of a results file what ran; None where a comparison did not write it."""
    recorded, what_ran = content.get(IDENTITY_KEY), content.get("config", {}).get("what_ran")
    if not isinstance(recorded, dict) or not isinstance(what_ran, dict):
        return None
    return {**recorded, **{name: value for name, value in what_ran.items() if name in OF_WHAT_RAN}}


@dataclass(frozen=True)
class RecordedRuns:
    """The results that lie in a folder.

    Attributes:
        identities: of the runs.
        stamps: for each, those of the checkpoint that it was loaded from, see `checkpoint_stamps`.
    """

    identities: Sequence[Identity]
    stamps: Sequence[Stamps | None]

    @classmethod
    def read(cls, folder: Path) -> RecordedRuns:
        """Read all results files of comparisons below a folder; one that is not readable counts as missing."""
        found = []
        for file in files_below(folder, "results_*.json"):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                identity = recorded_identity(content)
                if identity is not None:
                    found.append((identity, content["config"].get("checkpoint_files")))
            except (OSError, ValueError, AttributeError):
                logger.warning("%s is not readable and counts as missing.", file)
        return cls([identity for identity, _ in found], [stamps for _, stamps in found])

    def model_of(self, run: Run, stamps: Stamps | None) -> dict[str, Any] | None:
        """The model that a run loads, from an earlier run with the same arguments and the same files; None without one."""
        if stamps is None:
            return None
        asked = _of_the_model(run.asked)
        for identity, others in zip(self.identities, self.stamps, strict=True):
            if others == stamps and _of_the_model(identity["asked"]) == asked:
                return dict(identity["model"])
        return None

    def foreseen_identity(self, run: Run, task: Mapping[str, Any], stamps: Stamps | None) -> Identity | None:
        """The identity of a run as far as files tell it without loading the model; None where they do not.

        Args:
            run: what is asked for.
            task: see `describe_task`.
            stamps: of the checkpoint that the run loads, see `checkpoint_stamps`.
        """
        model = self.model_of(run, stamps)
        return None if model is None else identity_of(run, task, {"model": model, "versions": package_versions()})

    def has_asked(self, run: Run) -> bool:
        """Whether a run was asked for in the same words, whatever they stood for."""
        return any(identity["asked"] == run.asked for identity in self.identities)

    def holds(self, identity: Identity) -> bool:
        """Whether this run is finished."""
        return identity in self.identities

    def changes(self, identity: Identity) -> tuple[str, ...]:
        """What is different now from the run that was asked for in the same words; nothing where there is none."""
        same = [earlier for earlier in self.identities if earlier["asked"] == identity["asked"]]
        return min((tuple(differences(earlier, identity)) for earlier in same), key=len, default=())


def _of_the_model(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked["model_args"].items() if not name.startswith("act_")}


def explain_changes(recorded: RecordedRuns, missing: Iterable[Identity]) -> list[str]:
    """Say in a line for each kind of change how many finished runs are run again for it."""
    counts = Counter(changes for identity in missing if (changes := recorded.changes(identity)))
    return [
        f"{count} finished runs are run again, since this has changed: {in_words(changes)}."
        for changes, count in counts.items()
    ]


@dataclass(frozen=True)
class FinishedRuns:
    """All runs of a comparison, as its results files hold them.

    Attributes:
        identities: of the runs.
    """

    identities: Sequence[Identity]

    def has(self, content: Mapping[str, Any]) -> bool:
        """Whether a results file with this content is of one of the runs."""
        return recorded_identity(content) in self.identities

    def is_outdated(self, content: Mapping[str, Any]) -> bool:
        """Whether a results file with this content is of what one of the runs was before something changed."""
        identity = recorded_identity(content)
        if identity is None or identity in self.identities:
            return False
        return any(identity["asked"] == current["asked"] for current in self.identities)
