# Everything is installed into .venv by the first target that needs it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check bench audit sbom clean
run: .venv/ready
	$(BIN)/defectscope up --samples --data-dir data
# Two files at a time; what starts whole stacks comes by itself, and loses less time to waiting.
test: .venv/ready
	$(BIN)/pytest --numprocesses 2 --dist loadfile --ignore tests/system
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/system
check: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports
bench: .venv/ready
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/defectscope bench engine
	$(BIN)/defectscope bench gateway
	$(BIN)/defectscope bench service
audit: .venv/ready
	$(BIN)/python -m deploy.docker.supply pins > .venv/pins.txt && $(BIN)/pip-audit --strict --disable-pip --no-deps --requirement .venv/pins.txt
sbom: .venv/ready
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-file .venv/environment.json .venv && $(BIN)/python -m deploy.docker.supply sbom < .venv/environment.json > sbom.json
clean:
	rm -rf .venv

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --upgrade pip
	$(BIN)/pip install --editable '.[dev]'
	touch $@
