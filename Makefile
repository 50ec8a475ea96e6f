# Everything starts here: `make demo` and `make test` set up whatever is missing and need nothing but Python or curl.
# ARGS goes to the command: make demo ARGS="--seed 3", make test ARGS="tests/unit -k windows".

UV_VERSION := 0.13.9
# A uv on the path is used if it knows dependency groups and runs at all; else one is put into .uv, below this folder.
UV := $(shell uv --version 2>/dev/null | grep -qE '^uv (0\.([7-9]|[1-9][0-9])|[1-9][0-9]*)\.' && echo uv || echo .uv/bin/uv)
BIN := .venv/bin
STAMP := .venv/.synced
STAMP_ALL := .venv/.synced-all

# The environment is the project's own, whatever shell it is started from.
unexport VIRTUAL_ENV UV_PROJECT_ENVIRONMENT PYTHONHOME PYTHONPATH
# Without bytecode every process compiles its imports anew, which doubles the time that they take.
unexport PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE := 1
# Some wheels are large and some networks slow.
export UV_HTTP_TIMEOUT ?= 300
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true

# Which parts of docker-compose.yml: all, core, recommendation; or several.
PROFILE ?= all
COMPOSE := docker compose $(addprefix --profile ,$(PROFILE))

.PHONY: help install demo test check bench up down logs smoke airflow sbom clean distclean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## the environment in .venv, as locked

demo: $(STAMP)  ## two systems live through their whole lives; ends with .whiteboard/report/index.html
	$(BIN)/whiteboard demo $(ARGS)

test: $(STAMP_ALL) infra/airflow/.venv/.synced  ## every test
	$(BIN)/pytest $(ARGS)

check: $(STAMP)  ## style, types, who imports whom, examples in docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -q --doctest-modules --doctest-glob='*.md' --ignore=whiteboard/librdkafka.py whiteboard pipelines docs README.md

bench: $(STAMP) bench/peers/.venv/.synced  ## the fraud service beside Feast's and MLflow's servers, the tutorial, BentoML
	$(BIN)/python -m bench.peers.run $(ARGS)

up:  ## the stack in Docker Compose; PROFILE=core is its core, PROFILE="all recommendation" has both systems
	$(COMPOSE) up --detach --build --wait
	@echo "service http://127.0.0.1:$${NGINX_PORT:-8080}/docs   MLflow http://127.0.0.1:$${MLFLOW_PORT:-5000}"
	@test -z "$(filter all,$(PROFILE))" || echo "Grafana http://127.0.0.1:$${GRAFANA_PORT:-3000}   Prometheus" \
	  "http://127.0.0.1:$${PROMETHEUS_PORT:-9090}   Airflow http://127.0.0.1:$${AIRFLOW_PORT:-8081}"

down:  ## stops the stack and keeps its data; docker compose --profile '*' down --volumes drops it
	docker compose --profile '*' down

logs:  ## what the stack says, one JSON object a line; make logs ARGS="stream fraud"
	$(COMPOSE) logs --follow --tail 50 $(ARGS)

smoke:  ## payments through every component of the stack, and where each was seen; PROFILE as for up
	docker compose --profile smoke run --rm --no-deps smoke smoke --url http://nginx:8080 \
	  $(if $(filter all,$(PROFILE)),--prometheus http://prometheus:9090) $(if $(filter recommendation,$(PROFILE)),--lists)

airflow: infra/airflow/.venv/.synced  ## Airflow's environment, apart from the project's

SBOM ?= sbom.json
sbom: | $(filter .uv/bin/uv,$(UV))  ## what is locked, with hashes, as CycloneDX 1.5 in sbom.json
	$(UV) export --frozen --quiet --all-extras --all-groups --format cyclonedx1.5 --output-file $(SBOM) 2>/dev/null

clean:  ## removes what running leaves behind: state, reports, caches
	rm -rf .whiteboard report dist sbom.json .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './.uv/*' -prune -exec rm -rf {} +

distclean: clean  ## clean, and the environment and the local uv too
	rm -rf .venv .uv infra/airflow/.venv bench/peers/.venv

infra/airflow/.venv/.synced: infra/airflow/pyproject.toml infra/airflow/uv.lock | $(filter .uv/bin/uv,$(UV))
	$(UV) sync --frozen --project infra/airflow
	@touch $@

bench/peers/.venv/.synced: bench/peers/pyproject.toml bench/peers/uv.lock | $(filter .uv/bin/uv,$(UV))
	$(UV) sync --frozen --project bench/peers
	@touch $@

$(STAMP): pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	$(UV) sync --frozen
	@touch $@

# What only tests and benchmarks want, such as Spark's 400 MB, comes on top.
$(STAMP_ALL): $(STAMP)
	$(UV) sync --frozen --all-extras --group bench
	@touch $@

.uv/bin/uv:
	@echo "no usable uv here: putting uv $(UV_VERSION) into .uv/"
	@{ python3 -m venv .uv && .uv/bin/python -m pip install --quiet "uv==$(UV_VERSION)"; } || { rm -rf .uv && \
	  curl -LsSf https://astral.sh/uv/$(UV_VERSION)/install.sh | UV_UNMANAGED_INSTALL="$(CURDIR)/.uv/bin" sh; }
