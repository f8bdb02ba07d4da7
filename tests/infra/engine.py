"""The whole program, recorded in this process: what most tests of the infrastructure look at."""

import contextlib
import json
import runpy
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from blueprint.graph import UNKNOWN, Graph
from blueprint.graph import Resource as Recorded
from blueprint.outputs import ACCOUNT
from blueprint.record import ROOT, placeholder, project, run, stack_config

PROJECT = project()
API_KEY = placeholder("pineconeApiKey")


@cache
def whole(stack: str, *, preview: bool = False) -> Graph:
    """The whole program with one of our stack files. Made once; do not change it."""
    return changed(stack, preview=preview)


def changed(stack: str, *, preview: bool = False, **changes: str) -> Graph:
    """The whole program with a stack file and other values for some of its keys."""
    config, secrets = stack_config(stack)
    config |= {f"{PROJECT}:{key}": value for key, value in changes.items()}
    with contextlib.chdir(ROOT):
        return run(
            lambda: runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__"),
            stack=stack,
            config=config,
            secrets=secrets,
            preview=preview,
        )


@cache
def with_own_access_logs(stack: str) -> Graph:
    """The whole program where no bucket for access logs is there already. Made once; do not change it."""
    return changed(stack, webAccessLogBucket="") if stack == "prod" else whole(stack)


@cache
def with_own_certificate(*, hosted_zone_id: str = "") -> Graph:
    """prod where no certificate is there already, and plain HTTP is redirected. Made once; do not change it."""
    return changed("prod", webCertificateArn="", webHttpRedirect="true", webHostedZoneId=hosted_zone_id)


def statements(policy: str | Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The statements of a policy document."""
    document = json.loads(policy) if isinstance(policy, str) else policy
    assert document["Version"] == "2012-10-17"
    yield from document["Statement"]


__all__ = [
    "ACCOUNT",
    "API_KEY",
    "ROOT",
    "UNKNOWN",
    "Graph",
    "Recorded",
    "changed",
    "run",
    "statements",
    "whole",
    "with_own_access_logs",
    "with_own_certificate",
]
