"""How ledger rows add up: the one definition of every rollup, as SQL, for writing, proving and reading it.

A reversal takes back the one attempt its original counted; a rerate or adjustment moves amounts and
counts nothing. Overhead (shadows, evaluations) has a rollup of its own and stands in no other. Nothing here
runs a statement.
"""

# ruff: noqa: S608 - statements are put together from constants

from collections.abc import Mapping
from dataclasses import dataclass

from billing.usage.histogram import BOUNDS_MS
from billing.usage.records import OVERHEAD

WEIGHT = "(CASE kind WHEN 'usage' THEN 1 WHEN 'replacement' THEN 1 WHEN 'reversal' THEN -1 ELSE 0 END)"
FINAL_WEIGHT = f"(CASE WHEN is_final THEN {WEIGHT} ELSE 0 END)"
IS_OVERHEAD = f"(kind IN ({', '.join(f"'{kind}'" for kind in OVERHEAD)}))"
IS_TENANTS = f"(NOT {IS_OVERHEAD})"
HOUR = "date_trunc('hour', occurred_at, 'UTC')"
TOKENS = "(input_tokens + cache_read_tokens + cache_write_tokens + output_tokens + reasoning_tokens)"
BUCKET = f"width_bucket(latency_ms - 1, ARRAY[{','.join(map(str, BOUNDS_MS))}])"


@dataclass(frozen=True, slots=True)
class Rollup:
    """A table of sums. `keys` and `sums` map its columns to expressions over one ledger row."""

    table: str
    keys: Mapping[str, str]
    sums: Mapping[str, str]
    condition: str = "TRUE"

    def aggregate(self, source: str) -> str:
        """SELECT the rollup's rows from ledger rows in `source` (a FROM item)."""
        keys = ", ".join(f"{expression} AS {name}" for name, expression in self.keys.items())
        sums = ", ".join(
            f"sum({expression})::{self.type_of(name)} AS {name}" for name, expression in self.sums.items()
        )
        positions = ", ".join(str(n + 1) for n in range(len(self.keys)))
        return f"SELECT {keys}, {sums} FROM {source} WHERE {self.condition} GROUP BY {positions}"

    def upsert(self, source: str) -> str:
        """Add the sums of the ledger rows in `source`, rows in key order so that writers queue, not lock."""
        keys = ", ".join(self.keys)
        adds = ", ".join(f"{name} = t.{name} + EXCLUDED.{name}" for name in self.sums)
        return (
            f"INSERT INTO {self.table} AS t ({keys}, {', '.join(self.sums)}) "
            f"SELECT * FROM ({self.aggregate(source)}) a ORDER BY {keys} "
            f"ON CONFLICT ({keys}) DO UPDATE SET {adds}"
        )

    @staticmethod
    def type_of(column: str) -> str:
        return "numeric(38,0)" if column.endswith("_pico") else "bigint"


def _component(name: str) -> str:
    return f"coalesce((cost_components ->> '{name}')::bigint, 0)"


_INPUT_PARTS = ("cache_read", "cache_write", "cache_write_1h")
_INPUT_COST = " + ".join(map(_component, ("input", *_INPUT_PARTS)))
_OUTPUT_COST = " + ".join(map(_component, ("output", "reasoning")))
_CACHE_COST = " + ".join(map(_component, _INPUT_PARTS))
_CACHE_SAVED = (
    "CASE WHEN cache_read_tokens + cache_write_tokens <> 0 AND input_tokens <> 0 "
    "AND cost_components ? 'input' THEN round((cache_read_tokens + cache_write_tokens)::numeric "
    f"* {_component('input')} / input_tokens) - ({_CACHE_COST}) ELSE 0 END"
)
"""What cached tokens would have cost at the rate that the call's own plain tokens were charged, less what
they did cost: below 0 where writing them was dearer. 0 where the call had no plain token to tell the rate."""
_FAILOVER_COST = "CASE WHEN is_final OR kind = 'adjustment' THEN 0 ELSE coalesce(cost_pico, 0) END"

_MONEY = {"cost_pico": "coalesce(cost_pico, 0)", "price_pico": "coalesce(price_pico, 0)"}

USAGE_HOUR = Rollup(
    table="billing_usage_hour",
    keys={
        "hour": HOUR,
        **{
            name: name
            for name in (
                "tenant_id", "feature", "plan_version_id", "operation", "provider", "model", "region",
                "status", "is_byok", "cost_currency", "price_currency",
            )
        },
    },
    sums={
        "attempts": WEIGHT,
        "requests": FINAL_WEIGHT,
        "input_tokens": "input_tokens",
        "cache_read_tokens": "cache_read_tokens",
        "cache_write_tokens": "cache_write_tokens",
        "output_tokens": "output_tokens",
        "reasoning_tokens": "reasoning_tokens",
        **_MONEY,
        "unpriced": f"CASE WHEN cost_pico IS NULL OR price_pico IS NULL THEN {WEIGHT} ELSE 0 END",
        "latency_ms": f"{FINAL_WEIGHT}::bigint * latency_ms",
        "input_cost_pico": _INPUT_COST,
        "output_cost_pico": _OUTPUT_COST,
        "failover_cost_pico": _FAILOVER_COST,
        "cache_saved_pico": _CACHE_SAVED,
    },
    condition=IS_TENANTS,
)  # fmt: skip

USAGE_KEY_HOUR = Rollup(
    table="billing_usage_key_hour",
    keys={
        "hour": HOUR,
        "tenant_id": "tenant_id",
        "api_key_id": "api_key_id",
        "model": "model",
        "cost_currency": "cost_currency",
        "price_currency": "price_currency",
    },
    sums={"requests": FINAL_WEIGHT, "tokens": TOKENS, **_MONEY},
    condition=IS_TENANTS,
)

USAGE_LATENCY_HOUR = Rollup(
    table="billing_usage_latency_hour",
    keys={"hour": HOUR, "tenant_id": "tenant_id", "provider": "provider", "model": "model", "bucket": BUCKET},
    sums={"count": WEIGHT},
    condition=f"is_final AND {IS_TENANTS}",
)

OVERHEAD_HOUR = Rollup(
    table="billing_overhead_hour",
    keys={
        "hour": HOUR,
        **{
            name: name
            for name in ("tenant_id", "kind", "policy", "provider", "model", "status", "cost_currency")
        },
    },
    sums={
        "attempts": "1",
        "tokens": TOKENS,
        "cost_pico": "coalesce(cost_pico, 0)",
        "unpriced": "CASE WHEN cost_pico IS NULL THEN 1 ELSE 0 END",
    },
    condition=IS_OVERHEAD,
)

ROLLUPS = (USAGE_HOUR, USAGE_KEY_HOUR, USAGE_LATENCY_HOUR, OVERHEAD_HOUR)
