# `make` lists the targets. Everything runs in .venv, which `make setup` builds from pyproject.toml and .constraints.txt.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
STAMP := .venv/installed
OPENGL := libegl1 libgl1-mesa-dri libosmesa6
VULKAN := libvulkan1 mesa-vulkan-drivers libgl1 libglib2.0-0
# Simulators to install beside MetaWorld: make setup EXTRAS=libero,maniskill. A scale named after one brings it,
# put_on_plate and simpler bring maniskill, a part of paper_small its own, paper and its parts all.
EXTRAS ?= $(if $(filter paper,$(MAKECMDGOALS)),all,$(SCALE))
comma := ,
SCALES := $(filter-out base,$(sort $(basename $(notdir $(wildcard pirl_core/params/presets/*.yaml)))))
# Told here, before anything is installed: names that stand for nothing, what a target cannot do without, and variables
# that it would not look at.
ifneq ($(filter reproduce stage experiment flow setup,$(MAKECMDGOALS)),)
$(foreach name,$(filter-out $(SCALES),$(SCALE)),$(error SCALE=$(name) is no scale; give one of $(SCALES)))
$(if $(word 2,$(SCALE)),$(error SCALE=$(SCALE): give one scale))
$(foreach name,$(filter-out $(SCALES) metaworld all,$(subst $(comma), ,$(EXTRAS))),\
  $(error EXTRAS=$(name) is no simulator; give some of maniskill$(comma)libero$(comma)calvin, or all))
endif
HEARD := PYTHON EXTRAS SCALE STAGE EXPERIMENT SET FORCE ARGS TABLE FIGURE ALONE
$(foreach name,$(filter-out $(HEARD) MAKE% -%,$(.VARIABLES)),$(if $(filter 0command,$(MAKELEVEL)$(firstword $(origin $(name)))),\
  $(error $(name)= is no variable of this Makefile; it heeds $(filter-out ALONE,$(HEARD)))))
needs = $(if $(filter $1,$(MAKECMDGOALS)),$(if $($2),,$(error say which: make $1 $2=$3)))
$(call needs,stage,STAGE,rl@metaworld-flow_sde-0)
$(call needs,experiment,EXPERIMENT,metaworld)
heeded = $(if $(filter 0command,$(MAKELEVEL)$(firstword $(origin $1))),$(if $(filter $2,$(MAKECMDGOALS)),,\
  $(error $1=$($1) has no effect here; targets that heed it: $2)))
$(call heeded,STAGE,stage)
$(call heeded,EXPERIMENT,experiment flow)
$(call heeded,SET,flow)
$(call heeded,ARGS,flow serve)
$(call heeded,TABLE,paper)
$(call heeded,FIGURE,paper)
$(call heeded,SCALE,reproduce stage experiment flow setup)
$(call heeded,FORCE,reproduce stage experiment flow paper)
$(if $(filter-out 1,$(FORCE)),$(error FORCE=$(FORCE): give 1, or leave it out))
$(if $(FORCE),$(if $(SCALE)$(filter flow paper,$(MAKECMDGOALS)),,$(error FORCE=1 overwrites an edited params.yaml by that of a \
  SCALE, which is not given)))
PART = $(patsubst paper_small_%,%,$1)
WANTED := $(sort $(filter maniskill libero calvin all,$(foreach name,$(subst $(comma), ,$(EXTRAS)),$(patsubst paper%,all,\
  $(patsubst calvin%,calvin,$(patsubst libero%,libero,$(patsubst put_on_plate%,maniskill,$(patsubst simpler%,maniskill,\
  $(call PART,$(name))))))))))
SIMULATORS := $(if $(filter all,$(WANTED)),maniskill libero calvin,$(WANTED))

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONUNBUFFERED := 1
# `dvc repro` that first checks the parameters, mends what a kill left of DVC's files, and waits for another run here.
REPRO := python -m pirl_core.commands.repro

.DEFAULT_GOAL := help
.PHONY: help setup reproduce stage experiment paper flow serve results test test-slow test-all lint format docs bench bench-full clean dist-clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) $(SIMULATORS:%=.venv/extra-%) ## .venv and libraries for rendering; EXTRAS=maniskill,libero,calvin adds simulators

PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check
ifndef ALONE
# Nobody installs while another installs, nor under a pipeline at work: all hold one lock (pirl_core/stages/lock.py).
LOCK := .pirl/lock/pipeline
define INSTALL
@mkdir -p $(dir $(LOCK)); exec 9>>$(LOCK); \
flock -n 9 || { echo "setup: process $$(cat $(LOCK)) works here; waiting for its end"; flock 9; }; \
echo "$$$$ (make setup, since $$(date '+%F %H:%M'))" >$(LOCK); \
$(MAKE) --silent --no-print-directory ALONE=1 $@
endef

$(STAMP): pyproject.toml .constraints.txt
	$(INSTALL)

.venv/extra-%: $(STAMP)
	$(INSTALL)
else
$(STAMP): pyproject.toml .constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "make: $(PYTHON) is not Python 3.11 or 3.12; run make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setup: $(if $(wildcard $@),pyproject.toml or .constraints.txt has changed: bringing .venv up to date,the first \
	time: some minutes and about 2.3 GB in .venv; with CUDA's libraries more)"
	@echo "setup: 1 of 3, a virtual environment of $(PYTHON)"
	@$(PYTHON) -m venv .venv
	@echo "setup: 2 of 3, the packages of pyproject.toml in the versions of .constraints.txt; this takes longest"
	@$(PIP) -c .constraints.txt -e '.[dev,flows,serve]'
	@echo "setup: 3 of 3, OpenGL without a display"
	@$(MAKE) --no-print-directory opengl
	@# A downloaded archive is no git repository, which DVC must be told.
	@git rev-parse --git-dir >/dev/null 2>&1 || .venv/bin/dvc config --local core.no_scm true
	@touch $@
	@echo "setup: done"

.venv/extra-%: $(STAMP)
	@echo "setup: the packages of $*, and the libraries it draws with; some minutes"
	@$(PIP) -c .constraints.txt -e '.[dev,flows,serve,$*]'
	@$(MAKE) --no-print-directory beside-$*
	@touch $@
	@echo "setup: done"
endif

# What an extra cannot express. hf-libero asks for robomimic and with it torchvision, whose CUDA build breaks transformers
# beside a CPU torch; its environments need none of that.
.PHONY: beside-libero beside-maniskill beside-calvin beside-docs
beside-libero:
	@$(PIP) --no-deps hf-libero==0.1.4

beside-maniskill: vulkan

beside-calvin beside-docs:

# An OpenGL context without a display, from EGL or OSMesa, is what the simulator needs to draw.
define DRAWS
for gl in egl osmesa; do \
  MUJOCO_GL=$$gl PYOPENGL_PLATFORM=$$gl python -c 'import mujoco; mujoco.GLContext(8, 8).make_current()' 2>/dev/null && exit 0; \
done
endef

.PHONY: opengl
opengl:
	@$(DRAWS); \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "make: no OpenGL for rendering; run: sudo apt-get install -y $(OPENGL)" >&2; exit 1; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $(OPENGL); \
	$(DRAWS); \
	echo "make: no OpenGL context although $(OPENGL) are installed; see docs/troubleshooting.md" >&2; exit 1

# ManiSkill draws with Vulkan: a GPU's driver, or Mesa's software driver (on Debian 12 that of the backports).
RENDERS = python -c 'import sapien; sapien.render.RenderSystem(sapien.Device("cpu")); import cv2' >/dev/null 2>&1 && exit 0

.PHONY: vulkan
vulkan:
	@$(RENDERS); \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "make: no Vulkan for ManiSkill; run: sudo apt-get install -y $(VULKAN)" \
	    "(on Debian 12 with -t bookworm-backports)" >&2; exit 1; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; from=; \
	if grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release; then \
	  mirror=$$(apt-get indextargets --format '$$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Origin: Debian' | head -1); \
	  list=/etc/apt/sources.list.d/pirl-backports.list; echo "deb $$mirror bookworm-backports main" >$$list; \
	  if apt-get update -qq -o APT::Update::Error-Mode=any; then from='-t bookworm-backports'; else rm $$list; fi; \
	fi; \
	{ [ -n "$$from" ] || apt-get update -qq; } && apt-get install -y -qq --no-install-recommends $$from $(VULKAN); \
	$(RENDERS); \
	echo "make: no Vulkan although $(VULKAN) are installed; see docs/troubleshooting.md" >&2; exit 1

SWITCH = $(if $(SCALE),--scale $(SCALE) $(if $(FORCE),--overwrite))

reproduce: setup ## the whole pipeline, then the results table; SCALE=laptop and others write params.yaml first
	@$(REPRO) $(SWITCH)
	@python -m pirl_core.report.show

stage: setup ## one stage and what it needs: STAGE=rl@metaworld-flow_sde-0
	@$(REPRO) $(SWITCH) $(foreach name,$(STAGE),'$(name)')
	@printf '\nNext: make reproduce does the rest; pirl status --all tells what has run\n'

experiment: setup ## one experiment up to its evaluation: EXPERIMENT=metaworld
	@$(REPRO) $(SWITCH) $(foreach name,$(EXPERIMENT),--experiment '$(name)')
	@printf '\nNext: pirl compare A B shows two evaluations side by side; make reproduce does the rest\n'

paper: setup ## all tables, figures and claims of the paper at a small scale, part by part; TABLE=9 or FIGURE=7: what that needs
	@python -m pirl_core.commands.paper $(foreach name,$(TABLE),--table '$(name)') \
	  $(foreach name,$(FIGURE),--figure '$(name)') $(if $(FORCE),--overwrite)

flow: setup ## the pipeline as a Prefect flow, stages side by side: EXPERIMENT=, SCALE=, SET=rl.actor_lr=1e-5, FORCE=1
	@python -m flows.run $(foreach name,$(EXPERIMENT),--experiment '$(name)') $(if $(SCALE),--scale $(SCALE)) \
	  $(foreach pair,$(SET),--set '$(pair)') $(if $(FORCE),--force) $(ARGS)

serve: setup ## Prefect server with its UI, and the pipeline's deployment with a nightly schedule; ARGS="--cron '0 3 * * *'"
	@python -m flows.serve $(ARGS)

results: setup ## write the tables of README, docs and results/README.md from results/
	@python -m pirl_core.report.pages
	@python -m pirl_core.report.papers

# Two files of tests at a time: a file's tests share what it has set up. A process that dies ends the run: with another
# in its place, --dist loadfile waits for ever.
PYTEST = python -m pytest -n 2 --dist loadfile --max-worker-restart 0 --durations 12

test: setup ## the fast tests
	@$(PYTEST)

test-slow: setup ## the tests that take longer than about 20 seconds, but those of minutes that CI can do without
	@$(PYTEST) -m 'slow and not soak'

test-all: setup ## all tests
	@$(PYTEST) -m ''

lint: setup ## style and types
	ruff check .
	ruff format --check .
	mypy

format: setup ## put style right
	ruff check --fix .
	ruff format .

# Not with --quiet, which hides from --strict what it should count.
docs: setup .venv/extra-docs ## the pages of docs/ as a site, in outputs/site; a dead link is an error
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict --site-dir outputs/site
	@echo "outputs/site/index.html"

bench: setup ## measure speed and memory; writes benchmarks/RESULTS.md (about half an hour on two free cores, 12 GiB of disk)
	@python -m benchmarks --output benchmarks/RESULTS.md

bench-full: setup ## π0, π0.5 and GR00T N1.5 at their published sizes on this machine, into the same page (18 GiB of memory, 30 of disk, a quarter of an hour)
	@python -m benchmarks --only full_size --output benchmarks/RESULTS.md

clean: ## remove outputs; DVC's cache keeps what was computed
	rm -rf outputs .pirl

dist-clean: clean ## remove the environment and DVC's cache as well
	rm -rf .venv .dvc/cache .dvc/tmp .pytest_cache .mypy_cache .ruff_cache .hypothesis ./*.egg-info
