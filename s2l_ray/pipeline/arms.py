"""The arms of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_ray.config import SelectorName, TrainingConfig
from s2l_ray.pipeline.identity import file_name
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest
from s2l_ray.training.checkpoints import num_steps

FULL_COMPUTE, FULL_EPOCHS = "full, equal compute", "full, equal epochs"


@dataclass(frozen=True)
class Arm:
    """A target to train: on what, for how long, and with which seeds."""

    budget: str  # as asked for
    match: str  # what is equal to the baseline's: examples, tokens or compute
    selection_seed: int
    training_seed: int
    method: str  # a selector's name, FULL_COMPUTE or FULL_EPOCHS
    examples: Manifest
    count: int  # of examples that have a label token
    tokens: int  # in these, by the proxy's tokenizer
    shared: float  # the share of them that the baseline's subset has too
    training: TrainingConfig
    like: str | None = None  # the selector that the method resembles
    own_name: str = ""  # unless set, the name follows from the rest

    @property
    def steps(self) -> int:
        return num_steps(self.training, self.count)

    @property
    def pair(self) -> tuple[str, str, int, int]:
        """Equal for the arms that are compared with one arm of the baseline."""
        return self.budget, self.match, self.selection_seed, self.training_seed

    @property
    def name(self) -> str:
        """Arms with one name are one training."""
        who = file_name(self.method.replace(", equal ", "-"))
        return self.own_name or (
            f"{who}-{self.count}-seed{self.selection_seed}-steps{self.steps}"
            f"-train{self.training_seed}"
        )


def can_match(selector: SelectorName, match: str) -> bool:
    """Whether a selector's subset tells something there. A random draw with another selection's
    tokens belongs beside that selection at equal examples; at equal tokens it is `random`."""
    return match == "examples" or selector_named(selector).like != "tokens"
