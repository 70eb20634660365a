"""What a function's own credentials may do in S3, asked of a server that checks them."""

import uuid

import pytest
import torch

from faas.cluster.access import folders, policy, reads, writes
from kdlib.errors import KdlibError
from kdlib.store.store import Store
from servers import BUCKET

TENSORS = {"x": torch.ones(3)}
NAMES = ("private/client-0003/data", "private/client-0004/data", "private/client-00030/data", "client-0003/001/weights",
         "client-0004/001/weights", "client-00030/001/weights", "public/test", "aggregator/validation")


@pytest.mark.parametrize(("subject", "readable", "writable"), [
    ("client-0003", {"private/client-0003/data", "client-0003/001/weights", "public/test"},
     {"client-0003/001/weights"}),
    ("aggregator", {name for name in NAMES if not name.startswith("private")},
     {"public/test", "aggregator/validation"}),
    ("ray", {"public/test"}, {"public/test"}),
])
def test_with_a_functions_credentials_s3_refuses_all_else(subject, readable, writable, s3, s3_server, monkeypatch):
    anyone = Store(f"{s3}/runs/{{owner}}/key")
    for name in NAMES:
        anyone.put(name, TENSORS)
    user = s3_server.user(f"{subject}-{uuid.uuid4().hex[:8]}", *policy(subject, f"{s3}/runs")["Statement"])
    for key, value in user.items():
        monkeypatch.setenv(key, value)
    own = Store(f"{s3}/runs/{{owner}}/key")

    def allowed(call, name, *arguments):
        try:
            getattr(own, call)(name, *arguments)
        except KdlibError as error:
            why = str(error)
        else:
            return True
        assert "S3 refuses: Access Denied" in why
        return False

    assert {name for name in NAMES if allowed("get", name)} == readable
    assert {name for name in NAMES if allowed("put", name, TENSORS)} == writable
    assert not [name for name in NAMES if allowed("delete", name)], "the driving process sweeps"


def test_a_policy_ends_where_the_store_does():
    for store, below in (("s3://bucket", ""), ("s3://bucket/a/b", "a/b/")):
        read, write, listing = policy("client-0003", store)["Statement"]
        assert read["Resource"] == [f"arn:aws:s3:::bucket/{below}{owner}/*" for owner in reads("client-0003")]
        assert write["Resource"] == [f"arn:aws:s3:::bucket/{below}client-0003/*"]
        assert listing["Resource"] == "arn:aws:s3:::bucket"
        assert set(listing["Condition"]["StringLikeIfExists"]["s3:prefix"]) == {
            f"{below}{owner}/*" for owner in reads("client-0003")}
    assert BUCKET not in str(policy("client-0003", "s3://bucket"))


def test_what_is_written_can_be_read():
    for subject in ("client-0003", "aggregator", "ray"):
        assert set(writes(subject)) <= set(reads(subject))


def test_an_aggregator_mounts_what_every_client_wrote_and_no_private_part():
    found = folders("aggregator", ["client-0000", "client-0001"])
    assert found == {"public": True, "aggregator": True, "client-0000": False, "client-0001": False}
