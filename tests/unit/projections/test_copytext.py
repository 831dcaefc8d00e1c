"""What is written for COPY and read from the ledger, without a database."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from projections.copytext import escaped
from schema import reads, rows


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=6))
def test_log_lines_come_back_whatever_they_hold(lines: list[str]) -> None:
    assert reads._lines(rows.encode_logs(tuple(lines))) == tuple(lines)


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",))))
def test_escaped_text_is_one_field_of_one_line(text: str) -> None:
    shown = escaped(text)
    assert not set("\t\n\r") & set(shown)
    back = (
        shown.replace("\\\\", "\x00")
        .replace("\\n", "\n")
        .replace("\\r", "\r")
        .replace("\\t", "\t")
        .replace("\x00", "\\")
    )
    assert back == text
