"""Each malformed file gives one error: the place and the sentence stand in its first line."""

import re
from pathlib import Path

import pygohcl
import pytest

from swarmlet.jobspec import InvalidJobFile, parse_job

FILES = sorted((Path(__file__).parent / "malformed").glob("*.hcl"))
EXPECTATION = re.compile(r"# expect (\d+):(\d+) (.+)")
#: What HCL itself refuses; the others are valid HCL and no valid job.
SYNTAX = {
    "colon_for_equals",
    "duplicate_argument",
    "json_instead_of_hcl",
    "missing_closing_brace",
    "quoted_argument_name",
    "single_quotes",
    "stray_character",
    "two_arguments_on_one_line",
    "two_blocks_on_one_line",
    "unclosed_interpolation",
    "unquoted_duration",
    "unterminated_heredoc",
    "unterminated_string",
    "wrong_escape",
}


def test_there_are_at_least_twenty_malformed_files() -> None:
    assert len(FILES) >= 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_malformed_file_gives_one_error_with_its_place(path: Path) -> None:
    text = path.read_text()
    expectation = EXPECTATION.match(text)
    assert expectation is not None
    with pytest.raises(InvalidJobFile) as caught:
        parse_job(text, filename=path.name)
    line, column, message = expectation.groups()
    assert caught.value.problems == [f"{path.name}:{line}:{column}: {message}"]
    # A variable's own validation message is the author's.
    assert "expected" in message or path.stem == "failed_validation"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_syntax_errors_are_errors_for_the_parser_that_nomad_uses(path: Path) -> None:
    try:
        pygohcl.loads(path.read_text())
        is_refused = False
    except pygohcl.HCLParseError:
        is_refused = True
    # It evaluates too, without our variables and functions: beyond syntax it may refuse more.
    assert is_refused or path.stem not in SYNTAX


def test_snippet_points_at_the_column() -> None:
    with pytest.raises(InvalidJobFile) as caught:
        parse_job('job "a" {\n\tprioirty = 1\n}\n', filename="a.hcl")
    assert caught.value.render().splitlines()[1:3] == [" 2 | \tprioirty = 1", "   | \t^"]


def test_all_problems_of_a_job_are_reported_in_order() -> None:
    text = 'job "a" {\n  prioirty = 1\n  group "g" {\n    count = "x"\n    task "t" {\n      csi_plugin {\n      }\n    }\n  }\n}\n'
    with pytest.raises(InvalidJobFile) as caught:
        parse_job(text, filename="a.hcl")
    assert [problem.line for problem in caught.value.details] == [2, 4, 6]


def test_file_beyond_the_size_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidJobFile, match="exceed 1_048_576 B"):
        parse_job("#" * (1024 * 1024 + 1), filename="a.hcl")
