"""What ails some clients, as far as it is modelled: they are slow, or they fail."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Slow(BaseModel):
    """share: of the clients, drawn by seed, that take `factor` times as long as others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Share
    factor: Annotated[float, Field(ge=1, le=1000)]


class Fail(BaseModel):
    """share: of the clients, drawn by seed, whose calls fail; rate: how many of their calls, each drawn by seed too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Share
    rate: Share = 1.0
