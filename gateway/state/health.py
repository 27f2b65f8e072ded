"""What the providers have lately been like, shared by all workers: the planner reads `view`, every attempt is told.

Guides routing, never money, and costs calls no trip to Redis: one beat carries everything, four times a second.
"""

import logging
import secrets

from gateway.state.redis import RedisPipe, RedisReplyError, RedisUnavailable, Script
from routing.health.breaker import RULES, Rules
from routing.health.exchange import SCRIPT
from routing.health.tracker import Tracker

logger = logging.getLogger(__name__)


class HealthTracker(Tracker):
    """One worker's tracker; see `Tracker` for what calls tell it."""

    def __init__(self, worker: str = "", *, rules: Rules = RULES) -> None:
        super().__init__(worker or f"worker-{secrets.token_hex(6)}", rules=rules)
        self._script = Script(SCRIPT)

    async def beat(self, pipe: RedisPipe) -> None:
        """Tell what is new and take over what all have seen. Without Redis it goes on alone; never raises for it."""
        try:
            reply = await pipe.script(self._script, (), self.outgoing())
        except RedisUnavailable:
            self.alone()
        except RedisReplyError as error:
            logger.warning("health is not shared: %s", error)
            self.alone()
        else:
            self.incoming(reply)
