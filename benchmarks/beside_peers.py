"""The side-by-side run with other gateways: prepares ours, then hands over to the harness's own compare.py.

    uv run python -m benchmarks.beside_peers HARNESS_FOLDER -g direct,nginx,litellm_limits -r 2

The harness installs, configures and measures the peers, and starts ours by `serve_for_compare.sh`, once a round, on
its own Redis. What follows the folder goes to compare.py as it is. Records stay on that Redis's stream: what moves
them to the ledger is measured by `make bench`. It must never let a peer see our database or secrets.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.__main__ import HOUSE, BenchmarkError, free_port, prepare
from gateway.embedded import services
from gateway.environment import new_secrets
from gateway.supervisor import Options, product_commands


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("harness", type=Path, help="the folder with compare.py")
    parser.add_argument("--workers", type=int, default=1, help="of each gateway (1)")
    chosen, rest = parser.parse_known_args()
    compare = chosen.harness / "compare.py"
    if not compare.is_file():
        raise SystemExit(f"no compare.py in {chosen.harness}")
    with tempfile.TemporaryDirectory(prefix="tollhouse-bench-") as folder, services(Path(folder)) as urls:
        options = Options(
            root=Path(folder),
            host="127.0.0.1",
            port=free_port(),
            web_workers=chosen.workers,
            celery_concurrency=1,
            drain_s=3,
            with_demo=False,
        )
        upstream_port = free_port()
        ours = {
            **new_secrets(),
            "DATABASE_URL": urls.database_url or "",
            "TOLLHOUSE_DATA": folder,
            "PUBLIC_URL": options.public_url,
            "DJANGO_SETTINGS_MODULE": "gateway.settings",
            "LOG_LEVEL": "WARNING",
        }
        seeding = {**os.environ, **ours, "REDIS_URL": urls.redis_url or ""}
        try:
            key = prepare(seeding, upstream_port=upstream_port)
        except BenchmarkError as error:
            raise SystemExit(f"beside_peers: {error}") from error
        env_file = Path(folder) / "bench.env"
        env_file.touch(mode=0o600)
        env_file.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in ours.items()))
        serve = ["sh", HOUSE / "benchmarks" / "serve_for_compare.sh", env_file]
        serve += [sys.executable, "-W", "ignore", "-m", *product_commands(options)["web"]]
        argv = [sys.executable, compare, "--mock-port", upstream_port, "--workers", chosen.workers]
        argv += ["--ours-cmd", shlex.join(map(str, serve)), "--ours-port", options.port]
        argv += ["--ours-url", f"{options.public_url}/v1/chat/completions", "--ours-key", key]
        raise SystemExit(subprocess.call([*map(str, argv), *rest]))


if __name__ == "__main__":
    main()
