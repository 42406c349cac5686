"""The arms of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_ray.config import BASELINE, SelectorName, TrainingConfig
from s2l_ray.pipeline.identity import file_name
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest
from s2l_ray.training.checkpoints import num_steps

FULL_COMPUTE, FULL_EPOCHS = "full, equal compute", "full, equal epochs"
UNTUNED = "untuned"  # the target before any training
OF = " of "  # between a control and the selector that it resembles: random_shares of s2l
IN = " in shares of "  # between a selector and the one whose source shares it has


def more_random(times: float) -> str:
    """Name random selection with so many times the budget."""
    return f"{BASELINE} ×{times:g}"


def times_of(method: str) -> float | None:
    """Return the factor of such a name; None for another method."""
    name, _, times = method.partition(" ×")
    return float(times) if name == BASELINE and times else None


@dataclass(frozen=True)
class Arm:
    """A target to train: on what, for how long, and with which seeds."""

    budget: str  # as asked for
    match: str  # what is equal to the baseline's: examples, tokens or compute
    selection_seed: int
    training_seed: int
    method: (
        str  # a selector's name (with OF or IN), more_random, FULL_COMPUTE, FULL_EPOCHS or UNTUNED
    )
    examples: Manifest
    count: int  # of examples that have a label token
    tokens: int  # in these, by the proxy's tokenizer
    shared: float  # the share of them that the baseline's subset has too
    training: TrainingConfig
    like: str | None = None  # the selector that the method resembles
    own_name: str = ""  # unless set, the name follows from the rest

    @property
    def steps(self) -> int:
        if self.method == UNTUNED:
            return 0
        return num_steps(self.training, self.count)

    @property
    def pair(self) -> tuple[str, str, int, int]:
        """Equal for the arms that are compared with one arm of the baseline."""
        return self.budget, self.match, self.selection_seed, self.training_seed

    @property
    def name(self) -> str:
        """Arms with one name are one training."""
        if self.method == UNTUNED:
            return UNTUNED if self.training.model.name else f"{UNTUNED}-train{self.training_seed}"
        who = BASELINE if times_of(self.method) else self.method
        who = file_name(
            who.replace(", equal ", "-").replace(IN, "-in-shares-of-").replace(OF, "-of-")
        )
        return self.own_name or (
            f"{who}-{self.count}-seed{self.selection_seed}-steps{self.steps}"
            f"-train{self.training_seed}"
        )


def can_match(selector: SelectorName, match: str) -> bool:
    """Whether a selector's subset tells something there. A random draw with another selection's
    tokens belongs beside that selection at equal examples; at equal tokens it is `random`."""
    return match == "examples" or selector_named(selector).like != "tokens"
