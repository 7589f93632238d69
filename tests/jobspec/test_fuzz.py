"""Whatever the text, the only error is InvalidJobFile."""

from pathlib import Path

import pygohcl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swarmlet.jobspec import InvalidJobFile, job_to_json, parse_job
from swarmlet.jobspec.parser import parse_body
from swarmlet.jobspec.problem import Fault, Source

EXAMPLES = Path(__file__).parents[2] / "examples"
_PIECES = st.sampled_from(
    ['job "a" {\n', 'group "g" {\n', 'task "t" {\n', "}\n", "}", "{", "\n", " ", "count = ", "1", "-", '"x"', '"', "${", "%{if true}", "%{", "~}", "[", "]", "(", ")", "for", " in ", ":", "?", ",", "...", "=>", "*", ".", "a", "b", "<<E\n", "<<-E\n", "E\n", "//", "/*", "*/", "#", "\\", "$", "é", "\x00", "=", "==", "!", "local.a", "var.b", "upper(", 'dynamic "task" {\n', "config {\n", "null", "1e400", "5s"]
)  # fmt: skip


def _parse(text: str) -> None:
    try:
        job_to_json(parse_job(text, filename="fuzz").job)
    except InvalidJobFile as error:
        rendered = error.render()
    else:
        rendered = "a valid job"
    assert rendered


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(_PIECES, max_size=40).map("".join))
@example('job "a" {\n' * 60)
@example("a = " + "[" * 3_000)
@example('a = "' + "${" * 3_000)
@example("a = 1" + " + 1" * 3_000)
@example("locals {\n" + "".join(f"  a{n} = [local.a{n + 1}]\n" for n in range(400)) + "  a400 = 1\n}\n")
@example(
    "locals {\n  a0 = [1]\n"
    + "".join(f"  a{n + 1} = [local.a{n}, local.a{n}]\n" for n in range(60))
    + '}\njob "a" {\n meta = { x = jsonencode(local.a60) }\n}\n'
)
@example("\ud800")
def test_pieces_of_the_language_give_a_job_or_problems(text: str) -> None:
    _parse(text)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(EXAMPLES.glob("*.hcl"))), st.data())
def test_damaged_examples_give_a_job_or_problems(path: Path, data: st.DataObject) -> None:
    text = path.read_text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    _parse(text[:start] + data.draw(_PIECES) + text[end:])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(EXAMPLES.glob("*.hcl"))), st.data())
def test_what_we_parse_is_valid_for_the_parser_that_nomad_uses(path: Path, data: st.DataObject) -> None:
    """Differential: never more lenient than the original."""
    text = path.read_text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 3)))
    text = text[:start] + text[end:]
    try:
        parse_body(Source("fuzz", text))
    except Fault:
        return
    try:
        pygohcl.loads(text)
    except pygohcl.HCLParseError as error:
        # It also evaluates, and knows neither our variables nor functions: only syntax counts here.
        words = str(error)
        assert any(
            word in words
            for word in (
                "Variables not allowed",
                "Unknown variable",
                "Function calls",
                "Call to unknown",
                "nsupported",
            )
        )
