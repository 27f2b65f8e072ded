# Every verb of the house. `make up` runs the product, `make check` says whether a change may go in.
# Never put logic here that a test should hold: the verbs only call.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: up test test-real check sbom audit audit-if-reachable fuzz fmt fmt-check lint imports types migrations templates bench failover faults hooks help ground browser

UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN = $(UV) run --frozen
JOBS ?= auto
PYTEST_ARGS ?=

# The checks load the settings but touch no service and no secret: any well-formed value will do.
CHECK_ENV = SECRET_KEY=only-for-checks DATABASE_URL=postgresql:///checks REDIS_URL=redis://localhost/0 \
	TOLLHOUSE_MASTER_KEYS=k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= \
	TOLLHOUSE_KEY_PEPPERS=k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

up: ground ## run everything: PostgreSQL, Redis, web, worker, beat (Ctrl-C stops it; PORT=8001 make up)
	@exec $(RUN) --no-dev manage.py up $(UP_ARGS)

test: ground browser ## the whole test suite on its own private servers (PYTEST_ARGS="-k word", JOBS=0: one process)
	$(RUN) pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

test-real: ground ## the end-to-end test against a real local model; its first build takes minutes
	$(RUN) pytest -m real tests/e2e/test_real_provider.py $(PYTEST_ARGS)

check: fmt-check lint imports types migrations templates sbom audit-if-reachable test ## all that must pass before a push

sbom: ground ## what we ship, as CycloneDX: build/sbom.cdx.json
	@$(RUN) python -m tools.supply_chain sbom

audit: ground ## advisories about every locked package; exit status 2 when they cannot be asked
	@$(RUN) python -m tools.supply_chain audit

audit-if-reachable: ground # as audit, but "NOT CHECKED" passes: a train has no advisories
	@$(RUN) python -m tools.supply_chain audit --tolerate-offline

fuzz: ground ## 100,000 malformed requests: no 500, no hang, no row written (FUZZ_REQUESTS=n for another number)
	FUZZ_REQUESTS=$${FUZZ_REQUESTS:-100000} $(RUN) pytest -n 0 -s -p no:logging tests/gateway/test_fuzz.py

fmt: ground ## format and sort, in place
	$(RUN) ruff check --fix-only --quiet .
	$(RUN) ruff format .

fmt-check: ground
	$(RUN) ruff format --check .

lint: ground ## ruff
	$(RUN) ruff check .

imports: ground
	$(RUN) lint-imports

types: ground ## mypy, strict
	@$(CHECK_ENV) $(RUN) mypy .

migrations: ground
	@$(CHECK_ENV) $(RUN) python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run

templates: ground
	$(RUN) djlint --lint --quiet templates --per-file-ignores "templates/emails/.*" H021

bench: ground ## CPU per request against a local upstream, as a table
	$(RUN) python -m benchmarks

failover: ground ## Failover Bench in its full profile (four minutes); writes the score into README.md
	$(RUN) python -m benchmarks.failover --readme

faults: ground ## 5,000 calls to two providers of which each breaks three calls in ten
	$(RUN) python -m benchmarks.faults

hooks: ## let git call `make` before commits and pushes
	git config core.hooksPath .githooks

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1#\2/p' Makefile | awk -F'#' '{printf "  %-11s %s\n", $$1, $$2}'

# What every verb stands on: uv, and a Python for it.
ground: $(filter .uv/bin/uv,$(UV))
	@$(UV) python find --no-python-downloads >/dev/null 2>&1 || { \
		echo "Tollhouse needs Python 3.13 (.python-version; 3.12 works too), and uv sees none here. Choose one:"; \
		echo "  1. $(UV) python install 3.13                  (uv fetches one for itself)"; \
		echo "  2. pyenv install 3.13                        (if you use pyenv)"; \
		echo "  3. your system's own, e.g. apt-get install python3.13 python3.13-venv"; \
		echo "     With 3.12 instead: echo 3.12 > .python-version"; \
		exit 1; }

.uv/bin/uv:
	@echo "uv is not installed: putting it into .uv/"
	@python3 -m venv .uv || { rm -rf .uv; \
		echo "python3 has no venv: install it (Debian: apt-get install python3-venv), or uv itself (pip install uv)"; \
		exit 1; }
	@.uv/bin/pip install --quiet --disable-pip-version-check uv

browser: # for the tests marked `browser`; without it they skip, on CI they fail
	@command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "installing chromium for the browser tests"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else \
		echo "no chromium here and not root: the browser tests will skip"; \
	fi
