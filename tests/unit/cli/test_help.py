"""The command line explains itself: every command and every verb of one has a description, an example, and --json where it prints a result."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator

import pytest

from indexer.cli.main import COMMANDS, main, parser, version


def commands(top: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every parser that a user can reach and that has no verbs of its own."""
    subs = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    for sub in subs:
        for name, child in sub.choices.items():
            yield from commands(child, (*path, name))
    if not subs:
        yield " ".join(path), top


ALL = dict(commands(parser()))


@pytest.mark.parametrize("name", ALL)
def test_help_shows_an_example_and_the_machine_form(name: str) -> None:
    text = ALL[name].format_help()
    assert "example" in text, f"indexer {name} --help has no example"
    assert f"indexer {name.split()[0]}" in text.partition("example")[2]
    assert "--json" in text


@pytest.mark.parametrize("name", ["db current", "dead-letters list", "idl check"])
def test_a_file_of_settings_may_stand_before_the_verb_or_behind_it(name: str) -> None:
    command, verb = name.split()
    file = ["x.json"] if verb == "check" else []
    for words in ([command, "--config", "FILE", verb, *file], [command, verb, *file, "--config", "FILE"]):
        assert parser().parse_args(words).config == "FILE"
    assert parser().parse_args([command, verb, *file]).config is None


def test_every_command_of_the_list_is_there() -> None:
    assert {name.split()[0] for name in ALL} == {name.replace("_", "-") for name in COMMANDS}


def test_the_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"indexer {version()}\n"
    assert version().count(".") == 2


def examples(text: str) -> list[list[str]]:
    """The commands that a help text shows, without what a shell makes of the rest of the line."""
    found = []
    for line in text.partition("example")[2].splitlines():
        command = re.search(r"(?:^|[\s:|])indexer ([^|<>#]*)", line)
        if command is not None:
            found.append(shlex.split(command[1].replace("…", "x")))
    return found


@pytest.mark.parametrize("name", ALL)
def test_what_help_shows_can_be_run_as_it_stands(name: str) -> None:
    shown = examples(ALL[name].format_help())
    assert shown
    for arguments in shown:
        parser().parse_args(arguments)
