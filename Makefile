# Thin: the work is in tools/. Everything it needs is set up in .venv at the first call.
PYTHON ?= $(shell command -v python3.11 || command -v python3)

.PHONY: demo test zip pictures

demo: ## render, train, mesh and sequence, end to end, into demo_output/
	@python="$$($(PYTHON) tools/environment.py)" && "$$python" tools/demo.py

test: ## every test that this machine can run; says what it skipped and why
	@python="$$($(PYTHON) tools/environment.py)" && "$$python" tools/test.py

zip: ## the extension, ready to install in Blender, into dist/
	@python="$$($(PYTHON) tools/environment.py)" && "$$python" tools/build_zip.py

pictures: ## the manual's pictures, into docs/images/: needs the real Blenders, xvfb-run and `make demo`
	@python="$$($(PYTHON) tools/environment.py)" && "$$python" tools/pictures.py
