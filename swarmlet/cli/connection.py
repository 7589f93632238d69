"""What commands that talk to a node share: the client, finding things by the beginning of their id."""

from __future__ import annotations

from typing import Any

import click

from swarmlet.api.client import Client
from swarmlet.errors import InvalidInput, NotFound


def client(ctx: click.Context) -> Client:
    """The client for the node that the user named, or for this machine's."""
    options = ctx.find_root().obj or {}
    return Client(
        address=options.get("address", ""),
        token=options.get("token", ""),
        data_dir=options.get("data_dir", ""),
    )


def find_job(api: Client, name: str) -> dict[str, Any]:
    """The job with that id, or the only one whose id begins with it. Raises NotFound, InvalidInput."""
    try:
        job: dict[str, Any] = api.get(f"/v1/job/{name}")
        return job
    except NotFound:
        found = api.get("/v1/jobs", {"prefix": name})
        if len(found) == 1:
            only: dict[str, Any] = api.get(f"/v1/job/{found[0]['ID']}")
            return only
        if found:
            names = ", ".join(item["ID"] for item in found[:5])
            raise InvalidInput(f"'{name}' fits several jobs: {names}") from None
        raise


json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
namespace_option = click.option(
    "--namespace", default="", metavar="NAME", help="Where it lives (default: default)."
)
namespaces_option = click.option(
    "--namespace", default="", metavar="NAME", help="Of one namespace, or * for all."
)
wide_option = click.option("--wide", is_flag=True, help="Do not shorten columns.")
