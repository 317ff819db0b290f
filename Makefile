# The commands of this project. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo demo-hospital test check format bench docs requirements clean

VENV := .venv/bin

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 20

demo: .venv/demo.installed  ## start the weather application and take the tour
	@exec $(VENV)/python examples/weather/run.py

demo-hospital: .venv/demo-hospital.installed  ## start the hospital (a gateway, four services, messages) and take the tour
	@exec $(VENV)/python examples/hospital/run.py

test: .venv/dev.installed  ## run every test, offline
	@$(VENV)/python -m pytest -n 2 --dist loadfile

check: .venv/dev.installed  ## lint, types, architecture
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/lint-imports

format: .venv/dev.installed  ## format the code and mend what the linter can
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

bench: .venv/dev.installed  ## compare with the peers, as ratios, in one run
	@$(VENV)/python -m benchmarks
	@$(VENV)/python -m benchmarks.gateway

docs: .venv/dev.installed  ## draw the pictures of the documents from the code
	@$(VENV)/python docs/pictures/draw_circuit.py
	@$(VENV)/python docs/pictures/draw_balancing.py
	@$(VENV)/python -m resilient.config_schema > docs/reference/configuration.schema.json

requirements:  ## pin anew what requirements/*.txt install (needs uv)
	uv pip compile -q pyproject.toml --extra server --extra redis --group demo --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/demo.txt
	uv pip compile -q pyproject.toml --extra server --extra redis --group demo-hospital --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url -c requirements/demo.txt -o requirements/demo-hospital.txt
	uv pip compile -q pyproject.toml --extra server --group deploy --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url -c requirements/demo-hospital.txt -o requirements/deploy.txt
	uv pip compile -q pyproject.toml --extra server --extra redis --group dev --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url -c requirements/demo-hospital.txt -c requirements/deploy.txt -o requirements/dev.txt

clean:  ## remove what the other commands made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

.venv/dev.installed: requirements/dev.txt requirements/install.sh pyproject.toml
	@sh requirements/install.sh dev

.venv/demo.installed: requirements/demo.txt requirements/install.sh pyproject.toml
	@sh requirements/install.sh demo

.venv/demo-hospital.installed: requirements/demo-hospital.txt requirements/install.sh pyproject.toml
	@sh requirements/install.sh demo-hospital
