# Everything by hand and in CI goes through these targets: serve, test, slow, coverage, flake, compat,
# image-test, check, bench, docs, clean.

PYTHON ?= python3
# The port of make serve; unset, the server's own setting holds.
PORT ?=
# The release to install where there is no NVIDIA GPU; TORCH_INDEX is a package index that holds CPU-only builds of it.
TORCH_CPU ?= 2.13.0
TORCH_INDEX ?=
TRITON_EXAMPLES ?=
# A checkout of aws/amazon-sagemaker-examples, for compat.
SAGEMAKER_EXAMPLES ?=
# A checkout of triton-inference-server/client, for compat.
TRITON_CLIENT ?=
# A checkout of deepjavalibrary/djl-serving, for compat.
DJL_SERVING ?=
# A folder with checkouts of aws/sagemaker-scikit-learn-container and aws/sagemaker-xgboost-container, for compat.
CONTAINERS ?=
# How many tests run at a time, each with servers of its own.
JOBS ?= 2
# How often make flake runs its tests.
TIMES ?= 5
# More words for pytest or for benchmarks/serve.py.
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
GPU := $(wildcard /dev/nvidia0)$(shell command -v nvidia-smi 2>/dev/null)
TORCH := $(if $(GPU),torch,$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch$(TORCH_CPU:%===%))

TOOLKITS := sagemaker-inference sagemaker-pytorch-inference six retrying psutil scipy
# What scripts of these containers bring themselves.
LIBRARIES := xgboost-cpu pandas tzdata pytz
# What the code of the containers imports; of what starts their servers the tests have stubs.
PACKAGED := sagemaker-containers==2.8.6.post2 psutil retrying flask werkzeug itsdangerous blinker protobuf==3.20.3 six
CAPTUM := captum tqdm matplotlib contourpy cycler fonttools kiwisolver pyparsing python-dateutil six

.PHONY: serve test slow coverage flake compat image-test check bench docs venv clean
.DEFAULT_GOAL := serve

serve: .demo/model/.trained
	exec $(BIN)/serving serve --model-dir .demo/model --local --log-format text $(PORT:%=--port %)

test: .demo/model/.trained
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# What takes long: examples that train before they are served, backing off, many models, longer floods.
slow: .demo/model/.trained
	$(BIN)/python -m pytest -m slow -n $(JOBS) --dist loadfile $(ARGS)

# Branch coverage of all tests, with the processes that they start, by folder; fails below the floor in pyproject.toml.
# Measuring takes time and imports, so that tests of both may fail here: make test decides about those.
coverage: .demo/model/.trained
	rm -rf .coverage
	-$(BIN)/python -m coverage run -m pytest -n $(JOBS) --dist loadfile $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python tests/covered.py

# Finds tests that fail now and then: all those with processes, several times, beside two busy loops; at the end it
# prints what failed how often. ARGS="tests/e2e/test_http.py -k chunked" takes some of them, TIMES=50 more runs.
flake: .demo/model/.trained
	$(BIN)/python tests/flake.py --times $(TIMES) --jobs $(JOBS) $(ARGS)

# The same models under other servers' own packages, kept out of .venv, and under this server; TorchServe needs Java.
# TRITON_EXAMPLES=folder names the examples of a checkout of triton-inference-server/python_backend, to run those, too.
compat: .venv/.ready .compat/.ready .compat/toolkits .compat/captum $(if $(CONTAINERS),.compat/containers) \
		$(if $(CONTAINERS)$(SAGEMAKER_EXAMPLES),.compat/libraries)
	TRITON_EXAMPLES='$(TRITON_EXAMPLES)' TRITON_CLIENT='$(TRITON_CLIENT)' DJL_SERVING='$(DJL_SERVING)' \
		$(BIN)/python -m pytest -rs tests/compat/test_torchserve.py tests/compat/test_archiver.py \
		tests/compat/test_triton_examples.py tests/compat/test_triton_clients.py tests/compat/test_djl.py tests/e2e/test_torchserve_installed.py $(ARGS)
	PYTHONPATH=.compat/toolkits $(BIN)/python -m pytest tests/compat/test_sagemaker_inference.py $(ARGS)
	CONTAINERS='$(CONTAINERS)' SAGEMAKER_EXAMPLES='$(SAGEMAKER_EXAMPLES)' $(BIN)/python -m pytest -rs \
		tests/compat/test_containers.py tests/compat/test_sagemaker_examples.py $(ARGS)

# Builds both images and runs them, as root: needs buildah and debootstrap, Debian's packages and a package index.
image-test: .venv/.ready
	TORCH_INDEX='$(TORCH_INDEX)' $(BIN)/python -m pytest -s -m image tests/image $(ARGS)

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

bench: .demo/model/.trained
	$(BIN)/python benchmarks/serve.py $(ARGS)
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/streams.py
	$(BIN)/python benchmarks/compare.py

# README.md and docs/ as a site, in .site/. The packages that build it come first; building it fetches nothing.
docs: .venv/.docs
	$(BIN)/python docs/hooks.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

venv: .venv/.ready

# torch goes first and by itself: whoever brings one, or the index of a CPU build, decides which.
.venv/.ready: pyproject.toml
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -c 'import torch' 2>/dev/null || { echo "installing $(strip $(TORCH))"; $(PIP) install $(TORCH); }
	@echo "installing the server and its tools"
	@$(PIP) install -e '.[dev,demo,bench]'
	@touch $@

# torch is there already, so that pip keeps it.
.venv/.docs: .venv/.ready
	@echo "installing what builds the documentation"
	@$(PIP) install -e '.[docs]'
	@touch $@

.compat/toolkits: | .venv/.ready
	@$(PIP) install --no-deps --target $@ $(TOOLKITS)

.compat/containers: | .venv/.ready
	@$(PIP) install --no-deps --target $@ $(PACKAGED)

.compat/libraries: | .venv/.ready
	@$(PIP) install --no-deps --target $@ $(LIBRARIES)

# For this server's explanations; without its dependencies, of which torch would be another one.
.compat/captum: | .venv/.ready
	@$(PIP) install --no-deps --target $@ $(CAPTUM)

# With the torch of .venv, so that numbers and files of torch.save can be compared; the others have to fit it.
.compat/.ready: | .venv/.ready
	@test -x .compat/bin/python || { echo "making .compat"; $(PYTHON) -m venv .compat; }
	@echo "installing TorchServe"
	@version=$$($(BIN)/python -c 'import torch; print(torch.__version__.partition("+")[0])'); \
	.compat/bin/python -m pip --quiet --disable-pip-version-check install \
		"torch==$$version" torchvision captum torchserve==0.12.0 torch-model-archiver==0.12.0 numpy pillow psutil packaging pyyaml setuptools wheel
	@touch $@

# The virtual environment comes first but does not make the model old; train.py knows by itself whether it is.
.demo/model/.trained: examples/digits/train.py examples/digits/code/digits.py | .venv/.ready
	@$(BIN)/python examples/digits/train.py --out .demo/model

# .venv and .compat stay: they are slow to make again and nothing in them goes stale.
clean:
	rm -rf .coverage .demo .flake .site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
