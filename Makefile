PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := recipes/fashion_mnist.onnx
DATA := calibration/fashion-mnist
OUT := build/demo

# Tests start hundreds of processes, each of which would compile what it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	@mkdir -p $(OUT)
	$(BIN)/edgedl compress $(MODEL) --int8 --samples $(DATA)/calibration.npz --test $(DATA)/test.npz --target onnxruntime --seconds 3 -o $(OUT)/fashion-onnxruntime.edl
	$(BIN)/edgedl compress $(MODEL) --int8 --samples $(DATA)/calibration.npz --test $(DATA)/test.npz --target openvino --seconds 3 -o $(OUT)/fashion-openvino.edl
	$(BIN)/edgedl check $(OUT)/fashion-onnxruntime.edl
	$(BIN)/edgedl check $(OUT)/fashion-openvino.edl
	$(BIN)/edgedl eval $(MODEL) $(OUT)/fashion-onnxruntime.edl $(OUT)/fashion-openvino.edl --samples $(DATA)/test.npz
	$(BIN)/edgedl bench $(MODEL) $(OUT)/fashion-onnxruntime.edl $(OUT)/fashion-openvino.edl --samples $(DATA)/test.npz --seconds 4

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: no \`$(PYTHON)\`; hint: install Python 3.10 to 3.13, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || { echo "error: \`$(PYTHON)\` is not Python 3.10 to 3.13; hint: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: this Python has no \`venv\`; hint: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[onnxruntime,openvino,build]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
