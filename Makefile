# make demo [SECONDS=20] | test | check | chaos [FULL=1] | bench | tiny-model | pictures | manifests
# Each target creates .venv and installs its dependencies first; PYTHON=python3.12 selects the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --constraint constraints.txt

# The tests use a real RTSP server (GStreamer, run by the system's Python), ffmpeg, a browser, reverse proxies, and brokers
# (MQTT, NATS, Redis).
SYSTEM_PACKAGES := ffmpeg chromium mosquitto python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
  gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav nginx caddy openssl nats-server redis-server

# The tests of the engines run once more with AVX2 only, as most home computers have it, because torch and OpenVINO then
# run other kernels. On a processor that has no more than AVX2 the first run was that already. Left out are tests that run
# no kernel, that start such limits themselves, or that repeat another one.
AVX2_ONLY := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
ENGINE_TESTS := tests/pipelines/florence2
LEFT_OUT := finetune training int8/test_gate.py int8/test_store.py test_benchmarks.py test_checkpoint.py test_dtype.py \
  test_exactness.py test_examples.py test_noun_phrases.py test_parse.py test_tasks.py test_tokenizer.py

# Three files of tests at a time, for two cores: tests of agents wait a fifth of the time. Files stay in the order of
# their folders, so that those of agents, which take longest, come first.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check chaos bench tiny-model pictures manifests system-packages clean

demo: $(VENV)/.runtime
	@$(BIN)/streamer demo $(if $(SECONDS),--seconds $(SECONDS))

test: system-packages check
ifneq ($(ARGS),)
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m tests.support.once_more $(PARALLEL)
	@if grep -qw avx2 /proc/cpuinfo && ! grep -qE 'avx512|avx_vnni' /proc/cpuinfo; then \
	  echo "this processor has AVX2 only: the tests of the engines are not run once more with this limit"; \
	else \
	  echo "running the tests of the engines once more, limited to AVX2"; \
	  $(AVX2_ONLY) $(BIN)/python -m tests.support.once_more $(PARALLEL) $(ENGINE_TESTS) \
	    $(addprefix --ignore=$(ENGINE_TESTS)/,$(LEFT_OUT)); \
	fi
endif

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: system-packages $(VENV)/.dev
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.accuracy $(ARGS)
	$(BIN)/python -m benchmarks.scores $(ARGS)
	$(BIN)/python -m benchmarks.exactness $(ARGS)
	$(BIN)/python -m benchmarks.engine $(ARGS)

tiny-model: $(VENV)/.runtime
	$(BIN)/python -m pipelines.florence2.training --out pipelines/florence2/models/tiny $(ARGS)

pictures: system-packages $(VENV)/.dev
	$(BIN)/python docs/pictures.py

# Renders the Kubernetes manifests and checks them against the schemas of Kubernetes 1.32.
manifests: $(VENV)/.dev
	@command -v kubectl >/dev/null || { echo "kubectl not found: it renders the manifests (kubectl kustomize)"; exit 1; }
	$(PIP) kubernetes-validate==1.37.0
	for overlay in base gpu; do \
	  mkdir -p build && kubectl kustomize packaging/kubernetes/$$overlay > build/$$overlay.yaml \
	  && $(BIN)/kubernetes-validate --strict -k 1.32 build/$$overlay.yaml || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# The stamp files .runtime and .dev mark an environment that has the dependencies of pyproject.toml.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamer needs Python 3.11 or newer: make PYTHON=...")'
	@test -x $(BIN)/python || { echo "creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); } \
	  || { echo "python3 -m venv failed; on Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@echo "installing streamer and its dependencies into $(VENV) (torch is large)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing the development tools into $(VENV)"
	$(PIP) --editable '.[dev]'
	@touch $@

system-packages:
	@command -v dpkg-query >/dev/null || { \
	  echo "dpkg-query not found, system packages not checked: install what the tests need: $(SYSTEM_PACKAGES)"; exit 0; }; \
	missing=""; for package in $(SYSTEM_PACKAGES); do \
	  dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || missing="$$missing $$package"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ]; then \
	  echo "installing system packages:$$missing"; \
	  apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing; \
	else \
	  echo "System packages for the tests are missing. Install them with this command, then run make again:"; \
	  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends$$missing"; exit 1; \
	fi
