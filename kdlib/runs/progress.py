"""A progress bar whose ETA knows that Steps of different kinds take different times, and that some go side by side."""

import time
from collections import Counter, defaultdict
from typing import Self

from tqdm.auto import tqdm

from kdlib.invoke.steps import Record, Step


class Progress:
    """One tick a Step; the ETA adds up, kind by kind, what is left times the mean seconds seen so far.

    That is divided by how many seconds of Steps a second brought so far: by as many as really go at a time.

    total: Steps of the whole run; left: those that no earlier session carried out.
    """

    def __init__(self, title: str, total: int, left: list[Step], show: bool) -> None:
        self.left = Counter(step.name for step in left)
        self.seen: dict[str, list[float]] = defaultdict(list)
        self.began = time.monotonic()
        self.bar = tqdm(total=total, initial=total - len(left), desc=title, unit="step",
                        disable=not show, bar_format="{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt} steps, "
                                                     "{elapsed} so far{postfix}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def tick(self, record: Record) -> None:
        """Count one finished Step."""
        self.left[record.step] -= 1
        self.seen[record.step].append(record.seconds + record.around)
        where = f"round {record.round} {record.step}"
        self.bar.set_postfix_str(f"{tqdm.format_interval(self.seconds_left())} to go, {where}", refresh=False)
        self.bar.update()

    def seconds_left(self) -> float:
        """The estimate; a kind of Step not yet seen counts like the mean of all those seen."""
        means = {kind: sum(times) / len(times) for kind, times in self.seen.items()}
        overall = sum(means.values()) / len(means)
        left = sum(count * means.get(kind, overall) for kind, count in self.left.items())
        done = sum(map(sum, self.seen.values()))
        return left * (time.monotonic() - self.began) / done if done else 0.0
