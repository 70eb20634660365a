"""Settings that several strategies have: those that teach on public data, score on held-out data, or choose clients."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdlib.settings.experiment import Batch, Cap, Count, Experiment
from kdlib.settings.stragglers import Fail, Slow

LEAST = 3  # clients among whom one can be outvoted


class Aligned(Experiment):
    """Of strategies in which clients and students meet on public data.

    public_items: public training items at most; alignment_items: how many of them a round's sample has.
    """

    public_items: Annotated[int, Field(ge=10)] | None = None
    alignment_items: Batch = 5000

    uses_public: ClassVar[bool] = True


class Agreeing(Experiment):
    """Of strategies whose server makes one of what clients predict.

    mean: over the clients, value by value: plain, or one that a few of them cannot move far, trimmed or the median; see
    kdlib.learning.client.agreed.
    """

    mean: Literal["plain", "trimmed", "median"] = "plain"

    @model_validator(mode="after")
    def _some_can_outvote_one(self) -> Self:
        called = self.setting("clients_per_round") or self.clients
        if self.mean != "plain" and called < LEAST:
            raise ValueError(f"mean is {self.mean}, and {called} clients a round take part; allowed: {LEAST} at least, "
                             "or plain")
        return self


class Validated(Experiment):
    """Of strategies whose server scores on held-out private items. validation_items: of those at most."""

    validation_items: Cap = None


class Selecting(Experiment):
    """Of strategies in which only some clients are called in a round.

    clients_per_round: how many are called, every architecture among them. local_epochs: of each on its private data.
    selection: who is called, see kdlib.cohort.selection. durations: what `behaviour` goes by, each client's training
    time as its Records have it, or modelled (kdlib.cohort.durations), where `slow` clients take longer and calls to
    others `fail`.
    """

    clients_per_round: Count = 20
    local_epochs: Count = 5
    selection: Literal["round-robin", "random", "behaviour"] = "round-robin"
    durations: Literal["modelled", "measured"] = "modelled"
    slow: Slow | None = None
    fail: Fail | None = None

    @model_validator(mode="after")
    def _every_architecture_is_served(self) -> Self:
        least, most = len(self.architectures), self.clients
        if not least <= self.clients_per_round <= most:
            raise ValueError(f"clients_per_round is {self.clients_per_round}; allowed: {least} (one of each "
                             f"architecture) to {most} (all clients)")
        return self

    @model_validator(mode="after")
    def _what_is_measured_is_not_modelled(self) -> Self:
        if self.durations == "measured" and (self.slow or self.fail):
            raise ValueError("durations are measured, so none can be modelled as slow or failing; "
                             "allowed: durations modelled, or neither slow nor fail")
        return self
