"""What hostile peers answer, and what lies in a hostile store where an object was."""

import gzip
import json
import os
import time
from pathlib import Path

import torch

from kdlib.store.store import TENSORS, Store

LIES = (  # each is something that no Record of the Step can say
    lambda record: record | {"seconds": -1.0},
    lambda record: record | {"around": "NaN"},
    lambda record: record | {"round": record["round"] + 1},
    lambda record: record | {"run": "0" * 16},
    lambda record: record | {"bytes_out": 2**60},
    lambda record: record | {"parts": []},
    lambda record: record | {"parts": record["parts"] * 2},
    lambda record: record | {"parts": [record["parts"][0] | {"metrics": {"made_up": 1.0}}]},
    lambda record: record | {"parts": [record["parts"][0] | {"step": "other"}]},
    lambda record: record | {"subject": "client-0009"},
    lambda record: record | {"more": 1},
)
told = 0  # how many of them


def _lie(reply: bytes) -> bytes:
    global told
    told += 1
    return answer(json.dumps(LIES[told % len(LIES)](json.loads(reply.partition(b"\r\n\r\n")[2]))).encode())


def _slow(reply: bytes):
    """A byte now and then, for far longer than anybody waits."""
    for place in range(200):
        yield reply[place:place + 1]
        time.sleep(0.1)


def answer(body: bytes, *headers: str) -> bytes:
    """A reply of status 200."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


# kind -> what comes in the place of the reply: bytes, or some one after the other.
ANSWERED = {
    "answer no Record": lambda reply: answer(b"<html>busy</html>"),
    "answer a lie": _lie,
    "answer endless": lambda reply: answer(reply.partition(b"\r\n\r\n")[2] + b" " * 10**7),
    "answer compressed": lambda reply: answer(gzip.compress(b" " * 10**7), "Content-Encoding: gzip"),
    "answer byte by byte": _slow,
}

# kind -> what an object's tensors become, or its content, under a checksum that is right or none.
SPOILT = {
    "object truncated": lambda tensors, content: content[: len(content) // 2],
    "object of junk": lambda tensors, content: bytes(range(256)) * 9,
    "object not finite": lambda tensors, content: {key: torch.full_like(tensor, torch.nan)
                                                   if tensor.is_floating_point() else tensor
                                                   for key, tensor in tensors.items()},
    "object of another shape": lambda tensors, content: {key: tensor[None] for key, tensor in tensors.items()},
    "object of other names": lambda tensors, content: {f"{key}_": tensor for key, tensor in tensors.items()},
}
OF_ANOTHER_ONLY = {"object not finite"}  # one's own training may have diverged

# kind -> what is made in the place of an object's file, where the store is a folder.
PLANTED = {
    "object a pipe": os.mkfifo,
    "object a folder": os.mkdir,
    "object a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "object a link to itself": lambda path: path.symlink_to(path),
}


def plant(kind: str, store: Store, name: str) -> None:
    """Put what the kind says in the object's place."""
    path = store._path(name, TENSORS)
    if kind in PLANTED:
        clear(Path(path))
        PLANTED[kind](Path(path))
        return
    spoilt = SPOILT[kind](store.get(name), store.content(name))
    if isinstance(spoilt, bytes):
        store.fs.pipe_file(path, spoilt)
    else:
        store.put(name, spoilt)


def restore(store: Store, name: str, whole: bytes) -> None:
    """Put the object back as it was."""
    path = store._path(name, TENSORS)
    if "file" in store.fs.protocol:
        clear(Path(path))
    store.fs.pipe_file(path, whole)


def clear(path: Path) -> None:
    """Whatever lies there goes."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
