"""`make sbom` and `make audit`: what we ship, as CycloneDX, and what the advisories say of it.

Reads the lock alone and installs nothing. An audit that could not ask must never look like one that found
nothing: it says "NOT CHECKED" and has an exit status of its own.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
CLEAN, VULNERABLE, NOT_CHECKED = 0, 1, 2
SERVICE: Final = "https://api.osv.dev/v1/query"
_TIMEOUT_S: Final = 300


def sbom(target: Path) -> int:
    """Write the bill of materials of a production installation: Python packages, and what the console is built from.
    Returns how many components it lists.
    """
    document: dict[str, Any] = json.loads(
        _uv(
            "export",
            "--format",
            "cyclonedx1.5",
            "--no-dev",
            "--all-extras",
            "--preview-features",
            "sbom-export",
        )
    )
    assets = json.loads((ROOT / "frontend" / "package.json").read_text(encoding="utf-8"))
    for name, version in sorted(
        {**assets.get("dependencies", {}), **assets.get("devDependencies", {})}.items()
    ):
        package_url = f"pkg:npm/{name.replace('@', '%40', 1)}@{version}"
        document["components"].append(
            {"type": "library", "bom-ref": package_url, "name": name, "version": version, "purl": package_url}
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return len(document["components"])


def audit(*, service: str = SERVICE) -> tuple[int, str]:
    """Ask the advisory service about every locked package, development's too. An exit status and what to print."""
    requirements = _uv(
        "export", "--format", "requirements.txt", "--all-groups", "--all-extras", "--no-emit-project"
    )
    with tempfile.TemporaryDirectory() as folder:
        listed, found = Path(folder) / "requirements.txt", Path(folder) / "found.json"
        listed.write_text(requirements, encoding="utf-8")
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments
                [
                    *(
                        sys.executable,
                        "-m",
                        "pip_audit",
                        "--requirement",
                        str(listed),
                        "--no-deps",
                        "--disable-pip",
                    ),
                    *("--vulnerability-service", "osv", "--osv-url", service, "--timeout", "10"),
                    *("--progress-spinner", "off", "--format", "json", "--output", str(found)),
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return NOT_CHECKED, f"NOT CHECKED: no answer from {service} within {_TIMEOUT_S} s."
        # Its exit status is 1 for a finding and for a service that cannot be reached: only the report tells.
        if not found.exists():
            reason = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
            return (
                NOT_CHECKED,
                f"NOT CHECKED: the advisories at {service} could not be asked ({reason[:300]}).",
            )
        report = json.loads(found.read_text(encoding="utf-8"))
    return judge(report)


def judge(report: dict[str, Any]) -> tuple[int, str]:
    """pip-audit's report in words. A package that was skipped counts as not checked."""
    packages = report["dependencies"]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    if lines:
        return VULNERABLE, "\n".join(
            [*lines, f"{len(lines)} known vulnerabilities in {len(packages)} packages."]
        )
    if skipped := [package["name"] for package in packages if "skip_reason" in package]:
        return NOT_CHECKED, f"NOT CHECKED: {', '.join(skipped)}."
    return CLEAN, f"No known vulnerability in {len(packages)} packages."


def _uv(*arguments: str) -> str:
    uv = ROOT / ".uv" / "bin" / "uv"
    done = subprocess.run(  # noqa: S603 - our own arguments
        [str(uv) if uv.exists() else "uv", *arguments, "--frozen", "--quiet"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return re.sub(r"^warning:.*\n", "", done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.supply_chain", description=__doc__)
    parser.add_argument("verb", choices=("sbom", "audit"))
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "sbom.cdx.json")
    parser.add_argument("--service", default=SERVICE, help="where an OSV query is answered")
    parser.add_argument(
        "--tolerate-offline", action="store_true", help="exit with 0 when nothing could be asked"
    )
    chosen = parser.parse_args()
    if chosen.verb == "sbom":
        count = sbom(chosen.output)
        print(f"{chosen.output}: {count} components")  # noqa: T201 - a command's answer
        return CLEAN
    status, words = audit(service=chosen.service)
    print(words)  # noqa: T201 - a command's answer
    return CLEAN if status == NOT_CHECKED and chosen.tolerate_offline else status


if __name__ == "__main__":
    sys.exit(main())
