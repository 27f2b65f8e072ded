"""The bill of materials names all that is locked; an audit that could not ask never looks like a clean one."""

import json
import threading
import tomllib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tools import supply_chain

ROOT = Path(__file__).parents[2]


def test_the_bill_names_every_package_of_a_production_installation(tmp_path):
    count = supply_chain.sbom(tmp_path / "folder" / "sbom.json")
    document = json.loads((tmp_path / "folder" / "sbom.json").read_text())
    assert (document["bomFormat"], len(document["components"])) == ("CycloneDX", count)
    listed = {each["name"]: each["purl"] for each in document["components"]}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert not [need for need in wanted if need.split("[")[0].split(">")[0].split("=")[0] not in listed]
    assert listed["django"].startswith("pkg:pypi/django@6.")
    assert listed["htmx.org"].startswith("pkg:npm/htmx.org@2.")
    assert listed["@tailwindcss/cli"].startswith("pkg:npm/%40tailwindcss/cli@")
    assert "pytest" not in listed


@contextmanager
def advisories(*, against=""):
    """An OSV service that knows one flaw, of the package `against`. Counts what it is asked in `asked`."""
    asked = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(query["package"]["name"])
            flaw = {
                "id": "GHSA-test-0001",
                "summary": "A flaw.",
                "affected": [
                    {
                        "package": {"name": against, "ecosystem": "PyPI"},
                        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
                    }
                ],
            }
            body = json.dumps({"vulns": [flaw]} if asked[-1] == against else {}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_flaw_is_named_with_its_fix():
    with advisories(against="django") as (url, asked):
        status, words = supply_chain.audit(service=url)
    assert status == supply_chain.VULNERABLE
    assert "django 6." in words
    assert "GHSA-test-0001, fixed in 99.1" in words
    assert {"django", "pytest", "factur-x"} <= set(asked)


def test_no_flaw_is_said_with_the_number_of_packages_asked_about():
    with advisories() as (url, asked):
        status, words = supply_chain.audit(service=url)
    assert status == supply_chain.CLEAN
    assert words == f"No known vulnerability in {len(set(asked))} packages."


def test_a_service_that_cannot_be_reached_is_not_a_clean_bill():
    status, words = supply_chain.audit(service="http://127.0.0.1:9/v1/query")
    assert status == supply_chain.NOT_CHECKED
    assert words.startswith("NOT CHECKED: the advisories at http://127.0.0.1:9/v1/query could not be asked")


@pytest.mark.parametrize(("options", "status"), [((), 2), (("--tolerate-offline",), 0)])
def test_offline_the_command_says_so_and_the_check_goes_on(monkeypatch, capsys, options, status):
    arguments = ["supply_chain", "audit", "--service", "http://127.0.0.1:9/v1/query", *options]
    monkeypatch.setattr("sys.argv", arguments)
    assert supply_chain.main() == status
    assert capsys.readouterr().out.startswith("NOT CHECKED: ")


def test_a_skipped_package_is_not_a_checked_one():
    report = {
        "dependencies": [
            {"name": "a", "skip_reason": "not on PyPI"},
            {"name": "b", "version": "1", "vulns": []},
        ]
    }
    assert supply_chain.judge(report) == (supply_chain.NOT_CHECKED, "NOT CHECKED: a.")
