"""Settings fail at the start, with one line that names the setting, the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.settings import derived_ws_url, load
from programs.errors import UserError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith("INDEXER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refusal(config: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(config)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_environment_goes_before_dotenv_before_toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('metrics_port = 1\nlog_level = "error"\nrpc_timeout_s = 7\n')
    (tmp_path / ".env").write_text("INDEXER_METRICS_PORT=2\nINDEXER_LOG_LEVEL=warning\nUNRELATED=1\n")
    monkeypatch.setenv("INDEXER_METRICS_PORT", "3")
    settings = load(str(tmp_path / "c.toml"))
    assert (settings.metrics_port, settings.log_level, settings.rpc_timeout_s) == (3, "warning", 7.0)


def test_the_file_may_be_named_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("metrics_port = 11\n")
    (tmp_path / ".env").write_text(f"INDEXER_CONFIG={tmp_path / 'c.toml'}\n")
    assert load().metrics_port == 11


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("INDEXER_METRICS_PORT", "99999", "INDEXER_METRICS_PORT = '99999'"),
        ("INDEXER_RPC_URL", "ftp://host", "INDEXER_RPC_URL"),
        ("INDEXER_DATABASE_URL", "mysql://u:secret@h/d", "INDEXER_DATABASE_URL: the scheme 'mysql'"),
        ("INDEXER_DATABASE_URL", "postgresql+psycopg://u:secret@h/d", "INDEXER_DATABASE_URL: the scheme"),
        ("INDEXER_DATABASE_URL", "postgresql://u:secret@h:port:7/d", "INDEXER_DATABASE_URL: the value"),
        ("INDEXER_RPC_ULR", "http://h", "did you mean INDEXER_RPC_URL?"),
        ("INDEXER_COMMITMENT", "processed", "INDEXER_COMMITMENT = 'processed'"),
        ("INDEXER_PROGRAMS", '[{"name": "Bad Name", "address": "x"}]', "name"),
        ("INDEXER_PROGRAMS", '[{"name": "a", "address": "tooshort"}]', "tooshort"),
        ("INDEXER_PROGRAMS", "[{", "INDEXER_PROGRAMS is not JSON"),
        ("INDEXER_ACCOUNTS_POLL_S", "inf", "INDEXER_ACCOUNTS_POLL_S = 'inf'"),
        ("INDEXER_RECONCILE_S", "inf", "INDEXER_RECONCILE_S = 'inf'"),
        ("INDEXER_METRICS_HOST", "http://u:secret@h/", "INDEXER_METRICS_HOST: is no host"),
        ("INDEXER_LOG_LEVEL", "postgresql://u:secret@h/d", "INDEXER_LOG_LEVEL: Input"),
        ("INDEXER_DATABASE_URL", "postgresql://u:12/secret@h/d", "INDEXER_DATABASE_URL: the password"),
        ("INDEXER_DATABASE_URL", "postgresql://u:pa@secret@h/d", "INDEXER_DATABASE_URL: the password"),
        ("INDEXER_DATABASE_URL", "postgresql://u:%ECsecret@h/d", "INDEXER_DATABASE_URL: the password"),
        ("INDEXER_CONFIG", "postgresql://u:secret@h/d", "the configuration file (a URL) does not exist"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    message = refusal()
    assert said in message or (name == "INDEXER_PROGRAMS" and "[0]" in message)
    assert "secret" not in message


def test_a_secret_in_a_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEXER_RPC_URL", "https://user:hunter2@host:notaport/?key=hunter2")
    assert "hunter2" not in refusal()


@pytest.mark.parametrize("text", ["metrics_prt = 1\n", "= broken", "[[programs]]\nname='a'\naddres='x'\n"])
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    assert refusal(str(tmp_path / "c.toml"))


def test_two_programs_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[[programs]]\nname="a"\nidl="builtin:community_voting"\n' * 2)
    assert "two programs" in refusal(str(tmp_path / "c.toml"))


@pytest.mark.parametrize(
    ("http", "ws"),
    [
        ("http://127.0.0.1:8899", "ws://127.0.0.1:8900"),
        ("https://api.example.com", "wss://api.example.com"),
        ("https://h:443/key?a=b", "wss://h:444/key?a=b"),
    ],
)
def test_the_socket_is_derived_as_the_solana_cli_does(http: str, ws: str) -> None:
    assert derived_ws_url(http) == ws


def test_a_wrong_entry_of_several_idls_is_named(tmp_path: Path) -> None:
    file = tmp_path / "indexer.toml"
    program = (
        '[[programs]]\nname = "x"\naddress = "11111111111111111111111111111111"\nidl = [{ path = "a", from_slt = 3 }]\n'
    )
    file.write_text(program)
    with pytest.raises(UserError) as caught:
        load(str(file))
    assert str(caught.value) == "'from_slt' is not a setting (in programs.0.idl.0); take it out or mend its name"


@pytest.mark.parametrize("name", ["voting_events", "projection_7", "events", "pg_x", "ledger"])
def test_a_program_cannot_have_the_name_of_another_schema(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.toml").write_text(f'[[programs]]\nname = "{name}"\nidl = "builtin:community_voting"\n')
    assert f"name = '{name}': is a reserved name" in refusal(str(tmp_path / "c.toml"))


def test_what_is_wrong_is_said_in_the_words_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("programs = [1]\n")
    said = refusal(str(tmp_path / "c.toml"))
    assert said == "INDEXER_PROGRAMS[0] = '1': Input should be a table with name and address"


def test_a_database_url_of_blanks_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEXER_DATABASE_URL", "   ")
    with pytest.raises(UserError, match="is not set"):
        load().need_database()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00bad", b"INDEXER_METRICS_PORT=1\n\x80"])
def test_a_dotenv_that_is_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(content)
    assert "the file .env can't be read" in refusal()
