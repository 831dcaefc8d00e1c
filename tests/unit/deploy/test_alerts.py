"""Each alert fires for what it is about and for nothing else, as Prometheus itself evaluates the rules.

A case is a healthy writer's hour, one value a minute, but for the series that it is about. Needs `promtool`, which Debian has in the package
prometheus; where it is missing these cases are skipped and pytest says so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

RULES = Path(__file__).resolve().parents[3] / "deploy" / "prometheus" / "alerts.yml"
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(encoding="utf-8"), re.MULTILINE)
ME = 'job="indexer", instance="i"'
DONE, UNPROVEN = 'indexer_ticks_total{outcome="done"}', 'indexer_ticks_total{outcome="unproven"}'
UPGRADED = 'indexer_program_upgrades_total{program="voting", what="upgraded"}'
HEALTHY = {
    "up": "1x60",
    "indexer_leader": "1x60",
    "indexer_stalled": "0x60",
    "indexer_tip_slot": "1000+150x60",
    "indexer_finalized_slot": "960+150x60",
    "indexer_socket_connected": "1x60",
    DONE: "0+120x60",
    'indexer_sealed_lag_slots{program="voting"}': "0x60",
    'indexer_projection_dead_letters{projection="voting.voting"}': "0x60",
    'indexer_projection_failed{projection="voting.voting"}': "0x60",
    'indexer_projection_lag_positions{projection="voting.voting"}': "0x60",
    'indexer_rpc_failures_total{method="getBlock"}': "0x60",
    'indexer_rpc_rate_limited_total{form="http"}': "0x60",
    "indexer_lease_lost_total": "0x60",
    "indexer_forgeries_total": "0x60",
    "indexer_retractions_total": "0x60",
    "indexer_late_rows_total": "0x60",
    "indexer_list_missed_total": "0x60",
    "indexer_list_invented_total": "0x60",
    "indexer_list_wrong_total": "0x60",
    "indexer_hidden_transactions_total": "0x60",
    'indexer_lists_unjoined_total{commitment="confirmed"}': "0x60",
    "indexer_rpc_garbage_total": "0x60",
    "indexer_database_failures_total": "0x60",
    "indexer_account_updates_dropped_total": "0x60",
    "indexer_projection_incomplete_total": "0x60",
    "indexer_witness_disputed_total": "0x60",
    "indexer_witness_absent_total": "0x60",
    "indexer_audit_stalled": "0x60",
    "indexer_audit_forged_total": "0x60",
    UPGRADED: "0x60",
    "indexer_reconcile_differences": "0x60",
}


class Case(NamedTuple):
    """What is unlike the healthy hour, when to look (minutes), and what must fire then."""

    name: str
    unlike: dict[str, str]
    at: int
    alert: str | None


CASES = [
    Case("a healthy writer", {}, 60, None),
    Case(
        "a healthy standby, whose gauges stand still",
        {"indexer_leader": "0x60", "indexer_tip_slot": "0x60", "indexer_finalized_slot": "0x60", DONE: "0x60",
         "indexer_socket_connected": "0x60", 'indexer_leader{instance="other"}': "1x60"},
        60, None,
    ),
    Case("the process is gone", {"up": "1x9 0x50"}, 20, "IndexerDown"),
    Case("nobody leads", {"indexer_leader": "1x9 0x50"}, 20, "IndexerNoLeader"),
    Case("nobody is there to lead", {"indexer_leader": ""}, 20, "IndexerNoLeader"),
    Case("the lease is lost again and again", {"indexer_lease_lost_total": "0+1x60"}, 20, "IndexerLeaseFlapping"),
    Case("the proof needs a person", {"indexer_stalled": "0x9 1x50"}, 20, "IndexerStalled"),
    Case("sealing falls behind", {'indexer_sealed_lag_slots{program="voting"}': "0x9 200x50"}, 20, "IndexerSealedLag"),
    Case("a short lag is none", {'indexer_sealed_lag_slots{program="voting"}': "0x9 200x1 0x50"}, 12, None),
    Case(
        "the tip stands still",
        {"indexer_tip_slot": "1000+150x5 1750x55", "indexer_finalized_slot": "960+150x5 1750x55"},
        20, "IndexerTipStandsStill",
    ),
    Case("no round succeeds", {DONE: "0+120x9 1080x51", UNPROVEN: "0x9 0+20x51"}, 40, "IndexerUnproven"),
    Case("some rounds succeed", {UNPROVEN: "0x9 0+20x51"}, 40, None),
    Case("one forgery", {"indexer_forgeries_total": "0x9 1x51"}, 12, "IndexerForgery"),
    Case("a dead fork", {"indexer_retractions_total": "0x9 3x51"}, 12, "IndexerFinalityCorrected"),
    Case("a late row", {"indexer_late_rows_total": "0x9 3x51"}, 12, "IndexerFinalityCorrected"),
    Case("the audit stands still", {"indexer_finalized_slot": "960x60"}, 60, "IndexerFinalityBehind"),
    Case("the list hides a transaction", {"indexer_list_missed_total": "0x9 1x51"}, 12, "IndexerListDisagrees"),
    Case("the list invents a transaction", {"indexer_list_invented_total": "0x9 1x51"}, 12, "IndexerListDisagrees"),
    Case("the list tells another outcome", {"indexer_list_wrong_total": "0x9 1x51"}, 12, "IndexerListDisagrees"),
    Case("a hidden transaction is found after the seal", {"indexer_hidden_transactions_total": "0x9 1x51"}, 12, "IndexerListHides"),
    Case("the list ends above the ledger", {'indexer_lists_unjoined_total{commitment="confirmed"}': "0x9 0+4x51"}, 20, "IndexerListIncomplete"),
    Case("one list was short", {'indexer_lists_unjoined_total{commitment="confirmed"}': "0x9 1x51"}, 12, None),
    Case("the endpoints disagree", {"indexer_witness_disputed_total": "0x9 0+20x51"}, 12, "IndexerEndpointsDisagree"),
    Case("one slot is listed differently", {"indexer_witness_disputed_total": "0x9 1x51"}, 12, None),
    Case("the witness is gone", {"indexer_witness_absent_total": "0x9 0+20x51"}, 20, "IndexerWitnessAbsent"),
    Case("the audit needs a person", {"indexer_audit_stalled": "0x9 1x51"}, 20, "IndexerAuditStalled"),
    Case("the trusted socket lied", {"indexer_audit_forged_total": "0x9 1x51"}, 12, "IndexerTrustBetrayed"),
    Case("an event is parked", {'indexer_projection_dead_letters{projection="voting.voting"}': "0x9 1x51"}, 20, "IndexerDeadLetters"),
    Case("a projection stands still", {'indexer_projection_failed{projection="voting.voting"}': "0x9 1x51"}, 20, "IndexerProjectionFailed"),
    Case("a projection falls behind", {'indexer_projection_lag_positions{projection="voting.voting"}': "0x9 9000x51"}, 20, "IndexerProjectionLag"),
    Case("events that cannot all be known", {"indexer_projection_incomplete_total": "0x9 1x51"}, 12, "IndexerIncompleteEvents"),
    Case("the socket is down", {"indexer_socket_connected": "1x9 0x51"}, 20, "IndexerSocketDown"),
    Case("the node refuses", {'indexer_rpc_failures_total{method="getBlock"}': "0x9 0+60x51"}, 30, "IndexerRpcFailures"),
    Case("the node limits the rate", {'indexer_rpc_rate_limited_total{form="http"}': "0x9 0+120x51"}, 40, "IndexerRpcRateLimited"),
    Case("the node answers garbage", {"indexer_rpc_garbage_total": "0x9 1x51"}, 12, "IndexerRpcGarbage"),
    Case("the database refuses", {"indexer_database_failures_total": "0x9 0+10x51"}, 20, "IndexerDatabaseFailures"),
    Case("samples of accounts are dropped", {"indexer_account_updates_dropped_total": "0x9 5x51"}, 12, "IndexerAccountSamplesDropped"),
    Case("the program is deployed anew", {UPGRADED: "0x9 1x51"}, 12, "IndexerProgramChanged"),
    Case("the tables say something else than the accounts", {"indexer_reconcile_differences": "0x9 3x51"}, 12, "IndexerTablesDiffer"),
]  # fmt: skip


def series(name: str) -> str:
    """The name with the labels of this process; a case's own labels come first and win."""
    bare, _, labels = name.rstrip("}").partition("{")
    mine = [label for label in ME.split(", ") if label.partition("=")[0] not in labels]
    return f"{bare}{{{', '.join([*([labels] if labels else []), *mine])}}}"


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    assert {case.alert for case in CASES} - {None} == set(ALERTS)
    unknown = {name for case in CASES for name in case.unlike} - HEALTHY.keys()
    assert unknown == {UNPROVEN, 'indexer_leader{instance="other"}'}


def test_alerts_fire_for_what_they_are_about_and_for_nothing_else(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: no alert rule was evaluated (Debian: apt-get install prometheus)")
    tests = []
    for case in CASES:
        given = {name: values for name, values in {**HEALTHY, **case.unlike}.items() if values}
        expected = [] if case.alert is None else [{"labels": f'{{alertname="{case.alert}"}}', "value": 1}]
        look = {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": f"{case.at}m",
            "exp_samples": expected,
        }
        inputs = [{"series": series(name), "values": values} for name, values in given.items()]
        tests.append({"name": case.name, "interval": "1m", "input_series": inputs, "promql_expr_test": [look]})
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
