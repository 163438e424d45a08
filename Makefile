# Everything runs in .venv, made here with the versions of constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Stamps of what is installed: the package alone, enough for the demo; one extra on top of it; all that the tests need.
PLAIN := $(VENV)/.installed-plain
EXTRA := $(VENV)/.installed-
STAMP := $(VENV)/.installed
EXTRAS := train data eval app serve export quantize docs dev
comma := ,
ALL := $(subst $() $(),$(comma),$(EXTRAS))
# Tests never reach for a hub; a missing file is an error at once instead of a time-out.
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
# One thread for each of the two test processes: torch's threads would wait for each other.
TEST_ENV := $(OFFLINE) OMP_NUM_THREADS=1

.PHONY: demo app serve test test-slow test-wheel test-newest test-scale quality format docs dist bench setup kernels train-tiny evaluate-tiny train-glamm-tiny evaluate-glamm-tiny clean

demo: $(PLAIN)  ## questions about a scene, answers compared with the truth; writes demo_output/
	$(OFFLINE) $(BIN)/groma demo --output demo_output
	$(OFFLINE) $(BIN)/groma demo --model hub_configs/glamm-tiny --output demo_output/glamm

app: $(EXTRA)app  ## a page in the browser: drop an image, draw boxes, ask
	$(OFFLINE) $(BIN)/groma app

serve: $(EXTRA)serve  ## the OpenAI chat API on this machine
	$(OFFLINE) $(BIN)/groma serve

test: $(STAMP)  ## all tests but the slow ones
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m "not slow" tests

test-slow: $(STAMP)  ## the slow tests
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m slow tests

# Another Python than that of .venv: make test-wheel WHEEL_PYTHON=python3.13
WHEEL_PYTHON ?=

test-wheel: $(EXTRA)dev  ## the wheel with each extra, in clean environments
	$(TEST_ENV) GROMA_TEST_PYTHON=$(WHEEL_PYTHON) $(BIN)/python -m pytest -m slow tests/test_wheel.py

# The newest releases that pyproject.toml admits, in an environment of its own that is brought up to date at each call.
NEWEST := .venv-newest

test-newest:  ## all tests but the slow ones, and the wheel, with the newest versions that the bounds admit
	test -d $(NEWEST) || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pip
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable ".[$(ALL)]"
	$(NEWEST)/bin/python -m pip list | grep -E "^(torch|transformers|tokenizers|huggingface_hub|trl|peft|datasets|gradio|fastapi|pillow) "
	$(TEST_ENV) $(NEWEST)/bin/python -m pytest -n 2 -m "not slow" tests
	$(TEST_ENV) GROMA_TEST_NEWEST=1 $(NEWEST)/bin/python -m pytest -m slow tests/test_wheel.py

# Ray Serve and vLLM, each in an environment of its own.
SCALE := .venv-scale
VLLM := .venv-vllm

test-scale:  ## the slow tests of replicas on Ray Serve and of the words of vLLM
	test -d $(SCALE) || $(PYTHON) -m venv $(SCALE)
	$(SCALE)/bin/python -m pip install --quiet --upgrade pip
	$(SCALE)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[serve,scale,export,dev]"
	$(SCALE)/bin/python -m scripts.make_vllm_environment $(VLLM)
	$(TEST_ENV) GROMA_VLLM_PYTHON=$(VLLM)/bin/python $(SCALE)/bin/python -m pytest -m slow tests/serving

quality: $(STAMP)  ## lint and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(EXTRA)docs  ## the documentation as a site in site/; a dead link is an error
	$(OFFLINE) $(BIN)/python -m scripts.build_docs

dist: $(EXTRA)dev  ## sdist and wheel in dist/, the wheel made from the sdist
	rm -rf dist
	$(BIN)/python -m build

bench: $(STAMP)  ## benchmarks: one table of ratios against named baselines, each of the same run
	$(OFFLINE) $(BIN)/python benchmarks/run_all.py

# Without a compiler the model runs on torch alone, which is slower and rounds a little differently.
kernels: $(STAMP)  ## compile deformable attention and ROIAlign for this machine; what is built already stays
	-$(BIN)/python kernels/build_local.py kernels/ms-deform-attn
	-$(BIN)/python kernels/build_local.py kernels/roi-align

train-tiny: kernels  ## train hub_configs/groma-tiny from nothing, in output/groma-tiny; resumes where it was stopped
	$(OFFLINE) $(BIN)/python -m scripts.groma_tiny.train

# Benchmark and the synthetic scenes that it asks about.
TINY_TESTS := rec:rec lvis-ground:grounding region-caption:region-caption grounded-caption:grounded-caption detection:detection
TINY_MASK_TESTS := referring-segmentation:rec grounded-conversation:conversation interactive-segmentation:detection

evaluate-tiny: kernels  ## all benchmarks on scenes that groma-tiny never saw; writes the metrics into its card
	set -e; masks=$$(! grep -q mask_decoder_config hub_configs/groma-tiny/config.json || echo $(TINY_MASK_TESTS)); \
	for pair in $(TINY_TESTS) $$masks; do \
	  benchmark=$${pair%%:*}; scenes=$${pair##*:}; \
	  case $$scenes in \
	    conversation) options="--task grounded-caption --questions 1";; \
	    detection) options="--task detection";; \
	    *) options="--task $$scenes --evaluation";; \
	  esac; \
	  $(OFFLINE) $(BIN)/groma data shapes $$options --rows 500 --seed 1000 --split test \
	    --output output/groma-tiny/test/shapes-$$scenes; \
	  $(OFFLINE) $(BIN)/groma evaluate $$benchmark --model hub_configs/groma-tiny --dataset output/groma-tiny/test/shapes-$$scenes \
	    --output output/groma-tiny/metrics/$$benchmark --card hub_configs/groma-tiny --gallery 24; \
	done
	$(OFFLINE) $(BIN)/python -m scripts.groma_tiny.llava_bench --output output/groma-tiny --card hub_configs/groma-tiny
	$(OFFLINE) $(BIN)/python -m scripts.groma_tiny.card

train-glamm-tiny: kernels  ## train hub_configs/glamm-tiny, in output/glamm-tiny; resumes where it was stopped
	$(OFFLINE) $(BIN)/python -m scripts.glamm_tiny.train

# Benchmark and the synthetic scenes that it asks about.
GLAMM_TINY_TESTS := grounded-conversation:conversation referring-segmentation:rec region-caption:region-caption

evaluate-glamm-tiny: kernels  ## GLaMM's benchmarks on scenes that glamm-tiny never saw; writes the metrics into its card
	set -e; for pair in $(GLAMM_TINY_TESTS); do \
	  benchmark=$${pair%%:*}; scenes=$${pair##*:}; \
	  case $$scenes in \
	    conversation) options="--task grounded-caption --questions 1";; \
	    *) options="--task $$scenes --evaluation";; \
	  esac; \
	  $(OFFLINE) $(BIN)/groma data shapes $$options --rows 500 --seed 1000 --split test \
	    --output output/glamm-tiny/test/shapes-$$scenes; \
	  $(OFFLINE) $(BIN)/groma evaluate $$benchmark --model hub_configs/glamm-tiny \
	    --dataset output/glamm-tiny/test/shapes-$$scenes --output output/glamm-tiny/metrics/$$benchmark \
	    --card hub_configs/glamm-tiny --gallery 24; \
	done
	$(OFFLINE) $(BIN)/python -m scripts.glamm_tiny.card

setup: $(STAMP)  ## all that tests, documentation and packages need, in .venv

# pip reads its own settings, for example PIP_EXTRA_INDEX_URL.
$(PLAIN): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $(PLAIN)

# One extra, for a command that needs it.
$(EXTRA)%: $(PLAIN)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

$(STAMP): $(PLAIN)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(ALL)]"
	touch $(STAMP) $(addprefix $(EXTRA),$(EXTRAS))

clean:  ## remove the environments and what the targets above have written, but no trained model
	rm -rf $(VENV) $(NEWEST) $(SCALE) $(VLLM) demo_output dist site .cache .pytest_cache .ruff_cache
