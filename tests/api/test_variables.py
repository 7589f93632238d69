"""Variables over HTTP: Nomad's form, compare-and-set, blocking reads, and values nowhere but in reads."""

from __future__ import annotations

import threading
from typing import Any

import nomad
import pytest
from nomad.api.exceptions import URLNotFoundNomadException, VariableConflict

from swarmlet.model.variable import ITEMS_BYTES_MAX
from tests.agents.cluster import Node
from tests.api.conftest import Answer, Http

pytestmark = pytest.mark.slow


def put(http_: Http, path: str, items: dict[str, str], cas: int | None = None) -> Answer:
    query = "" if cas is None else f"?cas={cas}"
    return http_.admin("PUT", f"/v1/var/{path}{query}", {"Path": path, "Items": items})


def test_a_variable_is_written_read_listed_and_deleted(http_: Http) -> None:
    made = put(http_, "app/one", {"user": "u", "password": "p"})
    assert made.status == 200, made
    assert made.json()["Items"] == {"user": "u", "password": "p"}
    read = http_.admin("GET", "/v1/var/app/one")
    assert read.json() == made.json()
    assert read.headers["x-nomad-index"] == str(made.json()["ModifyIndex"])
    listed = http_.admin("GET", "/v1/vars?prefix=app/")
    assert listed.json() == [{key: value for key, value in made.json().items() if key != "Items"}]
    deleted = http_.admin("DELETE", "/v1/var/app/one")
    assert (deleted.status, deleted.text) == (204, "")
    missing = http_.admin("GET", "/v1/var/app/one")
    assert (missing.status, missing.headers["x-swarmlet-error"]) == (404, "NotFound")
    assert int(missing.headers["x-nomad-index"]) >= int(deleted.headers["x-nomad-index"])


def test_a_conflict_answers_with_what_is_there(http_: Http) -> None:
    made = put(http_, "cas/one", {"k": "first"}, cas=0).json()
    lost = put(http_, "cas/one", {"k": "second"}, cas=0)
    assert (lost.status, lost.json()) == (409, made)
    assert put(http_, "cas/one", {"k": "second"}, cas=made["ModifyIndex"]).status == 200
    assert http_.admin("DELETE", f"/v1/var/cas/one?cas={made['ModifyIndex']}").status == 409
    nothing = put(http_, "cas/none", {"k": "v"}, cas=7)
    assert (nothing.status, nothing.json()["ModifyIndex"]) == (409, 0)


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("a", b"{", "the body is no variable"),
        ("a", b'{"Items": {"k": 7}}', "Expected `str`"),
        ("a", b'{"Items": {}}', "needs at least one item"),
        ("a", b"{}", "missing required field `Items`"),
        ("a$b", b'{"Items": {"k": "v"}}', "variable path 'a$b'"),
        ("nomad/mine", b'{"Items": {"k": "v"}}', "only 'nomad/jobs' is for users"),
        ("a", b'{"Path": "b", "Items": {"k": "v"}}', "its body for b"),
        ("a?cas=x", b'{"Items": {"k": "v"}}', "cas=x"),
        ("a?lock-acquire", b'{"Items": {"k": "v"}}', "no locks yet"),
        ("a", b'{"Items": {"k": "%b"}}' % (b"v" * ITEMS_BYTES_MAX), "holds at most 65_536 B"),
        ("a", b'{"Items": {"swordfish"}}', "the body is no variable"),
    ],
)
def test_what_is_no_variable_is_refused_without_quoting_it(
    http_: Http, path: str, body: bytes, says: str
) -> None:
    answered = http_.admin("PUT", f"/v1/var/{path}", body)
    assert answered.status == 400
    assert says in answered.text
    assert "vvvv" not in answered.text
    assert "swordfish" not in answered.text


def test_an_unknown_namespace_is_refused(http_: Http) -> None:
    answered = http_.admin("PUT", "/v1/var/a?namespace=none", {"Items": {"k": "v"}})
    assert (answered.status, answered.text) == (404, 'there is no namespace "none"')


def test_a_blocking_read_wakes_for_its_own_variable(http_: Http) -> None:
    index = put(http_, "block/one", {"k": "1"}).json()["ModifyIndex"]
    found: list[Answer] = []
    waiting = threading.Thread(
        target=lambda: found.append(http_.admin("GET", f"/v1/var/block/one?index={index}&wait=60s"))
    )
    waiting.start()
    put(http_, "block/other", {"k": "1"})
    waiting.join(0.3)
    assert waiting.is_alive()
    put(http_, "block/one", {"k": "2"})
    waiting.join(20)
    assert found[0].json()["Items"] == {"k": "2"}
    index = int(found[0].headers["x-nomad-index"])
    waiting = threading.Thread(
        target=lambda: found.append(http_.admin("GET", f"/v1/var/block/one?index={index}&wait=60s"))
    )
    waiting.start()
    http_.admin("DELETE", "/v1/var/block/one")
    waiting.join(20)
    assert found[1].status == 404


def test_pages_of_a_list(http_: Http) -> None:
    for number in range(5):
        put(http_, f"page/{number}", {"k": "v"})
    seen: list[Any] = []
    token = ""
    while True:
        answered = http_.admin("GET", f"/v1/vars?prefix=page/&per_page=2&next_token={token}")
        seen += [item["Path"] for item in answered.json()]
        token = answered.headers.get("x-nomad-nexttoken", "")
        if not token:
            break
    assert seen == [f"page/{number}" for number in range(5)]


def test_nomads_own_client_works(node: Node) -> None:
    client = nomad.Nomad(host="127.0.0.1", port=node.api_port, token=node.admin_token(), timeout=10)
    made = client.variable.create_variable("lib/one", {"Items": {"k": "v"}}, cas=0)
    assert client.variable["lib/one"]["Items"] == {"k": "v"}
    assert "lib/one" in client.variable
    assert [item["Path"] for item in client.variables.get_variables(prefix="lib/")] == ["lib/one"]
    with pytest.raises(VariableConflict):
        client.variable.create_variable("lib/one", {"Items": {"k": "w"}}, cas=0)
    client.variable.delete_variable("lib/one", cas=made["ModifyIndex"])
    with pytest.raises(URLNotFoundNomadException):
        client.variable.get_variable("lib/one")


def test_the_keyring_rotates_and_lists_no_key(http_: Http) -> None:
    made = put(http_, "rotate/one", {"k": "v"}).json()
    before = http_.admin("GET", "/v1/operator/keyring/keys").json()
    assert before[-1]["State"] == "active"
    rotated = http_.admin("PUT", "/v1/operator/keyring/rotate?full")
    assert rotated.status == 200
    keys = http_.admin("GET", "/v1/operator/keyring/keys").json()
    assert [key["State"] for key in keys] == [*["inactive"] * (len(keys) - 1), "active"]
    assert [key["Variables"] for key in keys[:-1]] == [0] * (len(keys) - 1)
    assert set(keys[0]) == {"KeyID", "State", "Variables", "CreateIndex", "CreateTime"}
    assert http_.admin("DELETE", f"/v1/operator/keyring/key/{keys[-1]['KeyID']}").status == 409
    assert http_.admin("DELETE", f"/v1/operator/keyring/key/{keys[0]['KeyID']}").status == 200
    assert http_.admin("DELETE", "/v1/operator/keyring/key/x").status == 400
    assert http_.admin("GET", "/v1/var/rotate/one").json() == made
