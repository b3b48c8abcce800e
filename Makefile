# Two commands do everything: `make book` and `make test`. They need Python 3.11 or later, pip and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
NB     ?= $(wildcard notebooks/*.ipynb)
PORT   ?= 8000
JOBS   ?= 2
SECONDS ?= 600
FIRST  ?= 0
COURSE ?= course

# In development the real data lie beside the project.
ifndef METANOTES_DATA
ifneq ($(wildcard ../shared/data),)
export METANOTES_DATA := $(abspath ../shared/data)
endif
endif
# Each test process and each kernel computes in one thread; JOBS of them run at once.
export OMP_NUM_THREADS ?= 1

ENV    := $(VENV)/.installed
VENDOR := book/_static/vendor/.done
SITE   := _build/html/.built
GPU_ENV := .venv-gpu/.installed
STARTED := $(shell date +%s)
PAGES  := _config.yml _toc.yml $(shell find book metanotes runs results notebooks -type f \
	-not -path '*/__pycache__/*' -not -path '*/.ipynb_checkpoints/*' -not -path 'book/_generated/*' \
	-not -path 'book/_static/vendor/*' 2>/dev/null)
# Where the site will stand, such as https://example.org/book; empty for a folder on a disk.
export SITE_ADDRESS ?=

.PHONY: help env book serve test lint unit notebook-tests site-tests notebooks chapters-anywhere \
	bench gpu record fuzz lab format lock student course course-tests \
	browser clean clean-vendor

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

env: $(ENV)  ## the environment in .venv
$(ENV): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; $(PYTHON) is older. Try: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENDOR): tools/vendor.py | $(ENV)
	@$(BIN)/python tools/vendor.py && touch $@ || [ $$? -eq 3 ]

book: $(SITE)  ## the website in _build/html
	@echo
	@echo "The book is in $(CURDIR)/_build/html"
	@echo "Open _build/html/index.html in a browser, or: make serve"
# Another address needs another build; warnings show only on a first build, so every build is one.
ifneq ($(SITE_ADDRESS),$(shell cat $(SITE) 2>/dev/null))
.PHONY: $(SITE)
endif
$(SITE): $(ENV) $(VENDOR) $(PAGES)
	rm -rf _build
	$(BIN)/jupyter-book build . -n -W --keep-going
	@echo $(SITE_ADDRESS) > $@

serve: book  ## shows the website at http://localhost:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

PARTS := lint unit notebook-tests site-tests
test: $(ENV)  ## everything that is checked
	@$(MAKE) --no-print-directory -j 3 lint book browser  # each keeps one core busy
	@$(MAKE) --no-print-directory $(filter-out lint,$(PARTS))
	@echo "All tests passed."

lint: $(ENV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: $(ENV)
	$(BIN)/pytest -n $(JOBS) --dist loadscope -m "not site and not course"

notebook-tests: $(ENV)
	PYTHONPATH=tools $(BIN)/pytest -n $(JOBS) --dist loadfile -o addopts= -p chapters \
		--nbval-lax --nbval-current-env --nbval-cell-timeout 600 $(NB)

site-tests: $(SITE) browser
	$(BIN)/pytest -n $(JOBS) -m site tests

browser: $(ENV)
	@$(BIN)/python tools/browser.py

notebooks: $(ENV)  ## runs the chapters again and stores their outputs; NB=notebooks/x.ipynb for one
	$(BIN)/ruff format --quiet $(NB)
	$(BIN)/python tools/chapters.py $(NB)

chapters-anywhere:  ## runs the chapters in another folder, with no more than pip install ".[notebooks]"
	$(PYTHON) tools/anywhere.py $(NB)

# All cores, whatever the tests leave to each process.
bench: $(ENV)  ## metanotes beside its peers, some twenty minutes; BENCH="--help" for the options
	env -u OMP_NUM_THREADS $(BIN)/python -m benchmarks $(BENCH)

# An environment of its own, with far less in it. Where there is a PyTorch for the GPU already, this
# does without: python -m benchmarks.gpu
gpu: $(GPU_ENV)  ## eight minutes on a machine with CUDA, into results/gpu/; GPU="--help" for the options
	env -u OMP_NUM_THREADS .venv-gpu/bin/python -m benchmarks.gpu --started=$(STARTED) $(GPU)
$(GPU_ENV): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.txt \
		-e .[data] pytest pytest-xdist
	@touch $@

fuzz: $(ENV)  ## random cases beside the plain loop: SECONDS=600 or CASES=5000, from the seed FIRST=0 on
	$(BIN)/python -X faulthandler -m tests.fuzz --first $(FIRST) \
		$(if $(CASES),--cases $(CASES),--seconds $(SECONDS))

RUN ?= --help
record: $(ENV)  ## a long run, into results/: RUN="sine --minutes 30"; without RUN, a list of them
	env -u OMP_NUM_THREADS $(BIN)/python -m runs $(RUN)

student: $(ENV)  ## the chapters without solutions, with cells to answer in, in course/chapters
	$(BIN)/python tools/coursework.py chapters $(COURSE)/chapters

# The grader has an environment of its own; notebooks run in that of the book.
GRADER := .venv-course
$(GRADER)/.installed: tools/requirements-course.txt tools/coursework.py | $(ENV)
	$(PYTHON) -m venv $(GRADER)
	$(GRADER)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(BIN)/python tools/coursework.py kernel $(GRADER)
	@touch $@

course: $(GRADER)/.installed  ## the six assignments for nbgrader, in course/; students' versions in course/release
	@$(BIN)/python tools/coursework.py course $(COURSE)
	@export PATH="$(CURDIR)/$(GRADER)/bin:$$PATH"; cd $(COURSE) && for name in $$(ls source); do \
		nbgrader generate_assignment $$name --create --force || exit 1; done

course-tests: $(GRADER)/.installed  ## hand-ins, right, wrong and empty, judged by nbgrader itself
	$(BIN)/pytest -n $(JOBS) --dist loadscope -m course tests/coursework

lab: $(ENV)  ## opens JupyterLab
	$(BIN)/jupyter lab --notebook-dir=.

format: $(ENV)  ## formats the code and mends what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: tools/requirements.in  ## resolves tools/requirements.in anew into requirements.txt
	$(PYTHON) tools/lock.py

clean:  ## removes the website
	rm -rf _build book/_generated
clean-vendor:
	rm -rf book/_static/vendor
