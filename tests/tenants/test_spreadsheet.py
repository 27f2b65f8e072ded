"""CSV: one writer for every file, and nothing in a file that a spreadsheet would run."""

import ast
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.spreadsheet import line, lines

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1-800", "'+1-800"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("-12.50", "-12.50"),
        ("-1", "-1"),
        ("a=b", "a=b"),
        ("", ""),
        (-3, "-3"),
        (None, ""),
    ],
)
def test_text_that_begins_like_a_formula_is_none(value, written):
    assert next(csv.reader(io.StringIO(line([value, "x"])))) == [written, "x"]


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_what_is_written_is_read_again_and_runs_nothing(values):
    (read,) = csv.reader(io.StringIO(line(values), newline=""), strict=True)
    assert [got.removeprefix("'") for got in read] == [value.removeprefix("'") for value in values]
    assert not [got for got in read if got.lstrip()[:1] in "=+@" and got.strip()]


def test_lines_are_separate_as_rfc_4180_wants():
    assert lines(("a", "b"), (1, 'x"y')) == 'a,b\r\n1,"x""y"\r\n'


def test_no_other_module_writes_csv():
    writers = {
        str(path.relative_to(ROOT))
        for room in ("gateway", "billing", "routing", "tenants")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("csv.writer", "csv.DictWriter")
    }
    assert writers == {"tenants/spreadsheet.py"}
