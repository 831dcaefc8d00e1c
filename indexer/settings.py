"""Every setting, in one place. Environment (`INDEXER_…`), then `.env`, then a TOML file; whatever is wrong ends the start with one line.

A setting is checked when the program starts, not when it is first used. Values that may hold a secret (URLs) are never shown whole.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import psycopg
from dotenv import dotenv_values
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from programs import base58
from programs.errors import UserError

PREFIX = "INDEXER_"
CONFIG_VARIABLE = "INDEXER_CONFIG"
# Read by the test suite and the command line, not by this class.
OTHER_VARIABLES = ("INDEXER_CONFIG",)
TEST_PREFIX = "INDEXER_TEST_"
BUILTIN_IDL = "builtin:community_voting"
RESERVED_NAMES = frozenset({"events", "ledger", "public", "information_schema", "projections", "indexer"})
# Each program has a schema of its name and one with `_events` behind it; tables lie in schemas `projection_N`.
RESERVED_FORMS = re.compile(r"pg_.*|projection_\d+|.*_events")
DAYS_30_S = 30 * 86400


class IdlSetting(BaseModel):
    """One of several IDLs of a program: where it is, and the first slot for which it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description='a path, "builtin:community_voting", or "chain"')
    from_slot: int = Field(default=0, ge=0, lt=2**62, description="the first slot that is read with it")

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        if not value or (value.startswith("builtin:") and value != BUILTIN_IDL):
            raise ValueError(f'idl {value!r} is unknown; there is "{BUILTIN_IDL}", a path, or "chain"')
        return value


class ProgramSetting(BaseModel):
    """One watched program."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="schema and label name: lower case, digits, underscores")
    address: str = Field(default="", description="the program's address, base58; a builtin IDL knows its own")
    idl: str | tuple[IdlSetting, ...] = Field(
        default="chain",
        description='"builtin:community_voting", a path, or "chain"; or several, each as { path = …, from_slot = … }',
    )
    start_slot: int = Field(default=0, ge=0, lt=2**62, description="the first slot to index")
    projections: tuple[str, ...] = Field(default=(), description='"voting", or any importable "package.module:NAME"')

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", value):
            raise ValueError("must be lower-case letters, digits and underscores, at most 40, and begin with a letter")
        if value in RESERVED_NAMES or RESERVED_FORMS.fullmatch(value):
            raise ValueError("is a reserved name, for a schema of that name is something else; choose another")
        return value

    @model_validator(mode="after")
    def _address(self) -> ProgramSetting:
        if not self.address:
            if self.idl != BUILTIN_IDL:
                raise ValueError("address is missing; set it to the program's address")
            from programs.community_voting import artifact

            self.address = str(artifact.PROGRAM_ID)
        try:
            base58.address_bytes(self.address)
        except ValueError as error:
            raise ValueError(f"address is {error}") from None
        slots = [each.from_slot for each in self.idls]
        if not slots:
            raise ValueError('idl is an empty list; give a path, "chain", or a list of { path = …, from_slot = … }')
        for slot in slots:
            if slots.count(slot) > 1:
                raise ValueError(f"idl has two entries from slot {slot}; each slot is read with one")
        return self

    @property
    def idls(self) -> tuple[IdlSetting, ...]:
        """Every IDL with the first slot for which it holds, oldest first."""
        if isinstance(self.idl, str):
            return (IdlSetting(path=self.idl),)
        return tuple(sorted(self.idl, key=lambda each: each.from_slot))


class Settings(BaseSettings):
    """The settings of every command. Durations in seconds, lags in slots."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    database_url: str = Field(default="", description="PostgreSQL, as postgresql://user:password@host:port/name")
    rpc_url: str = Field(
        default="http://127.0.0.1:8899", description="JSON-RPC endpoint; several, comma separated, for failover"
    )
    witness_url: str = Field(
        default="",
        description="a second JSON-RPC endpoint that shares nothing with the first; every seal compares the two",
    )
    witness: Literal["count", "hold"] = Field(
        default="count", description="while the witness lags or is down: seal without it and count, or hold the seal"
    )
    witness_wait_s: float = Field(default=2.0, gt=0, le=60, description="how long a seal waits for the witness")
    ws_url: str = Field(default="", description="PubSub endpoint; default: derived from rpc_url as the Solana CLI does")
    commitment: Literal["confirmed", "finalized"] = Field(default="confirmed", description="what is sealed first")
    metrics_host: str = Field(default="127.0.0.1", description="where /metrics, /healthz, /readyz and /status listen")
    metrics_port: int = Field(default=9464, ge=0, le=65535, description="0 picks a free port")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    ready_lag_slots: int = Field(default=150, ge=1, description="/readyz is 503 beyond this lag")
    idle_poll_s: float = Field(default=12.0, gt=0, le=3600, description="sealing round when no notification comes")
    finality_poll_s: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="how often the finalized chain is compared; half as often while no row waits",
    )
    audit_sample: float = Field(
        default=0.01, ge=0, le=1, description="share of finalized slots whose blocks are compared with the lists"
    )
    accounts_poll_s: float = Field(
        default=300.0, gt=0, le=DAYS_30_S, description="how often accounts are listed to find closes"
    )
    account_updates: bool = Field(default=True, description="keep samples of the programs' accounts")
    rpc_timeout_s: float = Field(default=20.0, gt=0, le=600)
    rpc_hedge_s: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="what blocks a seal is asked of the next endpoint too after this long; 0 never",
    )
    rpc_in_flight: int = Field(default=8, ge=1, le=256, description="HTTP requests under way at once")
    connect_timeout_s: float = Field(
        default=10.0, gt=0, le=600, description="how long a needed service may take at the start"
    )
    lease_ttl_s: float = Field(
        default=6.0, ge=1, le=60, description="a standby takes over this long after the leader's death"
    )
    shutdown_s: float = Field(default=10.0, gt=0, le=600, description="deadline of a clean shutdown")
    block_hits_min: int = Field(
        default=0, ge=0, description="hits in a slot from which one getBlock is asked; 0 chooses by measured cost"
    )
    trust_socket_contents: bool = Field(
        default=False, description="take contents from the socket; only for a node that nobody else can call"
    )
    upgrades_poll_s: float = Field(
        default=120.0,
        gt=0,
        le=86400,
        description="how often the programs' deployments and published IDLs are looked at",
    )
    reconcile_s: float = Field(
        default=0.0, ge=0, le=DAYS_30_S, description="how often tables are compared with accounts; 0 never"
    )
    programs: tuple[ProgramSetting, ...] = Field(
        default=(), description="the watched programs; default: community voting"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before .env before TOML."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=_config_file.get("path"))
        return init_settings, env_settings, dotenv_settings, toml

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: str) -> str:
        # Checked before anything is reached for: a node that is down must not hide that this could never have worked.
        try:
            parts = {name: str(said or "") for name, said in conninfo_to_dict(value).items()}
            ports = parts.get("port", "").split(",")
            if not all(port == "" or (port.isascii() and port.isdigit() and 0 < int(port) < 65536) for port in ports):
                raise psycopg.ProgrammingError("port")
            if "://" in value and "%40" not in value and "@" in f"{parts.get('host', '')[1:]}{parts.get('dbname', '')}":
                # Half of the password would be shown as the host's or the database's name.
                raise ValueError("unescaped")
        except ValueError:
            raise ValueError(
                "the password holds a character that means something in a URL; write @ as %40, / as %2F and % as %25"
            ) from None
        except psycopg.Error:
            scheme, found, _ = value.partition("://")
            what = f"the scheme {scheme[:30]!r}" if found and scheme not in ("postgresql", "postgres") else "the value"
            raise ValueError(f"{what} is not PostgreSQL's; give postgresql://user:password@host:port/name") from None
        return value.strip()

    @field_validator("metrics_host")
    @classmethod
    def _metrics_host(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._:%-]+", value):
            raise ValueError("is no host; give a name or an address alone, such as 127.0.0.1 or ::1")
        return value

    @field_validator("rpc_url")
    @classmethod
    def _rpc_url(cls, value: str) -> str:
        return ",".join(endpoints(value))

    @field_validator("witness_url")
    @classmethod
    def _witness_url(cls, value: str) -> str:
        if value:
            _check_url(value, ("http", "https"))
        return value

    @model_validator(mode="after")
    def _witness_is_another(self) -> Settings:
        if self.witness_url and self.witness_url in self.rpc_urls:
            raise ValueError("witness_url is one of the endpoints of rpc_url; a witness must be another")
        if self.witness == "hold" and not self.witness_url:
            raise ValueError("witness = 'hold' without a witness_url would hold every seal; set witness_url")
        return self

    @field_validator("ws_url")
    @classmethod
    def _ws_url(cls, value: str) -> str:
        if value:
            _check_url(value, ("ws", "wss"))
        return value

    @field_validator("programs")
    @classmethod
    def _programs(cls, value: tuple[ProgramSetting, ...]) -> tuple[ProgramSetting, ...]:
        for what in ("name", "address"):
            seen = [getattr(program, what) for program in value]
            twice = {item for item in seen if seen.count(item) > 1}
            if twice:
                raise ValueError(f"two programs have the {what} {sorted(twice)[0]!r}; each needs its own")
        return value

    @property
    def rpc_urls(self) -> tuple[str, ...]:
        """The endpoints in order of preference."""
        return tuple(self.rpc_url.split(","))

    @property
    def pubsub_url(self) -> str:
        """The socket's URL, given or derived."""
        return self.ws_url or derived_ws_url(self.rpc_urls[0])

    @property
    def watched(self) -> tuple[ProgramSetting, ...]:
        """The programs, or the builtin one when none is configured."""
        if self.programs:
            return self.programs
        return (ProgramSetting(name="voting", idl=BUILTIN_IDL, projections=("voting",)),)

    def need_database(self) -> str:
        """The database's URL, or a UserError that says how to set it."""
        if not self.database_url:
            raise UserError(f"{PREFIX}DATABASE_URL is not set; set it to postgresql://user:password@host:port/name")
        return self.database_url


_config_file: dict[str, Path | None] = {"path": None}


def load(config: str | None = None, **overrides: Any) -> Settings:
    """Read the settings. UserError (exit code 2) names the setting, its value and the remedy."""
    dotenv = Path(".env")
    try:
        said = dotenv_values(dotenv) if dotenv.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"the file .env can't be read: {_first_line(error)}; mend it, or start in another folder"
        ) from None
    path = config or os.environ.get(CONFIG_VARIABLE) or said.get(CONFIG_VARIABLE) or None
    _config_file["path"] = None
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise UserError(
                f"the configuration file {_shown(path)} does not exist; give a TOML file with --config or {CONFIG_VARIABLE}"
            )
        _config_file["path"] = file
        _check_toml(file)
    _refuse_unknown(os.environ.keys(), "environment")
    _refuse_unknown(said.keys(), ".env")
    try:
        return Settings(_env_file=dotenv if dotenv.is_file() else None, **overrides)  # type: ignore[call-arg]
    except ValidationError as error:
        raise UserError(_explain(error)) from None
    except UserError:
        raise
    except SettingsError as error:
        named = re.search(r'field "(\w+)"', str(error))
        name = PREFIX + named[1].upper() if named else "a setting"
        raise UserError(f"{name} is not JSON; give a list of objects as in .env.example, or use a TOML file") from None
    except Exception as error:  # a TOML or JSON syntax error, named by its library
        raise UserError(f"the settings can't be read: {_first_line(error)}; mend {path or 'the environment'}") from None
    finally:
        _config_file["path"] = None


def _check_toml(file: Path) -> None:
    """A TOML file is ours alone: what it names must exist. Environment and .env are shared, only their INDEXER_… names are ours."""
    try:
        document = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"the configuration file {str(file)!r} is not TOML: {_first_line(error)}") from None
    for name in document:
        if name not in Settings.model_fields:
            near = [other for other in Settings.model_fields if _alike(name, other)]
            hint = f"; did you mean {near[0]!r}?" if near else "; take it out"
            raise UserError(f"{name!r} is not a setting (in {str(file)!r}){hint}")


def endpoints(value: str) -> tuple[str, ...]:
    """HTTP endpoints, comma separated, in order of preference. ValueError, which shows no key, for anything else."""
    urls = tuple(part.strip() for part in value.split(",") if part.strip())
    if not urls:
        raise ValueError("is empty; give http://… or https://…")
    for url in urls:
        _check_url(url, ("http", "https"))
    return urls


def derived_ws_url(rpc_url: str) -> str:
    """As the Solana CLI does: the scheme becomes ws(s), a port that is given grows by one."""
    parts = urlsplit(rpc_url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    host = parts.netloc
    if parts.port is not None:
        host = host[: host.rindex(":")] + f":{parts.port + 1}"
    return urlunsplit((scheme, host, parts.path, parts.query, ""))


def _check_url(url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or 0 < parts.port < 65536
    except ValueError:
        port_ok = False
        parts = urlsplit("")
    if parts.scheme not in schemes or not parts.hostname or not port_ok:
        shown = f"{parts.scheme}://{parts.hostname}" if parts.hostname else "the value"
        raise ValueError(f"{shown} is no URL of the form {schemes[0]}://host:port")


def _refuse_unknown(names: Any, where: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(names):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known or upper in OTHER_VARIABLES or upper.startswith(TEST_PREFIX):
            continue
        near = [other for other in sorted(known) if _alike(upper, other)]
        hint = f"; did you mean {near[0]}?" if near else "; see .env.example for those that exist"
        raise UserError(f"{name} ({where}) is not a setting{hint}")


def _alike(one: str, other: str) -> bool:
    import difflib

    return difflib.SequenceMatcher(None, one, other).ratio() > 0.8


# What the checker calls things, and what they are called in TOML and JSON.
_WORDS = (("valid tuple", "list"), ("valid dictionary or instance of ProgramSetting", "table with name and address"))


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        place = [str(part) for part in item["loc"] if not str(part).startswith("tuple[")]
        if item["type"] == "string_type" and place[-1] == "str" and isinstance(item.get("input"), list | tuple):
            # The other form of a setting that has two; what is wrong in the form that was meant follows.
            continue
        name = (
            PREFIX + place[0].upper() + "".join(f"[{p}]" if p.isdigit() else f".{p}" for p in place[1:])
            if place
            else "settings"
        )
        message = str(item["msg"]).removeprefix("Value error, ")
        value = item.get("input")
        for python, word in _WORDS:
            message = message.replace(python, word)
        # Whatever holds a URL may hold a password, also where somebody pasted it by mistake.
        secret = (bool(place) and place[0].endswith("_url")) or "://" in str(value)
        shown = "" if secret or isinstance(value, dict | list | tuple) else f" = {str(value)[:80]!r}"
        if item["type"] == "extra_forbidden":
            lines.append(
                f"{place[-1]!r} is not a setting (in {'.'.join(place[:-1]) or 'the TOML file'}); take it out or mend its name"
            )
        else:
            lines.append(f"{name}{shown}: {message}")
    return "; ".join(lines)


def _shown(value: str) -> str:
    return "(a URL)" if "://" in value else repr(value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
