"""References filled in where a task starts."""

from hypothesis import given
from hypothesis import strategies as st

from swarmlet.jobspec import interpolate, interpolate_data

ATTRIBUTES = {"node.unique.name": "n1", "attr.cpu.arch": "amd64", "meta.a b": "x"}
ENVIRONMENT = {"NOMAD_PORT_http": "8080", "PATH": "/bin"}


def test_known_references_are_filled_in_and_unknown_ones_stay() -> None:
    text = (
        '${node.unique.name}:${NOMAD_PORT_http} ${env.PATH} ${env["PATH"]} ${meta["a b"]} ${other} $PATH ${'
    )
    assert interpolate(text, ATTRIBUTES, ENVIRONMENT) == "n1:8080 /bin /bin x ${other} $PATH ${"


def test_what_comes_in_is_not_looked_at_again() -> None:
    assert interpolate("${A}", {}, {"A": "${B}", "B": "b"}) == "${B}"


def test_data_is_filled_in_at_every_level() -> None:
    data = {"${PATH}": [{"a": "${attr.cpu.arch}"}, 5, True, None]}
    assert interpolate_data(data, ATTRIBUTES, ENVIRONMENT) == {"/bin": [{"a": "amd64"}, 5, True, None]}


@given(st.text())
def test_text_without_known_references_stays_as_it_is(text: str) -> None:
    assert interpolate(text, {}, {}) == text
