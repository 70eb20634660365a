"""The files of a run's folder, read as anybody's: each holds what its name says, or one line names the file."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kdlib.errors import KdlibError
from kdlib.files import content
from kdlib.invoke.steps import Round, Seconds
from kdlib.settings.experiment import Experiment
from kdlib.toml import one_line

LARGEST = 16 * 2**20  # bytes of a file that is read at once
NUMBERS = ("label", "items", "draws", "moved", "unused")  # columns of the partition's table
URL = r"[^\s\x00-\x1f\x7f]+"

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Word = Annotated[str, Field(max_length=400, pattern=r"^[^\x00-\x1f\x7f]*$")]
Facts: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[Word, Word | int | list[Word] | None])


class Result(BaseModel):
    """result.json. left_out: client -> rounds of which it was left out, late, failed or damaged (left_out.jsonl)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    folder: str
    accuracy: Share
    per_architecture: Annotated[dict[str, Share], Field(min_length=1)]
    rounds: Round
    seconds: Seconds
    final_bytes: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    left_out: dict[str, list[Round]] = {}


def text(path: Path) -> str:
    """The file's text. Raises KdlibError where it cannot be read, is too long, or is no UTF-8."""
    try:
        return content(path, LARGEST).decode()
    except OSError as error:
        raise KdlibError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KdlibError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from error


def json_object(path: Path) -> dict[str, Any]:
    """The file's JSON object. Raises KdlibError where it holds none."""
    try:
        found = json.loads(text(path), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise KdlibError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise KdlibError(f"{path} holds no JSON object")
    return found


def result(path: Path, key: str, experiment: Experiment) -> dict[str, Any]:
    """What result.json says of the run of that key. Raises KdlibError where it cannot be."""
    found = json_object(path)
    try:
        said = Result.model_validate(found)
    except ValidationError as error:
        raise KdlibError(f"{path} is no result: {one_line(error)}") from error
    others = set(said.per_architecture) - set(experiment.architectures)
    if others or (said.key, said.rounds) != (key, experiment.rounds):
        raise KdlibError(f"{path} is the result of another run; allowed: that of {key}")
    if not np.isclose(said.accuracy, np.mean(list(said.per_architecture.values()))):
        raise KdlibError(f"{path} has an accuracy that is not the mean of its architectures'")
    return found


def machine(path: Path) -> dict[str, Any]:
    """What machine.json says. Raises KdlibError where it cannot be."""
    try:
        return Facts.validate_python(json_object(path))
    except ValidationError as error:
        raise KdlibError(f"{path} describes no machine: {one_line(error)}") from error


def partition(path: Path, experiment: Experiment) -> pd.DataFrame:
    """The table of partition.parquet. Raises KdlibError where it is none of this experiment's clients."""
    if not path.is_file():
        raise KdlibError(f"cannot read {path}: no such file")
    try:
        with path.open("rb") as file:  # by its name, `a=1` in a folder's were a column
            table = pd.read_parquet(file)
    except Exception as error:  # whatever pandas and pyarrow make of a file of anybody's
        raise KdlibError(f"{path} is no parquet file: {' '.join(str(error).split())[:160]}") from error
    if missing := sorted({"client", *NUMBERS} - set(table)):
        raise KdlibError(f"{path} has no column {missing[0]}")
    if set(table["client"]) != set(experiment.client_names):
        raise KdlibError(f"{path} is of other clients; allowed: the {experiment.clients} of its experiment")
    for name in NUMBERS:
        if table[name].dtype.kind not in "iu" or (table[name] < 0).any():
            raise KdlibError(f"{path}: {name} has what is no count; allowed: whole numbers, 0 at least")
    return table


def store_url(path: Path, key: str) -> str:
    """The URL in store.url. Raises KdlibError where it does not lead to objects of the run of that key."""
    url = text(path)
    if not re.fullmatch(rf"{URL}/\{{owner\}}/{re.escape(key)}", url):
        raise KdlibError(f"{path} names no store of this run; allowed: URL/{{owner}}/{key}")
    return url


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")
