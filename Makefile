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
STAGES = pipeline=unclip pipeline.prior.run=$(UNCLIP)/prior pipeline.decoder.run=$(UNCLIP)/decoder
# $(call trained,<folder>,<overrides>): a finished run stays as it is
trained = grep -qs '"status": "finished"' $(1)/status.json || $(BIN)/python scripts/train.py $(2) hydra.run.dir=$(1)

unclip: .venv/ready  ## DALL-E 2 on emoji: train CLIP, prior and decoder, draw prompts, score; SHEETS=<folder> adds 64 pixels
	$(call trained,$(UNCLIP)/prior,experiment=emoji_prior)
	$(call trained,$(UNCLIP)/decoder,experiment=emoji_decoder)
	$(call trained,$(UNCLIP)/judge,experiment=emoji_clip seed=1 name=emoji_judge)
ifdef SHEETS
	$(call trained,$(UNCLIP)/upsampler,experiment=emoji_upsampler data.resolution=64 data.root=$(SHEETS) augmentation.share=0.25)
endif
	$(BIN)/python scripts/sample.py $(STAGES) $(if $(SHEETS),pipeline.upsamplers.x2.run=$(UNCLIP)/upsampler) output=$(UNCLIP)/samples \
	    text='[red heart,blue heart,green apple,blue apple,yellow circle,purple tree,cat face,pizza]' num_samples=64
	$(BIN)/python scripts/evaluate.py $(STAGES) evaluation=emoji evaluation.clip.run=$(UNCLIP)/judge

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
