"""What commands that talk to a node share: the client, finding things by the beginning of their id."""

from __future__ import annotations

from typing import Any

import click

from swarmlet.api.client import Client
from swarmlet.cli.output import note, span
from swarmlet.errors import InvalidInput, NotFound

#: In the context's `meta`: whether a stale answer will do; absent where the command does not offer that.
STALE_KEY = "swarmlet.stale"


def client(ctx: click.Context) -> Client:
    """The client for the node that the user named, or for this machine's."""
    options = ctx.find_root().obj or {}
    return Client(
        address=options.get("address", ""),
        token=options.get("token", ""),
        data_dir=options.get("data_dir", ""),
        stale=bool(ctx.meta.get(STALE_KEY)),
        # Programs find it in the answer's headers.
        on_stale=None if ctx.params.get("as_json") else _tell_age,
    )


def _tell_age(last_contact_ms: int, index: int) -> None:
    note(f"stale: what this node knew {span(last_contact_ms * 10**6)} ago (index {index})")


def _keep_stale(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    ctx.meta[STALE_KEY] = value


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


#: Without a leader too. Commands that read take it; `client` passes it on.
stale_option = click.option(
    "--stale",
    is_flag=True,
    expose_value=False,
    callback=_keep_stale,
    help="What the asked node last knew, leader or not.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
namespace_option = click.option(
    "--namespace", default="", metavar="NAME", help="Where it lives (default: default)."
)
namespaces_option = click.option(
    "--namespace", default="", metavar="NAME", help="Of one namespace, or * for all."
)
wide_option = click.option("--wide", is_flag=True, help="Do not shorten columns.")
