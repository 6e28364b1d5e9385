# outrelay: two commands do everything on a fresh machine.
#   make demo   the main job on an embedded default: PostgreSQL -> WAL -> log -> sink, with kill -9 in the middle
#   make test   every test but the long ones
# `make help` lists the rest.

GO      ?= go
BIN     := bin/outrelay
BINFP   := bin/outrelay-failpoints
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
SYSTEM  := ./test/...
UNIT    := $$($(GO) list ./... | grep -v '/test/')
# Random tests whose long form is for soak; the crash test over wal, segment and replica stays whole.
BRIEF   := ./relay ./broker/segment ./sources/mysql
WHOLE   := $$($(GO) list ./... | grep -vE '/test/|/relay$$|/broker/segment$$|/sources/mysql$$')
FUZZTIME ?= 2s

export CGO_ENABLED ?= 0

.PHONY: help build build-failpoints deps deps-mysql try-mysql deps-kafka deps-clients compat kafka demo check test test-unit test-system fuzz-short fuzz soak compat-kafka crash-sinks lint lint-full schema \
        bench-relay bench-latency bench-sink bench-log bench-scale clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | sort

build: ## build bin/outrelay, a static binary
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/outrelay

build-failpoints: ## build the binary that tests can crash at named points
	@mkdir -p bin
	$(GO) build -tags failpoints -o $(BINFP) ./cmd/outrelay

deps: ## install what the tests need: PostgreSQL, MariaDB, kcat
	@scripts/install-deps

deps-mysql: ## unpack a MySQL server into the user's cache (once)
	@scripts/install-deps mysql

try-mysql: # MySQL comes from Debian's unstable branch, where it can be missing for a day: then its tests are skipped by name, and MariaDB's stand for both
	@scripts/install-deps mysql || echo "make test: MySQL could not be had; tests of MySQL are skipped, those of MariaDB are not" >&2

deps-kafka: ## install Java and Maven where they are missing, and fetch Apache Kafka's jars (once)
	@scripts/install-deps kafka

deps-clients: ## install the clients of other projects that `make test` runs: Python's, Node's, Go's
	@scripts/install-clients

kafka: build deps-kafka ## run a throwaway Apache Kafka on 127.0.0.1:19092 until interrupted
	$(BIN) bench kafka-serve

demo: build ## run the main job for 30 s, with crashes, and count from outside
	$(BIN) demo --for 30s --rate 500 --crash

check: lint ## lint and unit tests, for the day's work
	$(GO) test -short $(UNIT)

test: deps try-mysql deps-kafka deps-clients lint test-unit test-system fuzz-short ## every test but the long ones
	@echo "make test: every test passed. The long forms: make soak, make compat, make fuzz; what it is for: make demo"

test-unit: ## unit, property, crash and conformance tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 15m $(WHOLE)
	CGO_ENABLED=1 $(GO) test -race -short -timeout 15m $(BRIEF)
	$(GO) test -tags failpoints -run plantedBug ./broker/replica

test-system: build build-failpoints ## the real binary against real servers, with crashes
	OUTRELAY_BIN=$(CURDIR)/$(BIN) OUTRELAY_BIN_FAILPOINTS=$(CURDIR)/$(BINFP) $(GO) test -timeout 15m $(SYSTEM)

fuzz-short: ## a few seconds of each fuzz target
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

fuzz: ## ten minutes of each fuzz target
	@FUZZTIME=10m scripts/fuzz

soak: build build-failpoints ## the long forms of the crash and fault tests
	OUTRELAY_SOAK=1 OUTRELAY_BIN=$(CURDIR)/$(BIN) OUTRELAY_BIN_FAILPOINTS=$(CURDIR)/$(BINFP) $(GO) test -count=1 -timeout 4h $(SYSTEM) ./broker/... ./relay/... ./sources/...
	$(BIN) demo --for 10m --rate 1000 --crash --json

compat-kafka: build build-failpoints deps deps-kafka ## the system and crash tests of the whole path with Apache Kafka as the log
	OUTRELAY_TEST_LOG=kafka OUTRELAY_BIN=$(CURDIR)/$(BIN) OUTRELAY_BIN_FAILPOINTS=$(CURDIR)/$(BINFP) $(GO) test -count=1 -timeout 1h ./test/system

crash-sinks: build build-failpoints deps deps-mysql ## the crash tests of the whole path with MariaDB and with MySQL as the sink
	for sink in mariadb mysql; do \
	  OUTRELAY_TEST_SINK=$$sink OUTRELAY_BIN=$(CURDIR)/$(BIN) OUTRELAY_BIN_FAILPOINTS=$(CURDIR)/$(BINFP) $(GO) test -count=1 -timeout 1h -run 'TestCrash_C|TestSink' ./test/system || exit 1; done

compat: build deps ## every client, tool and suite of other projects against the broker: a table, and docs/compat.md
	@scripts/install-clients full
	OUTRELAY_BIN=$(CURDIR)/$(BIN) OUTRELAY_COMPAT=full OUTRELAY_COMPAT_REPORT=$(CURDIR)/docs/compat.md $(GO) test -v -count=1 -timeout 90m ./test/compat

lint: ## formatting, vet, and the rules of the house
	@files=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$files" ]; then echo "gofmt: $$files"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags failpoints ./internal/failpoint ./cmd/...
	$(GO) test -count=1 ./internal/lint

lint-full: ## golangci-lint with .golangci.yml (installs it into bin/)
	@[ -x bin/golangci-lint ] || GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	bin/golangci-lint run

schema: ## write config/outrelay.schema.json anew from the types
	OUTRELAY_REWRITE=1 $(GO) test -run TestSchema -count=1 ./config

bench-relay: build deps ## drain a PostgreSQL backlog into the log, beside pg_recvlogical
	$(BIN) bench relay --out docs/benchmarks
bench-latency: build deps ## commit to visible in the sink at 1,000 events/s
	$(BIN) bench latency --out docs/benchmarks
bench-sink: build deps ## apply a backlog into PostgreSQL, beside pgbench
	$(BIN) bench sink --out docs/benchmarks
bench-log: build deps-kafka ## the log alone, beside Apache Kafka and kfake (FLAGS="--for 60s --rounds 5" for figures to rely on)
	$(BIN) bench log --out docs/benchmarks $(FLAGS)

bench-scale: build ## the log with 1,000 partitions, 10 GiB and 100 members
	$(BIN) bench scale --out docs/benchmarks $(FLAGS)

clean: ## remove what was built
	rm -rf bin
