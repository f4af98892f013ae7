# Targets of the Task Management API. "make" alone lists them.

GO          ?= go
PREFIX      ?= /usr/local
UNITDIR     ?= $(PREFIX)/lib/systemd/system
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.1.4
FUZZTIME    ?= 10s
MAXCODE     ?= 2100

# The race detector needs a C compiler; where there is none, the tests run without it and say so.
RACE := $(shell test "$$($(GO) env CGO_ENABLED)" = 1 && echo -race)

.DEFAULT_GOAL := help
.PHONY: help run build test bench fuzz lint vuln cross size check-deploy install uninstall clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: ## serve on 127.0.0.1:8000
	$(GO) run .

build: ## build ./taskapi, stamped with version and revision
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -o taskapi .

test: ## vet, gofmt and all tests, under the race detector
	$(GO) vet ./...
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	@test -n "$(RACE)" || echo "no C compiler: the race detector is off"
	$(GO) test $(RACE) -shuffle=on ./...

bench: ## benchmarks of a request of each kind
	$(GO) test -run '^$$' -bench . -benchmem -cpu 1 ./...

fuzz: ## each fuzz target for FUZZTIME (10s)
	@for target in $$($(GO) test -list '^Fuzz' . | grep ^Fuzz); do \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s . || exit 1; done

lint: ## staticcheck, go fix and go mod tidy find nothing to say
	$(GO) run $(STATICCHECK) ./...
	$(GO) fix -diff ./...
	$(GO) mod tidy -diff

vuln: ## known vulnerabilities in dependencies and toolchain (asks a database on the network)
	$(GO) run $(GOVULNCHECK) ./...

cross: ## build for every supported system
	@for system in linux darwin windows freebsd; do for arch in amd64 arm64; do echo $$system/$$arch; \
		CGO_ENABLED=0 GOOS=$$system GOARCH=$$arch $(GO) build -o /dev/null . || exit 1; done; done

# Code is a line that is neither blank nor only a comment. Tabs are four columns wide.
SERVICE := main.go task.go store.go health.go metrics.go

size: ## hold the code against its limits: lines, columns, comments, functions
	@count() { cat "$$@" | grep -cvE '^[[:space:]]*($$|//)'; }; \
	atmost() { echo "$$1: $$2 of $$3"; test "$$2" -le "$$3"; }; \
	code=$$(count $(SERVICE)); comments=$$(cat $(SERVICE) | grep -cE '(^|[[:space:]])// '); \
	atmost "lines of code in the service" $$code $(MAXCODE) && \
	for f in *.go; do expand -t 4 $$f | awk -v f=$$f 'length > 100 { print f ":" NR ": over 100 columns" }'; done; \
	atmost "lines over 100 columns" $$(expand -t 4 *.go | awk 'length > 100' | wc -l) 0 && \
	atmost "a fifth of the code, in lines of comment" $$((code / 5)) $$comments && \
	atmost "lines of code in the longest function" $$(cat $(SERVICE) | \
		awk '/^func/ { n = 0; on = !/}$$/ } on && !/^[[:space:]]*($$|\/\/)/ { n++ } \
		/^}/ { on = 0 } n > max { max = n } END { print max }') 45

check-deploy: ## prove deploy/ with the real programs (Debian, as root; DEBIAN=trixie: in a Debian 13)
	$(if $(DEBIAN),deploy/check-on.sh $(DEBIAN),deploy/check.sh)

install: build ## install binary, units, log rotation and the queue of rsyslog (DESTDIR, PREFIX)
	install -D -m 755 taskapi $(DESTDIR)$(PREFIX)/bin/taskapi
	install -D -m 644 deploy/taskapi.service $(DESTDIR)$(UNITDIR)/taskapi.service
	sed -i 's|/usr/local/bin/|$(PREFIX)/bin/|' $(DESTDIR)$(UNITDIR)/taskapi.service
	install -D -m 644 deploy/taskapi.socket $(DESTDIR)$(UNITDIR)/taskapi.socket
	install -D -m 644 deploy/logrotate.conf $(DESTDIR)/etc/logrotate.d/taskapi
	install -D -m 644 deploy/syslog.socket.conf $(DESTDIR)$(UNITDIR)/syslog.socket.d/taskapi.conf
	install -D -m 644 deploy/sysctl.conf $(DESTDIR)/etc/sysctl.d/60-taskapi.conf

# Without their files, running units could be neither restarted nor found again.
STOPFIRST := systemctl disable --now taskapi.socket taskapi.service

uninstall: ## remove what install has installed
	@test -n "$(DESTDIR)" || ! systemctl -q is-active taskapi.socket taskapi.service 2>/dev/null || \
		{ echo "they run; first: $(STOPFIRST)"; exit 1; }
	rm -f $(DESTDIR)$(PREFIX)/bin/taskapi $(DESTDIR)$(UNITDIR)/taskapi.service \
		$(DESTDIR)$(UNITDIR)/taskapi.socket $(DESTDIR)/etc/logrotate.d/taskapi \
		$(DESTDIR)$(UNITDIR)/syslog.socket.d/taskapi.conf $(DESTDIR)/etc/sysctl.d/60-taskapi.conf

clean: ## remove what build has built
	rm -f taskapi
