"""The nodes of one decision, as people read them."""

from __future__ import annotations

from typing import Any

from swarmlet.cli.output import say, say_sentence, table

#: Nodes listed unless `--wide`; the counts cover the rest.
SHOWN_MAX = 20


def show_candidates(candidates: list[dict[str, Any]], *, chosen: str = "", wide: bool) -> None:
    """The best first, with their scores in the order in which they decide; then why the others are not taken."""
    ranked = [each for each in candidates if each["Rank"]]
    refused = [each for each in candidates if not each["Rank"]]
    limit = len(candidates) if wide else SHOWN_MAX
    if ranked:
        names = list(ranked[0]["Scores"])
        table(
            ["RANK", "NODE", *(name.upper() for name in names)],
            [
                [
                    str(each["Rank"]),
                    each["NodeName"] + (" *" if each["NodeID"] == chosen else ""),
                    *(f"{each['Scores'][name]:g}" for name in names),
                ]
                for each in ranked[:limit]
            ],
            wide=wide,
        )
    if len(ranked) > limit:
        say(f"... and {len(ranked) - limit} more (--wide)")
    for each in refused[:limit]:
        mark = " *" if each["NodeID"] == chosen else ""
        say_sentence(f"  {each['NodeName']}{mark}: {each['Reason']}")
    if len(refused) > limit:
        say(f"  ... and {len(refused) - limit} more that are not taken (--wide)")
