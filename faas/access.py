"""Who may touch what: the owners, first words of an object's name, that each function's store lets it read and write.

A function is told who it is and where its store lies by its environment alone:

    KDLIB_SUBJECT   client-0000 ..., or aggregator: whose Steps it carries out, and the audience of its tokens
    KDLIB_STORE     URL of a store without the run's key, such as file:///store/{owner} or s3://bucket/runs/{owner}
    KDLIB_SECRETS   of the tokens, see kdlib.tokens; from a Secret
    AWS_*           its own credentials, endpoint and region where the store is in S3
    PORT            where it listens; Knative sets it

An object of a run lies at KDLIB_STORE/KEY/NAME, `{owner}` being the owner: private/client-0000 (a client's data),
client-0000 (what it writes), public, or aggregator. Mounts and policies are made of what this module says, so that the
store itself refuses everything else.
"""

from kdlib.invoke_http import AGGREGATOR

RAY = "ray"  # the cluster that pre-trains every architecture


def reads(subject: str) -> tuple[str, ...]:
    """The owners whose objects the function may read; `client-*` stands for every client's."""
    if subject == AGGREGATOR:
        return "public", AGGREGATOR, "client-*"
    if subject == RAY:
        return ("public",)
    return "public", subject, f"private/{subject}"


def writes(subject: str) -> tuple[str, ...]:
    """The owners whose objects the function may write; it may read them too."""
    if subject == AGGREGATOR:
        return "public", AGGREGATOR
    return ("public",) if subject == RAY else (subject,)
