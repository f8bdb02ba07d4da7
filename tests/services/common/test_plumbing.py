"""Settings, logs, health endpoints and database parameters."""

import io
import json
import logging
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from aviary import logs
from aviary.database import connection_parameters
from aviary.health import HealthServer
from aviary.settings import DatabaseSettings

LOGGER = logging.getLogger("tests.plumbing")


def test_a_log_line_is_one_json_object_with_its_fields(log_stream: io.StringIO) -> None:
    logs.log(LOGGER, logging.INFO, "batch_sent", changes=3)
    line = json.loads(log_stream.getvalue())
    assert {"service": "test", "level": "INFO", "event": "batch_sent", "changes": 3}.items() <= line.items()


def test_an_exception_is_logged_without_its_text_which_may_quote_a_row(log_stream: io.StringIO) -> None:
    try:
        int("very secret")
    except ValueError:
        LOGGER.exception("insert_failed")
    assert "very secret" not in log_stream.getvalue()
    line = json.loads(log_stream.getvalue())
    assert line["error"] == "ValueError"
    assert line["at"].startswith("tests." if "tests." in line["at"] else "test_plumbing")


def test_metrics_are_in_the_embedded_metric_format(log_stream: io.StringIO) -> None:
    logs.metrics(LOGGER, "emu", {"RowsUpserted": (12, "Count")})
    line = json.loads(log_stream.getvalue())
    declared = line["_aws"]["CloudWatchMetrics"][0]
    assert declared["Namespace"] == "Aviary"
    assert declared["Dimensions"] == [["service"]]
    assert declared["Metrics"] == [{"Name": "RowsUpserted", "Unit": "Count"}]
    assert line["RowsUpserted"] == 12
    assert line["service"] == "emu"


def get(port: int, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_health_endpoints_tell_alive_ready_and_what_is_wrong() -> None:
    checks = {"database": "ok", "queue": "ok"}
    alive = [True]
    with HealthServer(
        "127.0.0.1", 0, alive=lambda: alive[0], ready=lambda: checks, stats=lambda: {"sent": 1}
    ) as server:
        assert get(server.port, "/healthz") == (200, {"status": "ok"})
        assert get(server.port, "/readyz") == (200, checks)
        assert get(server.port, "/stats") == (200, {"sent": 1})
        assert get(server.port, "/")[0] == 404
        checks["queue"] = "no answer from the queue"
        alive[0] = False
        assert get(server.port, "/readyz") == (503, checks)
        assert get(server.port, "/healthz")[0] == 503


def test_a_dsn_never_prints() -> None:
    settings = DatabaseSettings(postgres_dsn=SecretStr("postgresql://u:hunter2@h/db"))
    assert "hunter2" not in f"{settings!r} {settings}"
    with pytest.raises(ValidationError):
        settings.postgres_auth = "iam"


def test_iam_log_in_uses_a_fresh_token_and_verifies_the_server(tmp_path: Path) -> None:
    bundle = tmp_path / "rds.pem"
    settings = DatabaseSettings(
        postgres_dsn=SecretStr("postgresql://aviary_pelican@db.example.internal:5433/aviary?sslmode=disable"),
        postgres_auth="iam",
        postgres_root_cert=bundle,
        aws_region="eu-west-1",
    )
    given = connection_parameters(settings, "pelican")
    assert given["sslmode"] == "verify-full"
    assert given["sslrootcert"] == str(bundle)
    assert given["application_name"] == "pelican"
    token = given["password"]
    assert token.startswith("db.example.internal:5433/?Action=connect&DBUser=aviary_pelican")
    assert "X-Amz-Signature=" in token
    assert "eu-west-1" in token


@pytest.mark.parametrize(
    ("dsn", "cert", "named"),
    [
        ("postgresql://u@h/db", None, "AVIARY_POSTGRES_ROOT_CERT"),
        ("postgresql://h/db", Path("x.pem"), "user"),
        ("postgresql:///db?user=u", Path("x.pem"), "host"),
    ],
)
def test_iam_log_in_without_what_it_needs_is_refused_by_name(dsn: str, cert: Path | None, named: str) -> None:
    settings = DatabaseSettings(postgres_dsn=SecretStr(dsn), postgres_auth="iam", postgres_root_cert=cert)
    with pytest.raises(ValueError, match=named):
        connection_parameters(settings, "pelican")
