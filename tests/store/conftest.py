"""A store of each kind, and both of its ways to put and get."""

import uuid
from collections.abc import Callable
from typing import NamedTuple

import pytest
from stored import TENSORS, VALUE

from kdlib.store.store import Store


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def store(url):
    return Store(url)


class Kind(NamedTuple):
    suffix: str
    value: dict
    put: Callable
    get: Callable


@pytest.fixture(params=["tensors", "json"])
def kind(request, store):
    if request.param == "tensors":
        return Kind(".safetensors", TENSORS, store.put, store.get)
    return Kind(".json", VALUE, store.put_json, store.get_json)
