# Everything a newcomer needs: `make demo` to see it, `make test` to change it. `make help` lists the rest.

PYTHON ?= python3
TORCH ?= torch==2.13.0
BUF ?= @bufbuild/buf@1.75.0
UV ?= uv==0.13.9
PIP_AUDIT ?= pip-audit==2.10.1
CYCLONEDX ?= cyclonedx-bom==7.5.0
RECIPE ?= copy-ff
# --compile is about three times as fast where there is a C++ compiler.
TRAIN_OPTIONS ?=
EXPORT_OPTIONS ?=
# --http-port PORT, --writes to let the page fork and step sessions.
DEMO_WEB_OPTIONS ?=
# --ignore-vuln ID for each finding that docs/operations.md explains.
AUDIT_OPTIONS ?=

# Tests wait for servers and clients as well as compute: more processes than cores. Those of a file stay together.
WORKERS ?= 3

BIN := .venv/bin
SERVING_BIN := .venv-serving/bin
PYTEST_WORKERS := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PROTO := $(wildcard proto/ntm_serve/*/*.proto)
SERVICES := proto/ntm_serve/v1/admin.proto proto/ntm_serve/v1/models.proto proto/ntm_serve/v1/sessions.proto

.DEFAULT_GOAL := help
.PHONY: help demo demo-web test test-web web web-fresh check-web interop fuzz fuzz-frames overload soak tenants bench bench-peers flat chaos check format lint types contracts proto proto-fresh lint-proto test-serving image compose-test lock audit sbom train export-zoo zoo-check zoo-report pictures clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Environments. Each stamp is newer than what it was made from, so setting up happens once.

.venv/.python .venv-serving/.python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(@D)
	@touch $@

.venv/.serving: .venv/.python pyproject.toml
	@echo "setting up .venv: the parts of a server"
	@$(BIN)/python $(PIP_INSTALL) --editable '.[server]'
	@touch $@

.venv/.everything: .venv/.python pyproject.toml
	@echo "setting up .venv: everything, $(TORCH) included"
	@$(BIN)/python $(PIP_INSTALL) '$(TORCH)'
	@$(BIN)/python $(PIP_INSTALL) --editable '.[dev,export]'
	@touch $@ .venv/.serving

.venv-serving/.everything: .venv-serving/.python pyproject.toml
	@echo "setting up .venv-serving: the parts of a server and the tests, no torch"
	@.venv-serving/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

# What people run

demo: .venv/.serving ## Start a server, stream copies of length 20 and 120, draw the memory. No torch.
	@$(BIN)/python -m ntm_models.demo models/zoo

demo-web: .venv/.serving ## Start a server with three sessions at work, and print the address of its page. Ctrl-C ends it. No torch.
	@$(BIN)/python -m ntm_models.demo_web models/zoo $(DEMO_WEB_OPTIONS)

test: .venv/.everything ## Every test, with the coverage of the serving side.
	@rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest $(PYTEST_WORKERS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --skip-covered --show-missing

check: lint types contracts proto-fresh check-web test-serving ## Format, lint, types, contracts, and that servers and clients work without torch.

# What check is made of

format: .venv/.everything ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: .venv/.everything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.everything
	$(BIN)/mypy

contracts: .venv/.everything
	$(BIN)/lint-imports

# Not all that need no torch, as `make test` runs them all: these use every part of a server and a client.
WITHOUT_TORCH := tests/tasks tests/project tests/serve/cli tests/serve/http tests/serve/triton $(wildcard tests/serve/test_*.py)

test-serving: .venv-serving/.everything ## Tests of every part of a server and a client, where there is no torch.
	@$(SERVING_BIN)/python -c 'import importlib.util, sys; sys.exit("torch is here" if importlib.util.find_spec("torch") else 0)'
	$(SERVING_BIN)/python -m pytest $(PYTEST_WORKERS) $(WITHOUT_TORCH)

proto: .venv/.everything ## Write the generated code under ntm_serve/ from proto/.
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. $(PROTO)
	$(BIN)/python -m grpc_tools.protoc -I proto --grpc_python_out=. $(SERVICES)

proto-fresh: .venv/.everything
	@rm -rf build/proto && mkdir -p build/proto
	@$(BIN)/python -m grpc_tools.protoc -I proto --python_out=build/proto --pyi_out=build/proto $(PROTO)
	@$(BIN)/python -m grpc_tools.protoc -I proto --grpc_python_out=build/proto $(SERVICES)
	@for package in v1 inference graph; do \
		diff -r -x __init__.py -x __pycache__ build/proto/ntm_serve/$$package ntm_serve/$$package || { echo "ntm_serve/$$package is not what proto/ says: run make proto"; exit 1; }; \
	done

# The page. Who changes nothing of it needs no Node: what is built is committed.

WEB_TOOLS := web/node_modules/.package-lock.json

$(WEB_TOOLS): web/package.json web/package-lock.json
	@echo "setting up web/node_modules"
	@cd web && npm ci --silent
	@touch $@

web: $(WEB_TOOLS) ## Build the page from web/ to ntm_serve/http/page. Needs Node 20 or newer.
	cd web && npm run --silent build

web-fresh: $(WEB_TOOLS)
	@cd web && npm run --silent build -- --logLevel warn --outDir ../build/page
	@diff -r build/page ntm_serve/http/page || { echo "ntm_serve/http/page is not what web/ says: run make web"; exit 1; }

ifneq ($(or $(shell command -v npm),$(CI)),)
check-web: $(WEB_TOOLS) web-fresh
	cd web && npm run --silent check && npm run --silent test
else
check-web:
	@echo "the page is not checked: npm is missing"
endif

test-web: .venv/.everything check-web ## The page, in a real browser against real servers. Needs chromium; PICTURES=docs/pictures draws those of the documentation.
	$(BIN)/python -m pytest tests/web $(if $(PICTURES),--pictures $(PICTURES))

lint-proto: ## Lint the wire contract. Needs npx.
	npx --yes $(BUF) lint

interop: .venv/.everything ## Have the clients of others call a server: tritonclient and perf_analyzer. Installs them once.
	$(BIN)/python -m pytest tests/interop

fuzz: .venv/.everything ## Send 100,000 broken messages of the Open Inference Protocol. Some minutes.
	$(BIN)/python -m pytest tests/serve/frontends/test_inference_fuzz.py --messages 100000

bench: .venv/.everything ## Measure: wire, kernel, gateway, fairness, naive, memory, each as a ratio. About four minutes.
	$(BIN)/python -m benchmarks.bench

bench-peers: .venv/.everything ## Side by side with other servers: make bench-peers PEERS="triton mosec". Installs 4 GB once, then ten minutes.
	$(BIN)/python -m benchmarks.peers $(PEERS)

flat: .venv/.everything ## Measure whether a server's memory stays flat. About two minutes.
	$(BIN)/python -m benchmarks.flat

fuzz-frames: .venv/.everything ## A million frames that no client would send. About a minute.
	$(BIN)/python -m benchmarks.fuzz

overload: .venv/.everything ## Ten times the clients that a server takes. About a minute.
	$(BIN)/python -m benchmarks.overload

soak: .venv/.everything ## TLS, tenants, renewals and rude callers for ten minutes; says what grew.
	$(BIN)/python -m benchmarks.soak

tenants: .venv/.everything ## What a tenant at its limit costs another. About two minutes.
	$(BIN)/python -m benchmarks.tenants

chaos: .venv/.everything ## Kill, stop and cut off servers and their store while sessions stream: nothing is lost. About ten minutes.
	$(BIN)/python -m benchmarks.chaos

# What operators run

image: ## Build the image ntm-serve. Needs Docker.
	docker build --file deploy/Dockerfile --tag ntm-serve .

compose-test: .venv/.everything ## Run docker-compose.yml, kill replicas while sessions stream: nothing is lost. Skipped without Docker. About five minutes.
	$(BIN)/python -m benchmarks.compose

.venv-tools/.tools: Makefile
	@$(PYTHON) -m venv $(@D)
	@.venv-tools/bin/python $(PIP_INSTALL) $(UV) $(PIP_AUDIT) $(CYCLONEDX)
	@touch $@

LOCK := .venv-tools/bin/uv pip compile --quiet --universal --python-version 3.12 --generate-hashes --custom-compile-command 'make lock'

lock: .venv-tools/.tools ## Lock what the image installs to the newest versions, with hashes.
	$(LOCK) --upgrade pyproject.toml --extra server --extra redis --extra otel --output-file deploy/requirements.txt
	@$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(LOCK) --upgrade - --output-file deploy/requirements-build.txt

audit: .venv-tools/.tools ## Look for known vulnerabilities in what the image installs, at PyPI; or elsewhere with AUDIT_OPTIONS="-s osv".
	.venv-tools/bin/pip-audit --requirement deploy/requirements.txt --require-hashes --disable-pip --strict $(AUDIT_OPTIONS)

sbom: .venv-tools/.tools ## Write build/sbom.cdx.json: what the image installs, as CycloneDX.
	@mkdir -p build
	.venv-tools/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file build/sbom.cdx.json deploy/requirements.txt

# Models

train: .venv/.everything ## Train a recipe: make train RECIPE=copy-ff. Goes on where it was interrupted.
	$(BIN)/ntm-models train $(RECIPE) --out build/train/$(RECIPE) $(TRAIN_OPTIONS)

export-zoo: .venv/.everything ## Make models/zoo/$(RECIPE) from what make train has trained, with proof.
	@test -e build/train/$(RECIPE)/curve.png || { echo "build/train/$(RECIPE): no curve.png, which the end of a training draws: make train RECIPE=$(RECIPE) goes on where it was" >&2; exit 1; }
	$(BIN)/ntm-export models/recipes/$(RECIPE).toml --weights build/train/$(RECIPE)/best.pt --out models/zoo \
		--curve build/train/$(RECIPE)/curve.png --sequences 1000 --licence Apache-2.0 --source "trained by this project" --force $(EXPORT_OPTIONS)
	@mkdir -p models/weights && cp build/train/$(RECIPE)/best.pt models/weights/$(RECIPE).pt

zoo-check: .venv/.serving ## Measure every promise of the models of the zoo through a server. Fails where one does not hold.
	$(BIN)/ntm-models zoo-check models/zoo

zoo-report: .venv/.serving ## Write docs/zoo.md from runs through a server.
	$(BIN)/ntm-models zoo-report models/zoo --out docs/zoo.md

pictures: .venv/.everything ## Draw the pictures of the documentation from a real run.
	$(BIN)/python docs/draw_memory.py models/zoo docs/pictures

clean: ## Remove what make has made, but for trained weights.
	rm -rf .venv .venv-serving .venv-tools build/proto build/interop build/page web/node_modules build/sbom.cdx.json build/peers build/peers-work .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
