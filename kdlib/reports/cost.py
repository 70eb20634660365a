"""What Records cost, by a provider's prices, for the paper's limits or what a function really needed (PAPER: Cost).

    cost = call fee + duration, rounded up to the provider's step, x (memory rate x GiB + compute rate x vCPU or GHz)

Money is exact: prices are read as decimals, seconds as they stand in the Record, and sums are of rationals.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from kdlib import toml
from kdlib.invoke.steps import Record
from kdlib.invoke.strategy import Carrier, strategy_of
from kdlib.runs.run import Run

BUILT_IN = Path(__file__).parent / "prices"
SECONDS = {"second": 1, "hour": 3600}

Price = Annotated[Decimal, Field(ge=0, le=10_000, allow_inf_nan=False)]
Amount = Annotated[Decimal, Field(gt=0, le=10_000, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=300)]


class Limits(NamedTuple):
    """What a function may use, and is paid for: vCPU, and memory in GiB."""

    vcpu: Fraction | int
    gib: Fraction | int


# The paper's setting. It tells no memory of its Ray workers of 4 CPU; they get what the aggregators have.
PAPER = {"client": Limits(2, 4), "aggregator": Limits(6, 16), "worker": Limits(4, 16)}


class Rates(BaseModel):
    """Prices in USD.

    million_calls: of a million calls. gib, compute: of a GiB and of a vCPU (of a GHz, where ghz_per_vcpu says how many
    a vCPU has) for a second or an hour, see `per`. step: seconds to whose multiple a duration is rounded up; None: not
    rounded. gib_step: GiB to whose multiple the memory is. gib_per_vcpu: memory that a vCPU comes with, where CPU is
    not bought by itself. sizes: (GiB, vCPU or GHz) on offer; none: any size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per: Literal["second", "hour"]
    gib: Price
    compute: Price = Decimal(0)
    million_calls: Price = Decimal(0)
    step: Amount | None = None
    ghz_per_vcpu: Amount | None = None
    gib_step: Amount | None = None
    gib_per_vcpu: Amount | None = None
    sizes: Annotated[tuple[tuple[Amount, Amount], ...], Field(max_length=1000)] = ()

    def size(self, limits: Limits) -> tuple[Fraction, Fraction]:
        """GiB, and vCPU or GHz, of the cheapest function on offer that has the limits; where none has, the limits."""
        gib, compute = Fraction(limits.gib), Fraction(limits.vcpu) * Fraction(self.ghz_per_vcpu or 1)
        if self.gib_per_vcpu:
            gib = max(gib, limits.vcpu * Fraction(self.gib_per_vcpu))
        if self.gib_step:
            gib = _up(gib, self.gib_step)
        offered = [(Fraction(has_gib), Fraction(has_compute)) for has_gib, has_compute in self.sizes]
        fitting = [size for size in offered if size[0] >= gib and size[1] >= compute]
        return min(fitting, key=self._a_second, default=(gib, compute))

    def a_second(self, limits: Limits) -> Fraction:
        """USD for a second of a function of these limits."""
        return self._a_second(self.size(limits))

    def cost(self, seconds: float, limits: Limits) -> Fraction:
        """USD for one call of so many seconds."""
        duration = Fraction(str(seconds))  # as the Record says it: 0.1 is a tenth, not the float next to it
        if self.step:
            duration = _up(duration, self.step)
        return Fraction(self.million_calls) / 10**6 + duration * self.a_second(limits)

    def _a_second(self, size: tuple[Fraction, Fraction]) -> Fraction:
        gib, compute = size
        return (gib * Fraction(self.gib) + compute * Fraction(self.compute)) / SECONDS[self.per]


class Prices(BaseModel):
    """A dated price table. functions: of clients and aggregators; workers: of Ray's, default: the functions' rates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: Text
    region: Text
    date: date
    source: Text
    functions: Rates
    workers: Rates | None = None

    @property
    def title(self) -> str:
        """Provider, region and date, for a caption."""
        return f"{self.provider}, {self.region}, {self.date}"

    def of(self, kind: str) -> Rates:
        """The rates of a client, an aggregator or a worker."""
        return self.workers or self.functions if kind == "worker" else self.functions


def built_in() -> list[str]:
    """Names of the price tables that come with kdlib."""
    return toml.built_in(BUILT_IN)


def load_prices(name: str | Path) -> Prices:
    """The built-in price table `name`, or the one in the TOML file at that path.

    Raises KdlibError where there is none, or where its file says something that Prices cannot be.
    """
    return toml.read(toml.find(str(name), BUILT_IN, "prices"), "price table", lambda said: Prices(**said), Decimal)


def total(the_run: Run, prices: Prices, limits: Mapping[str, Limits] = PAPER) -> Fraction:
    """USD for all its invocations: of their seconds in the function, whatever they waited around them."""
    return sum((prices.of(carrier).cost(record.seconds, limits[carrier])
                for record, carrier in _carried(the_run)), Fraction(0))


def right_sized(the_run: Run) -> dict[str, Limits]:
    """What each kind of function really needed: as many vCPU as it has threads, and the peak of its memory.

    The peak is the process's, so where one process served several kinds it is that of the hungriest. No headroom.
    """
    needs: dict[str, Limits] = {}
    for record, carrier in _carried(the_run):
        before = needs.get(carrier, Limits(0, 0))
        needs[carrier] = Limits(max(before.vcpu, record.threads), max(before.gib, Fraction(record.peak_memory, 2**30)))
    return needs


def bill(the_run: Run, prices: Prices, limits: Mapping[str, Limits] = PAPER) -> pd.DataFrame:
    """`the_run.table` with kind, and usd (float) of each invocation: sum it by step, subject or round.

    kind: who carried it out, see kdlib.invoke.strategy.Carrier.
    """
    carried = list(_carried(the_run))
    usd = [float(prices.of(carrier).cost(record.seconds, limits[carrier])) for record, carrier in carried]
    return the_run.table.assign(kind=[carrier for _, carrier in carried], usd=usd)


def _carried(the_run: Run) -> Iterator[tuple[Record, Carrier]]:
    strategy = strategy_of(the_run.experiment)
    for record in the_run.records():
        yield record, strategy.carrier(record.step, record.subject)


def _up(amount: Fraction, step: Decimal) -> Fraction:
    """The next multiple of `step`."""
    return math.ceil(amount / Fraction(step)) * Fraction(step)


__all__ = ["PAPER", "Limits", "Prices", "Rates", "bill", "built_in", "load_prices", "right_sized", "total"]
