"""The product (one web worker, unless asked for more) on private services, for benchmarks that judge what it answers.

Sets Django up in this process, so that a benchmark can seed and read its tables. It must never touch a database
or a Redis that it has not started itself.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.__main__ import HOUSE, BenchmarkError, free_port, is_ready, running
from gateway.embedded import services
from gateway.environment import new_secrets
from gateway.supervisor import Options, product_commands


@dataclass(frozen=True, slots=True)
class Product:
    """A running gateway. `url` ends in /v1; `key` is what the seeding returned."""

    url: str
    key: str


@contextlib.contextmanager
def product(seed: Callable[[], str], *, web_workers: int = 1) -> Iterator[Product]:
    """Migrate, seed, start; `seed` runs with Django set up. Raises BenchmarkError."""
    with (
        tempfile.TemporaryDirectory(prefix="tollhouse-bench-") as folder,
        services(Path(folder), is_durable=False) as urls,
    ):
        options = Options(
            root=Path(folder),
            host="127.0.0.1",
            port=free_port(),
            web_workers=web_workers,
            celery_concurrency=1,
            drain_s=5,
            with_demo=False,
        )
        os.environ |= {
            **new_secrets(),
            "DATABASE_URL": urls.database_url or "",
            "REDIS_URL": urls.redis_url or "",
            "TOLLHOUSE_DATA": folder,
            "PUBLIC_URL": options.public_url,
            "DJANGO_SETTINGS_MODULE": "gateway.settings",
            "LOG_LEVEL": "WARNING",
        }
        migrate = [sys.executable, "-W", "ignore::RuntimeWarning", "manage.py", "migrate", "-v0"]
        done = subprocess.run(migrate, cwd=HOUSE, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"migrate failed:\n{done.stderr[-3000:]}")
        import django

        django.setup()
        key = seed()
        argv = [sys.executable, "-W", "ignore", "-m", *product_commands(options)["web"]]
        core = min(os.sched_getaffinity(0))
        ready = partial(is_ready, options.port)
        with running("web", argv, core=core, ready=ready, env=dict(os.environ)):
            yield Product(f"{options.public_url}/v1", key)
