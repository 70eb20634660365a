"""Records that outlive their run's folder: one small KEY.zip a run, all of it but the store."""

import os
import re
import shutil
import zipfile
import zlib
from pathlib import Path

from kdlib.errors import KdlibError
from kdlib.registry import STRATEGIES
from kdlib.runs.files import json_object, machine
from kdlib.runs.run import Run, accuracy_by_architecture, load

MEMBER = re.compile(r"(experiment|machine|data|result)\.json|partition\.parquet|"
                    r"(left_out|records/[a-z]+-[0-9]+)\.jsonl")
WHOLE = ("experiment.json", "machine.json", "partition.parquet", "result.json")  # what none of them lacks
KEY = re.compile(r"[0-9a-f]{16}")
LARGEST = 256 * 2**20  # bytes of a run, unpacked: 10,000 clients for 20 rounds have less
EPOCH = (1980, 1, 1, 0, 0, 0)  # equal records give equal archives


def keep(the_run: Run, folder: str | Path) -> Path:
    """Write FOLDER/KEY.zip: a complete run's settings, partition, records and result; returns its path."""
    if the_run.result is None:
        raise KdlibError(f"run {the_run.key} is not complete; run it to its end before keeping it")
    target = Path(folder) / f"{the_run.key}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in the_run.folder.rglob("*") if path.is_file())
    named = [(path.relative_to(the_run.folder).as_posix(), path) for path in files]
    beside = target.with_suffix(f".{os.getpid()}.part")
    with zipfile.ZipFile(beside, "w") as archive:
        for name, path in named:
            if MEMBER.fullmatch(name):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return beside.replace(target)


def restore(folder: str | Path, runs: str | Path) -> list[str]:
    """Lay the kept runs that `runs` has no folder of there, as complete runs without a store; returns their keys.

    Raises KdlibError for a file that `keep` did not write, and for one whose content is not that of its run.
    """
    keys = []
    for path in sorted(Path(folder).glob("*.zip")):
        target = Path(runs) / path.stem
        if not KEY.fullmatch(path.stem):
            raise KdlibError(f"{path} is named by no run's key; allowed: 16 hexadecimal digits and .zip")
        if not target.exists():
            _unpack(path, target)
            keys.append(path.stem)
    return keys


def _unpack(path: Path, target: Path) -> None:
    beside = target.with_name(f".{target.name}.new")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            strange = [member.filename for member in members if not MEMBER.fullmatch(member.filename)]
            if missing := sorted({*WHOLE} - {member.filename for member in members}):
                raise KdlibError(f"{path} has no {missing[0]}; it is no kept run")
            if strange or sum(member.file_size for member in members) > LARGEST:
                raise KdlibError(f"{path} holds {strange[0] if strange else 'too much'}; it is no kept run")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(beside, ignore_errors=True)
            archive.extractall(beside / target.name)
        _expect_whole(path, beside / target.name)
        (beside / target.name).rename(target)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, OSError, EOFError) as error:
        raise KdlibError(f"{path} is damaged or no .zip file: {' '.join(str(error).split())}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _expect_whole(path: Path, folder: Path) -> None:
    """Raises KdlibError, which names the .zip file, unless everything in the folder can be read.

    Of a strategy that is not here Records say nothing that could be checked; `load` says so of that run alone.
    """
    try:
        machine(folder / "machine.json")
        strategy = json_object(folder / "experiment.json").get("strategy")
        if strategy not in STRATEGIES.names():
            return
        the_run = load(folder)
        if the_run.partition.empty or accuracy_by_architecture(the_run).empty:
            raise KdlibError("records measured no accuracy")
    except KdlibError as error:
        raise KdlibError(f"{path}: {str(error).replace(f'{folder}/', '')}") from error
