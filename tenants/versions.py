"""Config versions: how a change in the control plane reaches the workers that hold configuration in memory.

`bump` belongs into the transaction of the change itself; a message tells the workers at once, polling
`current` tells them for certain. Must never let a dead Redis fail a write.
"""

import logging
from collections.abc import Mapping
from functools import cache, partial
from typing import Final

import redis
from django.conf import settings
from django.db import connection, transaction

from tenants.models import ConfigVersion

CHANNEL: Final = "tollhouse:config"
SECTIONS: Final = ("tenants", "routing", "billing", "privacy")
_PUBLISH_TIMEOUT_S: Final = 1.0

logger = logging.getLogger(__name__)


def bump(section: str) -> int:
    """Count a change of `section` and return its new version, which the changed rows may carry.

    The row's lock is held until the caller's transaction ends, so versions become visible in order. Take
    it before the audit chain's lock (`audit.record`): everyone locks in that order.
    """
    if section not in SECTIONS:
        msg = f"unknown section {section!r}"
        raise ValueError(msg)
    if not connection.in_atomic_block:
        msg = "bump() belongs into the transaction of the change"
        raise RuntimeError(msg)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tenants_configversion AS held (section, version) VALUES (%s, 1)"
            " ON CONFLICT (section) DO UPDATE SET version = held.version + 1 RETURNING version",
            [section],
        )
        (version,) = cursor.fetchone()
    transaction.on_commit(partial(_publish, section))
    return int(version)


def current() -> Mapping[str, int]:
    """The version of every section; 0 for one that never changed."""
    return dict.fromkeys(SECTIONS, 0) | dict(ConfigVersion.objects.values_list("section", "version"))


@cache
def _redis(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=_PUBLISH_TIMEOUT_S, socket_connect_timeout=_PUBLISH_TIMEOUT_S
    )


def _publish(section: str) -> None:
    try:
        _redis(settings.REDIS_URL).publish(CHANNEL, section)
    except redis.RedisError as error:
        logger.warning("config change of %s not announced, polling will find it: %s", section, error)
