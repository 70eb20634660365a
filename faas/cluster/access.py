"""Who may touch what: the owners, first words of an object's name, that each function's store lets it read and write.

A function is told who it is and where its store lies by its environment alone:

    KDLIB_SUBJECT       client-0000 ..., or aggregator: whose Steps it carries out, and the audience of its tokens
    KDLIB_STORE         URL of a store without the run's key, such as file:///store/{owner} or s3://bucket/runs/{owner}
    KDLIB_PUBLIC_KEYS   that calls' tokens are checked by, see kdlib.invoke.tokens
    KDLIB_PLUGINS       files and modules with strategies and networks from outside, if any, see kdlib.registry
    AWS_*               its own credentials, endpoint and region where the store is in S3
    PORT                where it listens; Knative sets it

An object of a run lies at KDLIB_STORE/KEY/NAME, `{owner}` being the owner: private/client-0000 (a client's data),
client-0000 (what it writes), public, or aggregator. Mounts and policies are made of what this module says, so that the
store itself refuses everything else.
"""

from collections.abc import Iterable

from kdlib.invoke.tokens import AGGREGATOR

CLIENTS = "client-*"  # every client's
RAY = "ray"  # the cluster that pre-trains every architecture


def reads(subject: str) -> tuple[str, ...]:
    """The owners whose objects the function may read."""
    if subject == AGGREGATOR:
        return "public", AGGREGATOR, CLIENTS
    if subject == RAY:
        return ("public",)
    return "public", subject, f"private/{subject}"


def writes(subject: str) -> tuple[str, ...]:
    """The owners whose objects the function may write; it may read them too."""
    if subject == AGGREGATOR:
        return "public", AGGREGATOR
    return ("public",) if subject == RAY else (subject,)


def policy(subject: str, store: str) -> dict:
    """The S3 policy of a function's credentials; store: s3://bucket or s3://bucket/prefix.

    To list is allowed so that S3 says of an absent object that it is absent, not that it is forbidden; a listing that
    names a prefix is allowed for the function's own alone.
    """
    bucket, _, prefix = store.removeprefix("s3://").partition("/")
    below = f"{prefix}/" if prefix else ""
    readable = [f"{below}{owner}/*" for owner in reads(subject)]
    return {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": [f"arn:aws:s3:::{bucket}/{key}" for key in readable]},
        {"Effect": "Allow", "Action": "s3:PutObject",
         "Resource": [f"arn:aws:s3:::{bucket}/{below}{owner}/*" for owner in writes(subject)]},
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}",
         "Condition": {"StringLikeIfExists": {"s3:prefix": readable}}},
    ]}


def folders(subject: str, clients: Iterable[str]) -> dict[str, bool]:
    """The owners' folders that a function mounts, each with whether it may write there."""
    every = [owner for pattern in reads(subject) for owner in (clients if pattern == CLIENTS else [pattern])]
    return {owner: owner in writes(subject) for owner in every}
