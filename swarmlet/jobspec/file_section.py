"""`template` and `artifact`: the files that a task finds when it starts."""

from __future__ import annotations

import re

from swarmlet.jobspec.policy_section import present
from swarmlet.jobspec.section import Section
from swarmlet.model.job import Artifact, ChangeMode, ChangeScript, Template

#: Functions that give values of variables, and destinations that never reach a disk.
_SHOWS_SECRETS = re.compile(r"\b(nomadVar|key|keyOrDefault|ls|tree|secret)\b")
_IN_MEMORY = re.compile(r"/?secrets/|\$\{(env\.)?(NOMAD|SWARMLET)_SECRETS_DIR\}/")
_WAIT = "a change is taken at once; splay spreads what it does"
_VAULT = "there is no Vault integration"


def read_templates(section: Section) -> tuple[Template, ...]:
    """All `template { … }` of a task."""
    templates = []
    for block in section.blocks("template"):
        mode = block.choice("change_mode", tuple(ChangeMode))
        templates.append(
            Template(
                destination=block.text("destination") or "",
                change_script=_script(block),
                **present(
                    data=block.text("data"),
                    source=block.text("source"),
                    change_mode=ChangeMode(mode) if mode else None,
                    change_signal=block.text("change_signal"),
                    splay_ns=block.duration_ns("splay"),
                    perms=block.text("perms"),
                    uid=block.integer("uid"),
                    gid=block.integer("gid"),
                    left_delimiter=block.text("left_delimiter"),
                    right_delimiter=block.text("right_delimiter"),
                    is_env=block.boolean("env"),
                    is_error_on_missing_key=block.boolean("error_on_missing_key"),
                ),
            )
        )
        if _SHOWS_SECRETS.search(block.text("data") or "") and not _IN_MEMORY.match(
            block.text("destination") or ""
        ):
            block.warn(
                block.place("destination"),
                "what the template reads from variables will lie on the node's disk; "
                'use a destination in "secrets/", which is memory',
            )
        block.ignore({"wait": _WAIT, "vault_grace": _VAULT})
        block.refuse({"once": 'a template follows what it shows; use change_mode = "noop"'})
        block.finish()
    return tuple(templates)


def _script(section: Section) -> ChangeScript | None:
    block = section.block("change_script")
    if block is None:
        return None
    script = ChangeScript(
        command=block.text("command") or "",
        **present(
            args=block.texts("args"),
            timeout_ns=block.duration_ns("timeout"),
            is_fail_on_error=block.boolean("fail_on_error"),
        ),
    )
    block.finish()
    return script


def read_artifacts(section: Section) -> tuple[Artifact, ...]:
    """All `artifact { … }` of a task."""
    artifacts = []
    for block in section.blocks("artifact"):
        artifacts.append(
            Artifact(
                source=block.text("source") or "",
                options=block.text_map("options"),
                headers=block.text_map("headers"),
                **present(
                    destination=block.text("destination"),
                    mode=block.choice("mode", ("any", "file", "dir")),
                    is_insecure=block.boolean("insecure"),
                ),
            )
        )
        block.refuse({"chown": "files belong to the agent's user; set their mode in the archive"})
        block.finish()
    return tuple(artifacts)
