# What a person or a machine runs here. Each target installs what it needs, or says what is missing.

.PHONY: test soak fuzz bench

# Every test there is. May be repeated at any time: only what is missing is installed. Many of them
# wait for servers and clocks, so that more than two run well on two cores, and those of the drivers
# beside those of the program. What the latter say is shown once the former are through.
test:
	@if [ -e testcontainers/install.sh ]; then sh testcontainers/install.sh; fi
	cargo test --workspace --no-run
	@threads=$$(nproc); [ "$$threads" -ge 6 ] || threads=6; \
		export RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$threads}; \
		said=$$(mktemp); program=; trap 'kill $$program 2>/dev/null; rm -f "$$said"' EXIT; \
		trap 'exit 130' INT TERM; \
		echo "$$RUST_TEST_THREADS tests at once: cargo test of the other packages, and beside it" \
			"cargo test --package stillpoint"; \
		cargo test --package stillpoint --no-fail-fast >"$$said" 2>&1 & program=$$!; \
		drivers=0; cargo --config 'target."cfg(all())".runner = "testcontainers/of_drivers.sh"' \
			test --workspace --no-fail-fast || drivers=$$?; \
		done=0; wait $$program || done=$$?; cat "$$said"; \
		[ "$$drivers" = 0 ] && [ "$$done" = 0 ]

# The tests with random schedules, longer, ROUNDS times, each time with another seed; writers beside
# whoever archives rows, with SEEDS seeds each time. A failure prints its seed.
ROUNDS ?= 20
SEEDS ?= 300
soak:
	@if [ -e testcontainers/install.sh ]; then sh testcontainers/install.sh; fi
	@for round in $$(seq 1 $(ROUNDS)); do \
		echo "round $$round of $(ROUNDS): STILLPOINT_SEED=$$round"; \
		STILLPOINT_SEED=$$round STILLPOINT_BANK_SECONDS=60 STILLPOINT_BANK_POINTS=500 \
			STILLPOINT_BANK_WAYS=every STILLPOINT_BANK_TARGETS=40 STILLPOINT_KILLS=100 \
			STILLPOINT_DRILLS=50 STILLPOINT_VERSIONS=every \
			STILLPOINT_FLEET=10000 STILLPOINT_DAYS=30 \
			cargo test --workspace --release --quiet || exit 1; \
		STILLPOINT_SEED=$${round}000 STILLPOINT_RUNS=$(SEEDS) \
			cargo test --package stillpoint --test it --release --quiet -- \
			archiver::chaos archiver::partitions || exit 1; \
	done

# Searches each decoder for SECONDS. Needs a nightly compiler and cargo-fuzz; `make test` runs the
# same code over the corpus with neither.
SECONDS ?= 60
fuzz:
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { \
		echo "missing: rustup toolchain install nightly && cargo install cargo-fuzz" >&2; exit 1; }
	@for target in $$(cargo +nightly fuzz list --fuzz-dir tests/fuzz); do \
		cargo +nightly fuzz run --fuzz-dir tests/fuzz $$target -- -max_total_time=$(SECONDS) || exit 1; \
	done

bench:
	cargo bench --workspace
