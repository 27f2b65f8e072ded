#!/bin/sh
# Run one command of ours inside a side-by-side run: serve_for_compare.sh ENV_FILE COMMAND...
# Its environment comes from a file, because the peers' processes must not see our DATABASE_URL and secrets
# (some would act on them). Redis is the run's own, at REDIS_PORT, the one that the peers use too.
set -eu
set -a
. "$1"
REDIS_URL="redis://127.0.0.1:${REDIS_PORT:?}/0"
set +a
shift
cd "$(dirname "$0")/.."
exec "$@"
