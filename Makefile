# Few targets; each does one thing that README.md or CONTRIBUTING.md names.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help build demo test check fuzz bench test-real torture defects soak clean

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo dev)
BUILD   := CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)'

# The race detector needs cgo, and that a C compiler.
CC_FOUND := $(shell command -v $$(go env CC) 2>/dev/null)
RACE     := $(if $(CC_FOUND),-race)
TEST     := $(if $(CC_FOUND),CGO_ENABLED=1,CGO_ENABLED=0) go test $(RACE)

FUZZTIME ?= 1m
SOAK     ?= 1h
OUT      ?= vtsidecar

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '  make %-10s %s\n' "$$t" "$$d"; done

build: ## the binary, ./vtsidecar
	$(BUILD) -o $(OUT) .

demo: ## the main job before your eyes, with a stand-in VirusTotal on loopback
	@scripts/demo.sh

test: ## all tests; with the race detector where a C compiler is present
	$(TEST) ./...

check: ## format, vet, linter, race, tidy modules, clean tree
	@scripts/check.sh
	$(TEST) ./...
	@scripts/check.sh tree

fuzz: ## every fuzz target for FUZZTIME each (default 1m)
	@scripts/fuzz.sh $(FUZZTIME)

bench: OUT = bin/vtsidecar
bench: build ## whole processes side by side, as ratios to a floor
	CGO_ENABLED=0 go build -trimpath -o bin/vtstandin ./internal/vtstandin/cmd/vtstandin
	CGO_ENABLED=0 go build -trimpath -o bin/esstandin ./internal/esstandin/cmd/esstandin
	go build -trimpath -o bin/bench ./internal/bench
	bin/bench $(BENCHFLAGS)

test-real: ## real senders against the real binary, and that against real search engines; installs what is missing
	@scripts/test-real.sh

# Shows what torture says, and fails unless its last line is that it passed.
PASSED = awk '{ print; fflush(); last = $$0 } END { exit last != "torture: passed" }'

torture: OUT = bin/vtsidecar
torture: build ## hostile and broken senders against the real binary, row by row and all at once
	CGO_ENABLED=0 go build -trimpath -o bin/torture ./internal/torture
	bin/torture $(TORTUREFLAGS) 2>&1 | $(PASSED)

defects: ## makes mistakes on purpose, and demands that torture finds each
	@scripts/defects.sh

soak: OUT = bin/vtsidecar
soak: build ## SOAK (default 1h) of ordinary days: memory flat, every event counted
	CGO_ENABLED=0 go build -trimpath -o bin/torture ./internal/torture
	bin/torture soak -for $(SOAK) $(SOAKFLAGS) 2>&1 | $(PASSED)

clean: ## what the other targets left behind, but not the cached Filebeat
	rm -rf vtsidecar bin .cache/demo
