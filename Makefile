# SPDX-License-Identifier: LGPL-2.1-or-later

PREFIX ?= /usr
DESTDIR ?=
LIBDIR := $(PREFIX)/lib/bootseal
UNITDIR := $(PREFIX)/lib/systemd/system
DRACUTDIR := $(PREFIX)/lib/dracut/modules.d/52bootseal
MANDIR := $(PREFIX)/share/man
# Debian's zsh looks in vendor-completions instead.
ZSHDIR := $(PREFIX)/share/zsh/site-functions
PYTHON ?= python3
LAYOUT ?= ostree
CACHE := $(or $(BOOTSEAL_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bootseal)
VENV := $(CACHE)/venv

.PHONY: all help install test nightly demo bench check setup completions dist clean

all: help

help: ## list the targets
	@echo "bootseal needs no build step. Targets:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)$$/  make \1\t\2/p' Makefile | expand -t 20

install: ## install below DESTDIR and PREFIX (default: /usr)
	install -d "$(DESTDIR)$(LIBDIR)" "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(UNITDIR)" "$(DESTDIR)$(DRACUTDIR)/python-deps"
	install -m 644 service/__main__.py "$(DESTDIR)$(LIBDIR)/__main__.py"
	cd service && find bootseal -name '*.py' -exec install -D -m 644 '{}' "$(abspath $(DESTDIR))$(LIBDIR)/{}" \;
	sed 's|@LIBDIR@|$(LIBDIR)|' service/bootseal.in > "$(DESTDIR)$(PREFIX)/bin/bootseal"
	chmod 755 "$(DESTDIR)$(PREFIX)/bin/bootseal"
	install -m 644 units/bootseal.service "$(DESTDIR)$(UNITDIR)/bootseal.service"
	install -m 644 units/bootseal-gate.path units/bootseal-deploy.path "$(DESTDIR)$(UNITDIR)/"
	for unit in bootseal-gate bootseal-deploy; do \
		sed 's|=/usr/bin/bootseal |=$(PREFIX)/bin/bootseal |' units/$$unit.service > "$(DESTDIR)$(UNITDIR)/$$unit.service" && \
		chmod 644 "$(DESTDIR)$(UNITDIR)/$$unit.service" || exit 1; \
	done
	while read -r unit command; do \
		install -d "$(DESTDIR)$(UNITDIR)/$$unit.d" && \
		sed "s|=/usr/bin/bootseal |=$(PREFIX)/bin/bootseal |; s|@UNIT@|$$unit|; s|@COMMAND@|$$command|" units/bootseal-gate.conf > \
			"$(DESTDIR)$(UNITDIR)/$$unit.d/50-bootseal-gate.conf" && \
		chmod 644 "$(DESTDIR)$(UNITDIR)/$$unit.d/50-bootseal-gate.conf" || exit 1; \
	done < units/bootseal-gate.units
	sed 's|^_bootseal_libdir=.*|_bootseal_libdir=$(LIBDIR)|' dracut/52bootseal/module-setup.sh > "$(DESTDIR)$(DRACUTDIR)/module-setup.sh"
	chmod 755 "$(DESTDIR)$(DRACUTDIR)/module-setup.sh"
	install -m 644 dracut/52bootseal/python-deps/__main__.py "$(DESTDIR)$(DRACUTDIR)/python-deps/__main__.py"
	install -m 644 units/bootseal-guard.service units/initrd-system.conf units/initrd-switch-root.conf units/emergency.conf \
		units/keyring-setup-initrd.conf "$(DESTDIR)$(DRACUTDIR)/"
	install -m 755 dracut/52bootseal/last-look "$(DESTDIR)$(DRACUTDIR)/last-look"
	install -D -m 644 units/keyring-setup.conf "$(DESTDIR)$(UNITDIR)/systemd-keyring-setup.service.d/50-bootseal.conf"
	install -D -m 644 packaging/bootseal.catalog "$(DESTDIR)$(PREFIX)/lib/systemd/catalog/bootseal.catalog"
	install -D -m 644 packaging/boot.schema.json "$(DESTDIR)$(PREFIX)/share/bootseal/boot.schema.json"
	install -D -m 644 packaging/completions/bootseal "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/bootseal"
	install -D -m 644 packaging/completions/_bootseal "$(DESTDIR)$(ZSHDIR)/_bootseal"
	install -D -m 644 packaging/completions/bootseal.fish "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/bootseal.fish"
	install -D -m 644 units/bootseal.conf "$(DESTDIR)$(PREFIX)/share/doc/bootseal/bootseal.conf"
	for page in packaging/man/*.[1-8]; do \
		install -D -m 644 "$$page" "$(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/}" || exit 1; \
	done

setup: ## install the packages and Python tools of the tests
	@bash tests/setup.sh

test: setup ## run the tests, boots in QEMU included (half an hour)
	@"$(VENV)/bin/python" tests/all.py -m "not nightly"

nightly: setup ## run all tests, also boots much like those of 'make test' (40 minutes)
	@"$(VENV)/bin/python" tests/all.py

check: setup ## run unit tests and linters
	@"$(VENV)/bin/python" -m pytest tests/project tests/unit

demo: setup ## deploy, sign, boot and tamper with a small OS in QEMU (LAYOUT=ostree or composefs)
	@"$(VENV)/bin/python" tests/vm/demo.py "$(LAYOUT)"

bench: setup ## measure boots and commands
	@"$(VENV)/bin/python" tests/vm/bench.py

completions: setup ## update the completions after a change of an option
	@"$(VENV)/bin/python" packaging/completions/generate.py

dist: ## build Debian and RPM packages, wheel and sources into dist/
	@bash packaging/dist.sh dist

clean: ## remove the results of builds
	rm -rf build dist
	find . -name __pycache__ -prune -exec rm -rf '{}' +
