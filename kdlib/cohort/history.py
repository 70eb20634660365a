"""What a federation knows of its clients, how each round's are chosen by it, and what a replay follows.

A round's choice is stored before anybody acts on it, and so is which of its calls fail where that is modelled.
"""

import functools
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING

from kdlib.cohort import attendance, durations
from kdlib.cohort.selection import Past, choose, chosen_of, round_robin
from kdlib.errors import KdlibError
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.strategy import Chosen, everybody, strategy_of
from kdlib.settings.experiment import Experiment
from kdlib.settings.shared import Selecting
from kdlib.store.names import selection
from kdlib.store.store import Store

if TYPE_CHECKING:
    import pandas as pd


class History:
    """Who was called, who answered, in what time, where a strategy chooses its clients (Strategy.selects).

    items: of each client's private part. records: of the run so far; the driver adds those that come. Durations are
    those of the Records (`durations: measured`), or modelled.
    """

    def __init__(self, experiment: Selecting, store: Store, items: Mapping[str, int],
                 records: Iterable[Record] = ()) -> None:
        self.experiment, self.store, self.items = experiment, store, items
        self.step = _selects(experiment)
        self.pasts = dict.fromkeys(experiment.client_names, Past())
        self.known = 0  # rounds that are in `pasts`
        self.measured: dict[Step, float] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take notice of one more Record."""
        self.measured |= {step: part.seconds for step, part in record.done.items() if step.name == self.step}

    def chosen(self, round_: int) -> tuple[str, ...]:
        """The round's clients: as they are stored, or chosen now, and stored. All earlier rounds must be over.

        Raises KdlibError where all calls of the round fail.
        """
        if not self.decided(round_):
            self._learn(round_)
            self.store.put_json(selection(round_), list(choose(self.experiment, round_, self.pasts)))
        clients = chosen_of(self.experiment, self.store, round_)
        if self.step not in attendance.read(self.store, round_):
            there = [client for client in clients if not durations.fails(self.experiment, round_, client)]
            if not there:
                raise KdlibError(f"round {round_}: the calls of all {len(clients)} clients fail; allowed: a smaller "
                                 f"fail.share or fail.rate, or more clients_per_round")
            if len(there) < len(clients):
                attendance.write(self.store, round_, self.step, there)
        return clients

    def forecast(self, round_: int) -> tuple[str, ...]:
        """As `chosen` where that is decided, else clients in turn, for where only the number of Steps matters."""
        if self.decided(round_):
            return chosen_of(self.experiment, self.store, round_)
        return round_robin(self.experiment, round_)

    def decided(self, round_: int) -> bool:
        """Whether the round's clients are known already."""
        return self.experiment.selection == "round-robin" or self.store.exists(selection(round_))

    def _learn(self, before: int) -> None:
        for round_ in range(self.known + 1, before):
            for client in chosen_of(self.experiment, self.store, round_):
                there = attendance.in_time(self.store, round_, self.step, [client])
                self.pasts[client] = self.pasts[client].after(round_, self._seconds(round_, client) if there else None)
            self.known = round_

    def _seconds(self, round_: int, client: str) -> float:
        if self.experiment.durations == "measured":
            return self.measured[Step(self.step, round_, client)]
        return durations.modelled(self.experiment, client, self.items[client])


def in_turn(experiment: Experiment) -> Chosen:
    """Clients that take turns, or all of them: as many as the strategy calls, whoever it will be."""
    if strategy_of(experiment).selects is None:
        return everybody(experiment)
    assert isinstance(experiment, Selecting)  # what a strategy that selects has for settings
    return functools.partial(round_robin, experiment)


def follow(experiment: Experiment, store: Store, records: Iterable[Record], left_out: Container[Step] = ()) -> None:
    """Have a run in `store` call the clients that the Records are of, in each round and for each Step, and no others.

    left_out: Steps that were done and do not count.

    A client that was called and missed the call has no Record; it is not called again.
    """
    selects = strategy_of(experiment).selects
    there: dict[tuple[int, str], list[str]] = defaultdict(list)
    for record in records:
        for step in record.done:
            if step.round and experiment.has_client(step.subject) and step not in left_out:
                there[step.round, step.name].append(step.subject)
    for (round_, name), clients in there.items():
        if name == selects and experiment.setting("selection") != "round-robin":
            store.put_json(selection(round_), sorted(clients))
        else:
            expected = in_turn(experiment)(round_) if name == selects else experiment.client_names
            if set(clients) < set(expected):
                attendance.write(store, round_, name, clients)


def simulate(experiment: Selecting, items: Mapping[str, int]) -> "pd.DataFrame":
    """The rounds of a run with modelled durations, without any training: they follow from the Experiment alone.

    One row a call: round, client, architecture, slow, failed, seconds (that the round waits for it: its duration, or
    the deadline where it fails). A round takes as long as its longest call.
    """
    import pandas as pd  # only here: what strategies import is imported at each cold start of a function

    limit = durations.deadline(experiment, items)
    pasts = dict.fromkeys(experiment.client_names, Past())
    slow, rows = durations.slow(experiment), []
    for round_ in range(1, experiment.rounds + 1):
        for client in choose(experiment, round_, pasts):
            failed = durations.fails(experiment, round_, client)
            seconds = limit if failed else durations.modelled(experiment, client, items[client])
            pasts[client] = pasts[client].after(round_, None if failed else seconds)
            rows.append((round_, client, experiment.architecture_of(client), client in slow, failed, seconds))
    return pd.DataFrame(rows, columns=["round", "client", "architecture", "slow", "failed", "seconds"])


def _selects(experiment: Selecting) -> str:
    step = strategy_of(experiment).selects
    if step is None:
        raise KdlibError(f"{experiment.strategy} chooses no clients; allowed: a strategy with `selects`")
    return step
