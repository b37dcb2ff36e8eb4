# What CI runs.
check:
    bash .ci/run

# The three-node key-value store.
demo *ARGS:
    cargo run --release -p kv -- {{ARGS}}

# Quorate beside openraft and the floor.
bench *ARGS:
    cargo run --release -p bench -- framework {{ARGS}}

# Simulated clusters under seeded faults.
simulate *ARGS:
    cargo run --release -p simulate -- {{ARGS}}
