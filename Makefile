# Two commands do everything: `make demo` and `make test`.

# Where rustup puts cargo, for a shell that was open before it was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin

DEMO_RUN := runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test fmt lint doc clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## build, fetch a small model and film reviews, fine-tune for about three minutes
	@scripts/check_tools.sh cargo cc pip
	cargo build --release --locked --bin zofo
	python3 scripts/fetch_demo.py
	@if [ -e $(DEMO_RUN) ]; then \
		rm -rf $(DEMO_RUN).previous && mv $(DEMO_RUN) $(DEMO_RUN).previous && \
		echo "the last demo's $(DEMO_RUN) is now $(DEMO_RUN).previous (an older one there is replaced)"; \
	fi
	cache=$$(python3 scripts/fetch_demo.py --print-cache) && \
	cargo run --quiet --release --locked --bin zofo -- train examples/demo.toml \
		--set "model.path=$$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf" --set "data.dir=$$cache/data" \
		--set run.output=$(DEMO_RUN)

test: ## check format and lints, run all tests, build the documentation
	@scripts/check_tools.sh cargo rustfmt clippy cc
	cargo fmt --all --check
	$(MAKE) --no-print-directory lint
	cargo test --release --workspace --locked
	$(MAKE) --no-print-directory doc

fmt: ## format the code
	cargo fmt --all

# In release, as are tests and documentation: they share what is compiled of the dependencies.
lint: ## run clippy; a warning is an error
	cargo clippy --release --workspace --all-targets --locked -- -D warnings

doc: ## build the documentation; a broken link is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --locked

clean: ## delete what cargo built; runs and the cache stay
	cargo clean
