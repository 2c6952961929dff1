# One rule a job. `make demo` and `make test` need nothing but Python 3.11, git and make.
PYTHON ?= python3.11
BIN := .venv/bin
SHELL := /bin/bash

.PHONY: help demo text unclip studio test quick slow venv lint types format parts clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/ready  ## train, sample and score a DDPM on real digits (about three minutes on two cores)
	$(BIN)/python scripts/train.py experiment=digits_ddpm name=demo

text: .venv/ready  ## train an autoencoder and text-to-image in its latents on emoji, draw and score (about twenty minutes)
	$(BIN)/python scripts/train.py experiment=emoji_text name=text

UNCLIP := outputs/unclip
PIPELINE = pipeline=unclip pipeline.prior.run=$(UNCLIP)/prior pipeline.decoder.run=$(UNCLIP)/decoder
UPSAMPLER = $(if $(SHEETS),$(UNCLIP)/upsampler)
$(UNCLIP)/prior: TRAINED = experiment=emoji_prior
$(UNCLIP)/decoder: TRAINED = experiment=emoji_decoder
$(UNCLIP)/judge: TRAINED = experiment=emoji_clip seed=1 name=emoji_judge
$(UNCLIP)/upsampler: TRAINED = experiment=emoji_upsampler data.resolution=64 data.root=$(SHEETS) augmentation.share=0.25

unclip: .venv/ready  ## DALL-E 2 on emoji: train CLIP, prior and decoder, draw prompts, score; SHEETS=<folder> adds 64 pixels
	set -o pipefail; OMP_NUM_THREADS=$$(( ($$(nproc) + 1) / 2 )) \
	    $(MAKE) --no-print-directory -j2 $(addprefix $(UNCLIP)/,prior decoder judge) $(UPSAMPLER) 2>&1 | cat
	$(BIN)/python scripts/sample.py $(PIPELINE) $(if $(SHEETS),pipeline.upsamplers.x2.run=$(UPSAMPLER)) output=$(UNCLIP)/samples \
	    text='[red heart,blue heart,green apple,blue apple,yellow circle,purple tree,cat face,pizza]' num_samples=64
	$(BIN)/python scripts/evaluate.py $(PIPELINE) evaluation=emoji evaluation.clip.run=$(UNCLIP)/judge

# a finished run stays as it is; two are trained side by side, each with half of the cores, and write lines in place of bars
.PHONY: $(addprefix $(UNCLIP)/,prior decoder judge upsampler)
$(addprefix $(UNCLIP)/,prior decoder judge upsampler): .venv/ready
	grep -qs '"status": "finished"' $@/status.json || $(BIN)/python scripts/train.py $(TRAINED) hydra.run.dir=$@

studio: .venv/ready  ## a page in the browser that draws with the runs in outputs/
	$(BIN)/python scripts/studio.py

test: .venv/ready lint  ## lint, types and the tests, but for the slow ones
	@$(MAKE) --no-print-directory -j2 types quick

quick: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

slow: .venv/ready  ## the slow tests: whole sweeps on every launcher, ranks, kills, speed against peers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m slow

venv: .venv/ready  ## create .venv from the pinned constraints

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, found {v[0]}.{v[1]}; set PYTHON=<interpreter>")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

lint: .venv/ready  ## ruff: errors and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready  ## mypy
	$(BIN)/mypy

format: .venv/ready  ## ruff: fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parts:  ## rewrite the README's table of parts from conf/
	$(PYTHON) scripts/parts.py

clean:  ## remove .venv and caches (run folders stay)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info
