# What CI runs.
check:
    bash .ci/run

# The three-node key-value store.
demo *ARGS:
    cargo run --release -p kv -- {{ARGS}}

# Quorate beside openraft and the floor.
bench *ARGS:
    cargo run --release -p bench -- framework {{ARGS}}

# A new node joins a store of gigabytes by a snapshot.
bench-snapshot *ARGS:
    cargo run --release -p bench -- snapshot {{ARGS}}

# Simulated clusters under seeded faults.
simulate *ARGS:
    cargo run --release -p simulate -- {{ARGS}}
