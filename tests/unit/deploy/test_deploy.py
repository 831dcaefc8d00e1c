"""What deploy/ and .env.example say must be true of the code: settings, metrics and labels, commands, paths, deadlines."""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from indexer.cli.main import parser
from indexer.settings import OTHER_VARIABLES, PREFIX, Settings

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
RULES = (DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
RUNBOOK = (DEPLOY / "runbook.md").read_text(encoding="utf-8")
UNIT = (DEPLOY / "systemd" / "indexer.service").read_text(encoding="utf-8")
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES, re.MULTILINE)
EXPRESSIONS = [e.replace("''", "'") for e in re.findall(r"^ +expr: '(.*)'$", RULES, re.MULTILINE)]
YAML_FILES = sorted([*DEPLOY.rglob("*.yml"), *DEPLOY.rglob("*.yaml")])
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}
KNOWN_VARIABLES = SETTINGS | set(OTHER_VARIABLES)
# Labels that Prometheus itself puts on every series.
SCRAPE_LABELS = {"job", "instance"}
DECLARATION = re.compile(
    r'^(\w+) = (?:Gauge|Counter|Histogram)\(\s*"(\w+)",\s*"[^"]*"(?:,\s*\[([^\]]*)\])?', re.MULTILINE
)


def declared_metrics() -> dict[str, tuple[str, str, set[str]]]:
    """Series name → (package, constant, labels), read from the declarations' text: importing registers them once and for all."""
    found = {}
    for package in ("indexer", "projections"):
        for constant, name, labels in DECLARATION.findall((ROOT / package / "metrics.py").read_text(encoding="utf-8")):
            found[name] = (package, constant, set(re.findall(r'"(\w+)"', labels)))
    return found


METRICS = declared_metrics()


def series_of(text: str) -> set[str]:
    """Names of our series in a text; what ends in `_` is a prefix for grep and not one."""
    names = set(re.findall(r"\bindexer_[a-z_]*[a-z]\b(?!_)", text))
    return names - {"indexer_reader"}


def load_yaml(path: Path) -> list[Any]:
    yaml = pytest.importorskip("yaml", reason="pyyaml of the lock is not installed here")
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


# ---- metrics and alerts ----


def test_declarations_are_all_read() -> None:
    written = sum(
        len(re.findall(r"= (?:Gauge|Counter|Histogram)\(", (ROOT / p / "metrics.py").read_text(encoding="utf-8")))
        for p in ("indexer", "projections")
    )
    assert len(METRICS) == written > 30


def test_every_expression_is_found_by_the_scan() -> None:
    assert len(ALERTS) == len(EXPRESSIONS) == len(set(ALERTS)) >= 15


@pytest.mark.parametrize("alert", range(len(ALERTS)), ids=ALERTS)
def test_alert_asks_for_series_that_the_code_moves(alert: int) -> None:
    expression = EXPRESSIONS[alert]
    names = series_of(expression)
    assert names or "up{" in expression
    for name in names:
        assert name in METRICS, f"{name} is declared nowhere"
        package, constant, _ = METRICS[name]
        users = (p for p in (ROOT / package).rglob("*.py") if p.name != "metrics.py")
        assert any(re.search(rf"metrics\.{constant}\b", p.read_text(encoding="utf-8")) for p in users), (
            f"{name} never moves"
        )


@pytest.mark.parametrize("alert", range(len(ALERTS)), ids=ALERTS)
def test_alert_uses_labels_that_its_series_have(alert: int) -> None:
    expression = EXPRESSIONS[alert]
    available = set().union(SCRAPE_LABELS, *(METRICS[name][2] for name in series_of(expression)))
    for name, matchers in re.findall(r"(indexer_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)=", matchers)) <= METRICS[name][2] | SCRAPE_LABELS
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert {label.strip() for label in group.split(",")} <= available
    entry = RULES[RULES.index(f"alert: {ALERTS[alert]}\n") :].split("- alert: ")[0]
    assert set(re.findall(r"\$labels\.(\w+)", entry)) <= available


@pytest.mark.parametrize("alert", range(len(ALERTS)), ids=ALERTS)
def test_expression_is_closed_and_counters_are_read_as_rates(alert: int) -> None:
    expression = EXPRESSIONS[alert]
    depth = 0
    for character in expression:
        depth += (character in "({[") - (character in ")}]")
        assert depth >= 0
    assert depth == 0
    for name in series_of(expression):
        reads = len(re.findall(rf"\b{name}\b", expression))
        as_rate = len(re.findall(rf"(?:rate|increase)\({name}(?:\{{[^}}]*\}})?\[", expression))
        assert as_rate == (reads if name.endswith("_total") else 0), (
            f"{name}: counters need a rate, gauges must not have one"
        )


def test_alerts_and_runbook_entries_are_the_same_set() -> None:
    entries = re.findall(r"^## (Indexer\w+)$", RUNBOOK, re.MULTILINE)
    assert entries == ALERTS
    assert re.findall(r"^ +runbook: deploy/runbook\.md#(\w+)$", RULES, re.MULTILINE) == [a.lower() for a in ALERTS]
    severities = re.findall(r"^ +severity: (\w+)$", RULES, re.MULTILINE)
    assert len(severities) == len(ALERTS)
    assert set(severities) <= {"critical", "warning", "info"}


def test_each_runbook_entry_says_where_to_look_and_what_to_do() -> None:
    for name, entry in zip(ALERTS, re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:], strict=False):
        assert entry.startswith(name + "\n")
        assert "Look:\n\n```sh\n" in entry, name
        assert "\nDo: " in entry, name


def test_runbook_links_lead_somewhere() -> None:
    anchors = {h.lower().replace(" ", "-").strip("?") for h in re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)}
    for target in re.findall(r"\]\(#([^)]+)\)", RUNBOOK):
        assert target in anchors


def test_metrics_that_the_documents_name_exist() -> None:
    for path in (DEPLOY / "runbook.md", ROOT / "ARCHITECTURE.md"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"`(indexer_\w+)[`{]", text):
            if name != "indexer_reader":
                assert name in METRICS, f"{path.name}: {name}"
        for prefix in re.findall(r"grep '?(?:-E ')?(indexer_[a-z_]+)", text):
            assert any(series.startswith(prefix) for series in METRICS), f"{path.name}: {prefix}"


# ---- commands ----


def runbook_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", RUNBOOK, re.DOTALL)
    lines = (
        part.strip()
        for block in blocks
        for line in block.splitlines()
        for part in re.split(r"&&|;", line.split("#")[0])
    )
    return sorted({line for line in lines if line.startswith("indexer ")})


def test_commands_are_found() -> None:
    assert len(runbook_commands()) >= 10


@pytest.mark.parametrize("command", runbook_commands())
def test_runbook_command_is_accepted_by_the_command_line(command: str) -> None:
    words = [{"A": "1", "B": "2", "ID": "1", "NAME": "voting"}.get(word, word) for word in shlex.split(command)[1:]]
    assert isinstance(parser().parse_args(words), argparse.Namespace)


# ---- settings ----


def example() -> dict[str, str]:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    pairs = re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE)
    assert len({name for name, _ in pairs}) == len(pairs), "a name is there twice"
    return dict(pairs)


def test_example_and_settings_name_each_other() -> None:
    assert set(example()) == KNOWN_VARIABLES


def test_example_shows_the_defaults() -> None:
    shown = example()
    for name, field in Settings.model_fields.items():
        if field.default in ("", ()):
            continue
        text = shown[PREFIX + name.upper()]
        parsed = Settings.model_validate({name: text})
        assert getattr(parsed, name) == field.default, name


def test_example_is_accepted_when_every_line_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in example().items():
        if name in SETTINGS:
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.watched[0].name == "voting"
    assert settings.pubsub_url == Settings.model_validate({"rpc_url": settings.rpc_url}).pubsub_url


def test_variables_in_deployment_files_are_settings() -> None:
    for path in [*DEPLOY.rglob("*")]:
        if path.is_file():
            for name in re.findall(r"\bINDEXER_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")):
                assert name in KNOWN_VARIABLES, f"{path.name}: {name}"


# ---- the files themselves ----


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda p: p.name)
def test_yaml_parses(path: Path) -> None:
    documents = load_yaml(path)
    assert documents
    assert all(isinstance(document, dict) and document for document in documents)


def test_rules_have_the_shape_that_prometheus_wants() -> None:
    (document,) = load_yaml(DEPLOY / "prometheus" / "alerts.yml")
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in rules] == ALERTS
    assert [rule["expr"] for rule in rules] == EXPRESSIONS
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])


def test_scrape_job_is_the_one_the_rules_ask_for() -> None:
    (document,) = load_yaml(DEPLOY / "prometheus" / "prometheus.yml")
    jobs = {job["job_name"] for job in document["scrape_configs"]}
    assert set(re.findall(r'job="(\w+)"', "".join(EXPRESSIONS))) == jobs


def test_compose_reaches_only_what_is_there() -> None:
    (document,) = load_yaml(DEPLOY / "compose.yaml")
    services, volumes = document["services"], document["volumes"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in volumes, volume
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port} to everybody"
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
            parser().parse_args(service["command"])
    assert int(services["indexer"]["stop_grace_period"].removesuffix("s")) > Settings().shutdown_s


def test_kubernetes_manifests_are_consistent() -> None:
    documents = load_yaml(DEPLOY / "kubernetes" / "indexer.yaml")
    namespaces = {document["metadata"]["namespace"] for document in documents}
    assert len(namespaces) == 1
    service = next(document for document in documents if document["kind"] == "Service")
    images = set()
    for document in documents:
        if document["kind"] == "Service":
            continue
        pod = document["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        images.add(container["image"])
        parser().parse_args(container["args"])
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        if document["kind"] == "Deployment":
            labels = pod["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
            assert service["spec"]["selector"].items() <= labels.items()
            assert pod["spec"]["terminationGracePeriodSeconds"] > Settings().shutdown_s
            # A standby is alive and never ready: a probe of /readyz would hold every rollout of the writers.
            if document["spec"]["replicas"] > 1:
                assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
    assert len(images) == 1


def test_unit_is_sane() -> None:
    unit = configparser.RawConfigParser(strict=False, allow_no_value=False, comment_prefixes=("#",), delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT)
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > Settings().shutdown_s
    assert service["RestartPreventExitStatus"] == "2"
    assert service["KillSignal"] == "SIGTERM"
    assert service["User"] != "root"
    command = service["ExecStart"].split(" -m indexer ")[1]
    parser().parse_args(shlex.split(command))
    assert json.dumps(service["ExecStart"]).startswith('"/'), "systemd wants an absolute path"
    assert service["ExecStart"].startswith(service["WorkingDirectory"])


def test_container_copies_what_the_package_is_made_of() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)
    for name in copied:
        assert (ROOT / name).exists(), name
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.findall(r'"(\w+)"', re.search(r"^root_packages = \[(.*)\]", pyproject, re.MULTILINE)[1])  # type: ignore[index]
    assert set(packages) <= set(copied)
    allowed = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8")
    assert {line[1:] for line in allowed.splitlines() if line.startswith("!")} == set(copied)
    assert importlib.util.find_spec("indexer.__main__") is not None, "the entry point runs python -m indexer"
