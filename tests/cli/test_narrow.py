"""What a narrow terminal is shown: sentences broken between words, tables that fit."""

from __future__ import annotations

import sys

import pytest

from swarmlet.cli.output import say_sentence, table, warn

LONG = "group web of job shop: " + "n-with-a-long-name lacks memory; " * 5


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def test_sentences_are_broken_between_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    say_sentence(f"  {LONG}")
    warn(LONG)
    out, err = capsys.readouterr()
    for said, begins in ((out, "  group"), (err, "warning: group")):
        lines = said.splitlines()
        assert lines[0].startswith(begins)
        assert len(lines) > 1
        assert max(map(len, lines)) <= 80
        assert " ".join(said.split()).endswith(" ".join(LONG.split()))


def test_a_sentence_is_one_line_where_a_program_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    say_sentence(LONG)
    warn(LONG)
    assert capsys.readouterr() == (f"{LONG}\n", f"warning: {LONG}\n")


def test_a_table_of_many_columns_fits_too(capsys: pytest.CaptureFixture[str]) -> None:
    table([f"COLUMN-{number}" for number in range(11)], [["0.123456789"] * 11])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [cell.startswith("0.1") and cell.endswith("…") for cell in lines[1].split()] == [True] * 11
