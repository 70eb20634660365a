"""Who took part: what a deadline decided is written down before anything acts on it, and every reader obeys it.

Object in the Store: public/cohort/ROUND, {step: the clients whose Step of that name counts, sorted}; none where nobody
missed.
"""

from collections.abc import Iterable

from kdlib.errors import Damaged
from kdlib.store import names
from kdlib.store.store import Store


def in_time(store: Store, round_: int, step: str, clients: Iterable[str]) -> list[str]:
    """Those of `clients` whose `step` counts in the round, in their order."""
    counted = read(store, round_).get(step)
    return [client for client in clients if counted is None or client in counted]


def last_counted(store: Store, round_: int, step: str, client: str) -> int:
    """The newest round up to `round` whose `step` of the client counts; 0 is before the first."""
    while round_ > 0 and not in_time(store, round_, step, [client]):
        round_ -= 1
    return round_


def read(store: Store, round_: int) -> dict[str, list[str]]:
    """What is written about the round: step -> clients; empty where nobody missed. Raises Damaged."""
    name = names.cohort(round_)
    counted = store.get_json(name) if store.exists(name) else {}
    if not isinstance(counted, dict) or not all(map(_names_clients, counted.values())):
        raise Damaged(f"{name} is damaged: it does not say whose Steps count")
    return counted


def _names_clients(clients: object) -> bool:
    return isinstance(clients, list) and all(isinstance(client, str) for client in clients)


def write(store: Store, round_: int, step: str, clients: Iterable[str]) -> None:
    """From now on only these clients' `step` counts in the round, whatever the others still write."""
    store.put_json(names.cohort(round_), read(store, round_) | {step: sorted(clients)})
