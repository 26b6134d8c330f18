# `make demo` and `make test` set up everything they need; nothing but packages is downloaded.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/$@
# The torch extra holds the original libraries, which parity tests compare with; to leave it out:
# EXTRAS=dev,docs,features,preprocess
EXTRAS ?= dev,docs,features,preprocess,torch
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help setup setup-dev demo demo-train study gallery test test-full docs lint types clean

help:
	@echo "make demo [VIDEO=path/to/360.mp4]  two views by the trained small model, in out/demo; CHECKPOINT=FOLDER for another"
	@echo "make demo-train                    the whole system with a short training, in out/demo-train; MODELS=FOLDER evaluates"
	@echo "make study [FROM=scratch]          baseline against Con360-AV on held-out scenes, in out/study; without FROM, of the"
	@echo "                                   runs in out/study/runs or BASELINE=RUN CON360AV=RUN; MODELS=FOLDER adds networks"
	@echo "make gallery                       docs/gallery.html and docs/small.jpg from the clips in out/study"
	@echo "make test                          lint, types and tests"
	@echo "make test-full                     the same with the slow full-size tests"
	@echo "make lint, make types              one of the checks alone"
	@echo "make docs                          the documentation as a site, in out/site"
	@echo "make setup, make setup-dev         a virtual environment in $(VENV): to use the system, or to work on it"
	@echo "make clean                         remove out, build and *.egg-info"

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[$(EXTRAS)]'
	touch $@

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

demo: setup
	$(BIN)/con360av demo --out "$(OUT)" $(if $(VIDEO),--video "$(VIDEO)") $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") \
		$(if $(WEIGHTS),--weights $(WEIGHTS))

# Features are extracted by PyTorch and LiteRT, which setup alone leaves out.
demo-train: $(if $(MODELS),setup-dev,setup)
	$(BIN)/con360av demo-train --out "$(OUT)" $(if $(VIDEO),--video "$(VIDEO)") $(if $(MODELS),--models "$(MODELS)")

# Keeps what is finished: the same command goes on.
study: $(if $(MODELS),setup-dev,setup)
	$(BIN)/con360av study --out "$(OUT)" $(if $(FROM),--start "$(FROM)") $(if $(BASELINE),--baseline $(BASELINE)) \
		$(if $(CON360AV),--con360av $(CON360AV)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(MODELS),--models "$(MODELS)")

# The first and the worst held-out clips of a study, and the picture of the first two scenes.
gallery: OUT = out/study
gallery: setup
	$(BIN)/con360av gallery "$(OUT)/scenes_0/con360av" --count 16 --worst 8 --out docs/gallery.html
	$(BIN)/con360av gallery "$(OUT)/scenes_0/con360av" --count 4 --out docs/small.jpg

# A dead link or an undocumented public name fails.
docs: setup-dev
	$(BIN)/python -m pytest tests/docs/test_public_names.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev
	$(BIN)/basedpyright --level error

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-full: lint types
	$(BIN)/python -m pytest

clean:
	rm -rf out build *.egg-info
