# Everything runs in .venv, made on first use; nothing else is touched, but that `make test` installs Chromium where it is
# absent.
PYTHON ?= python3
BIN := .venv/bin
# What consumers have: the tests read releases with it. The oldest for which a release is written, one between, the
# oldest DuckDB that the package itself runs on (below), and Node's.
OLDEST_CLIENT := 1.1.3
CLIENT_1_4 := 1.4.5
NODE_CLIENT := 1.5.5-r.5
CLIENTS := .venv/oldest-client .venv/client-1.4 .venv/oldest-duckdb .venv/node-client
INSTALLED := .venv/.installed
# A file of tests stays together, since its tests share what took long to make.
ON_ALL_CORES := --numprocesses auto --dist loadfile
# What the tests open the web interface with: the system's, at this path.
CHROMIUM := /usr/bin/chromium

# The oldest DuckDB that pyproject.toml allows.
OLDEST_DUCKDB := 1.5.5

.PHONY: run dev test soak fuzz check bench docs clean clients test-oldest-duckdb

run: $(INSTALLED)  ## run the main job and show the segments
	$(BIN)/segments run

dev: $(INSTALLED)  ## open the web interface on http://127.0.0.1:3000
	DAGSTER_HOME="$$($(BIN)/segments home)" $(BIN)/dg dev --host 127.0.0.1

test: $(INSTALLED) $(CLIENTS) $(CHROMIUM)
	$(BIN)/pytest $(ON_ALL_CORES)

soak: $(INSTALLED) $(CLIENTS)  ## the long part of the tests; writes the figures of docs/reliability.md
	$(BIN)/python -m segmentation_pipeline_tests.programs.soak

fuzz: $(INSTALLED)  ## five minutes of damaged source and retailer files; writes the figures of docs/reliability.md
	$(BIN)/python -m segmentation_pipeline_tests.programs.fuzz --page

check: $(INSTALLED)  ## lint, types, definitions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/dg check defs

bench: $(INSTALLED)
	$(BIN)/python benchmarks/against_notebook.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/choice_of_k.py
	$(BIN)/python benchmarks/pictures.py

docs: $(INSTALLED)  ## write the reference pages from the code
	$(BIN)/python tools/reference_docs.py docs

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clients: $(CLIENTS)

# Into folders of their own; --upgrade, since a folder that is there would else be left as it is.
.venv/oldest-client: $(INSTALLED)
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ duckdb==$(OLDEST_CLIENT)

.venv/client-1.4: $(INSTALLED)
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ duckdb==$(CLIENT_1_4)

.venv/oldest-duckdb: $(INSTALLED)
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ duckdb==$(OLDEST_DUCKDB)

.venv/node-client: $(INSTALLED)
	npm install --silent --no-save --no-audit --no-fund --prefix $@ @duckdb/node-api@$(NODE_CLIENT)
	touch $@

$(CHROMIUM):
	@if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
		apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes chromium; \
	else \
		echo "The tests of the web interface need Chromium at $@: have an administrator install it" \
			"(Debian: apt-get install chromium)." >&2; exit 1; \
	fi

# Those that take minutes are left out, and the browser, which no DuckDB changes.
test-oldest-duckdb: $(INSTALLED) $(CLIENTS)
	PYTHONPATH="$(CURDIR)/.venv/oldest-duckdb" $(BIN)/python -c \
		'import duckdb, sys; sys.exit(duckdb.__version__ != "$(OLDEST_DUCKDB)")'
	PYTHONPATH="$(CURDIR)/.venv/oldest-duckdb" $(BIN)/pytest $(ON_ALL_CORES) \
		$(foreach slow,real_data nightly web_interface,--ignore=segmentation_pipeline_tests/test_$(slow).py)

clean:
	rm -rf .venv build dist
