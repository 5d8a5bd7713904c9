#!/usr/bin/env bash
# Build the image, run it hardened, send requests to it and stop it. Then repeat this with podman
# and the Deployment manifest.
#
# Uses a reachable Docker daemon, or starts one in a temporary folder (as root, from Debian's
# packages, without installing them). If images cannot be pulled, the base image is built from the
# machine's apt sources. If neither works, the script prints SKIPPED and exits with 0: only a
# container that misbehaves is a failure. The same applies to podman and kubectl, which the
# Deployment needs: the last line names the parts that were skipped.
#
# `PYTHON_IMAGE=...` in the environment names another base image.
# shellcheck disable=SC2016  # the dollars in single quotes are apt's and mmdebstrap's
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d "${TMPDIR:-/tmp}/limelight-container.XXXXXX")
tools=$work/tools
tag=limelight-test-$$
image=$tag/serve
container=$tag
daemon_pid=
pod=
podman_libraries=
passed=()
left_out=
images=("$image")

say() { printf '%s\n' "$*"; }

ok() {
    passed+=("$1")
    say "ok: $*"
}

skip() {
    say "SKIPPED: $*"
    exit 0
}

fail() {
    say "FAILED: $*" >&2
    if docker container inspect "$container" >/dev/null 2>&1; then
        say "--- the container's log" >&2
        docker logs "$container" >&2 || true
        say "--- the container's state and health" >&2
        docker container inspect --format '{{json .State}}' "$container" >&2 || true
    fi
    if [[ -n $pod ]]; then
        say "--- the pod's log" >&2
        podman logs "$pod" >&2 || true
    fi
    exit 1
}

# Remove everything that this script created; stop only the daemon that it started.
cleanup() {
    local status=$?
    trap - EXIT
    set +e
    docker rm --force "$container" >/dev/null 2>&1
    if [[ -d $work/podman ]]; then
        podman pod rm --all --force >/dev/null 2>&1
        # podman leaves some cgroups of the pods behind. Only on a machine without its own podman.
        [[ -z $podman_libraries ]] || find /sys/fs/cgroup -depth -path '*/libpod_parent*' -type d \
            -exec rmdir {} + 2>/dev/null
        # Mount points of podman's storage.
        umount "$work/podman/graph/overlay" "$work/podman/graph" 2>/dev/null
    fi
    if [[ -n $daemon_pid ]]; then
        kill "$daemon_pid" 2>/dev/null
        for _ in {1..60}; do
            [[ -e $work/docker.pid ]] || break
            sleep 0.5
        done
        kill -KILL "$daemon_pid" 2>/dev/null
        wait "$daemon_pid" 2>/dev/null
        # Mount points that the daemon may leave: its folder, and the host's network namespace.
        umount "$work/data" "$work"/exec/netns/* 2>/dev/null
    else
        for name in "${images[@]}"; do docker rmi "$name" >/dev/null 2>&1; done
    fi
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- build tools -----------------------------------------------------------------------------

# Unpack Debian packages into the tools' folder without installing them.
unpack() {
    local into=$work/packages
    mkdir -p "$into" "$tools"
    # A machine without package lists has to download them first.
    (cd "$into" && { apt-get download "$@" || { apt-get update && apt-get download "$@"; }; }) \
        >"$work/apt.log" 2>&1 || return
    for package in "$into"/*.deb; do dpkg -x "$package" "$tools" || return; done
    rm -r "$into"
}

start_daemon() {
    [[ $(uname -s) == Linux ]] || skip "no Docker daemon is reachable, and only Linux can start one here"
    [[ $(id -u) == 0 ]] || skip "no Docker daemon is reachable, and only root can start one"
    command -v apt-get dpkg >/dev/null || skip "no Docker daemon is reachable, and its packages cannot be fetched without apt"
    # A daemon without a bridge removes docker0, which containers of another daemon may use.
    [[ ! -e /sys/class/net/docker0 ]] || skip "this machine has a Docker daemon's bridge (docker0), but the daemon is not reachable: start it"
    # A minimal machine lacks these two libraries.
    unpack docker.io containerd runc libdevmapper1.02.1 libseccomp2 \
        || skip "no Docker daemon is reachable, and its packages cannot be fetched: $(tail -n 1 "$work/apt.log")"
    export PATH=$tools/usr/bin:$tools/usr/sbin:$PATH
    # This client ignores the user's settings, because they may name another daemon.
    unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
    export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/docker-config
    hash -r
    local libraries
    libraries=$(printf '%s:' "$tools"/lib/*-linux-gnu* "$tools"/usr/lib/*-linux-gnu*)
    # No bridge and no packet filter: containers share the machine's network, which is not changed.
    LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:-} dockerd --host "$DOCKER_HOST" \
        --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/docker.pid" \
        --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
        >"$work/dockerd.log" 2>&1 &
    daemon_pid=$!
    for _ in {1..60}; do
        if docker info >/dev/null 2>&1; then return; fi
        kill -0 "$daemon_pid" 2>/dev/null || break
        sleep 0.5
    done
    skip "no Docker daemon can be started: $(tail -n 1 "$work/dockerd.log")"
}

# Build a Debian image with Python under the given name, from this machine's apt sources.
make_base_image() {
    local name=$1 sources=$work/base.list
    if ! command -v mmdebstrap >/dev/null; then
        { apt-get update && apt-get install -y --no-install-recommends mmdebstrap; } \
            >"$work/apt.log" 2>&1 </dev/null || return
    fi
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' | sort -u >"$sources"
    [[ -s $sources ]] || return
    # The sources do not include apt's proxy.
    { say 'Acquire::Retries "3";' && apt-config dump | grep -E '^Acquire::https?::'; } >"$work/apt.conf" || true
    say "No image can be pulled: making the base image from this machine's apt sources ..."
    mmdebstrap --variant=minbase --include=ca-certificates,python3,python3-pip \
        --aptopt="$work/apt.conf" \
        --customize-hook='rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' \
        --customize-hook='ln -s /usr/bin/python3 "$1"/usr/local/bin/python' \
        --customize-hook='ln -s /usr/bin/pip3 "$1"/usr/local/bin/pip' \
        '' "$work/base.tar" - <"$sources" >"$work/base.log" 2>&1 || return
    docker import "$work/base.tar" "$name" >/dev/null || return
    rm "$work/base.tar"
}

# Copy pip's settings on this machine that are valid inside a build: pip.conf and ca.crt.
write_pip_settings() {
    local tool=(python3 -m pip) settings
    if ! "${tool[@]}" --version >/dev/null 2>&1; then
        unpack python3-pip || true
        tool=(env "PYTHONPATH=$tools/usr/lib/python3/dist-packages" python3 -m pip)
    fi
    settings=$("${tool[@]}" config list 2>/dev/null || true)
    python3 - "$work" "$settings" <<'PYTHON'
import ast, os, pathlib, shutil, sys

work, listed = pathlib.Path(sys.argv[1]), sys.argv[2]
found = {}  # pip lists the environment's settings first, and those count most
for line in listed.splitlines():
    name, separator, value = line.partition("=")
    key = name.rpartition(".")[2]
    if separator and name.startswith((":env:", "global.")):
        found.setdefault(key, str(ast.literal_eval(value)))
conf = ["[global]"]
for key in ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries"):
    words = found.get(key, "").split()
    if key.endswith("-url"):  # a folder of this machine is not there in a build
        words = [word for word in words if word.startswith(("http://", "https://"))]
    if words:
        conf.append(f"{key} = " + "\n    ".join(words))
bundles = [
    found.get("cert"),
    os.environ.get("REQUESTS_CA_BUNDLE"),
    os.environ.get("SSL_CERT_FILE"),
    "/etc/ssl/certs/ca-certificates.crt",
]
bundle = next((b for b in bundles if b and pathlib.Path(b).is_file()), None)
if bundle:
    conf.append("cert = /run/secrets/ca.crt")
    shutil.copyfile(bundle, work / "ca.crt")
else:
    (work / "ca.crt").touch()
(work / "pip.conf").write_text("\n".join(conf) + "\n")
PYTHON
}

has_buildkit() {
    docker buildx version >/dev/null 2>&1 && return
    # Before version 23, the client can use the daemon's BuildKit without the plugin.
    local major
    major=$(docker version --format '{{.Client.Version}}' | cut -d. -f1)
    [[ $major -ge 18 && $major -lt 23 ]]
}

command -v python3 >/dev/null || skip "python3 is missing"
if docker info >/dev/null 2>&1; then
    say "Using the Docker daemon that is reachable."
else
    start_daemon
    say "Started a Docker daemon of its own."
fi
has_buildkit || skip "this Docker client has no BuildKit (the buildx plug-in)"

python_image=${PYTHON_IMAGE:-$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile | head -n 1)}
if ! docker image inspect "$python_image" >/dev/null 2>&1 \
    && ! docker pull --quiet "$python_image" >"$work/pull.log" 2>&1; then
    # A name of its own, so that it cannot be mistaken for the official image on a shared daemon.
    python_image=$tag/python
    images+=("$python_image")
    make_base_image "$python_image" \
        || skip "no base image can be pulled ($(tail -n 1 "$work/pull.log")) or made ($(cat "$work/apt.log" "$work/base.log" 2>/dev/null | grep . | tail -n 1))"
fi
say "Base image: $python_image."

# --- build -------------------------------------------------------------------------------------

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
if docker network inspect bridge >/dev/null 2>&1; then
    build_network=default
    network=(--publish "127.0.0.1:$port:3000")
else
    build_network=host
    network=(--network host --env BENTOML_HOST=127.0.0.1 --env "BENTOML_PORT=$port")
fi
write_pip_settings
say "Building the image ..."
started=$SECONDS
DOCKER_BUILDKIT=1 docker build --progress plain --network "$build_network" --tag "$image" \
    --build-arg "PYTHON_IMAGE=$python_image" --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
    --secret "id=pip.conf,src=$work/pip.conf" --secret "id=ca.crt,src=$work/ca.crt" \
    . >"$work/build.log" 2>&1 \
    || { tail -n 60 "$work/build.log" >&2; fail "the image does not build"; }
ok "builds" "in $((SECONDS - started)) s, $(($(docker image inspect --format '{{.Size}}' "$image") / 1000000)) MB"

user=$(docker image inspect --format '{{.Config.User}}' "$image")
[[ $user =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || fail "the image's user is '$user', not a number other than root's"

docker run --rm --network none "$image" python -c '
import importlib.util, pathlib, sys
unwanted = "torch torchvision sklearn onnx onnxscript safetensors pipeline models tests pytest mypy pip".split()
found = [name for name in unwanted if importlib.util.find_spec(name)]
left = [p.name for p in pathlib.Path("/app").iterdir()
        if p.name not in {"limelight", "service", "examples", "zoo", "pyproject.toml", "constraints.txt", "LICENSE", "README.md", "limelight.egg-info"}]
sys.exit(f"the image holds {found + left}" if found or left else 0)
' || fail "the image contains packages that serving does not need"
ok "no torch" "and nothing else of training or development"

# --- run ---------------------------------------------------------------------------------------

started=$SECONDS
docker run --detach --name "$container" "${network[@]}" --read-only --tmpfs /tmp --cap-drop ALL \
    --security-opt no-new-privileges "$image" >/dev/null || fail "the container does not start"

# Print the status of a GET, or 000 without an answer.
status() {
    python3 - "$1" <<'PYTHON'
import http.client, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
try:
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=5)
    connection.request("GET", url.path)
    print(connection.getresponse().status)
except (OSError, http.client.HTTPException):
    print("000")
PYTHON
}

# Print the body of a GET.
body() {
    python3 -c 'import sys, urllib.request as r
print(r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=5).read().decode())' "$1"
}

running() { [[ $(docker container inspect --format '{{.State.Running}}' "$container") == true ]]; }

base=http://127.0.0.1:$port
until answer=$(status "$base/readyz") && [[ $answer == 200 ]]; do
    running || fail "the container ended before it was ready"
    [[ $((SECONDS - started)) -lt 120 ]] || fail "/readyz answers $answer after 120 s, not 200"
    sleep 0.5
done
ok "ready" "after $((SECONDS - started)) s, read-only and without capabilities"

uid=$(docker exec "$container" python -c 'import os; print(os.getuid())') || fail "no command can be run in the container"
[[ $uid != 0 ]] || fail "the container runs as root"
docker exec "$container" python -c '
import sys
fields = dict(line.split(":\t") for line in open("/proc/1/status").read().splitlines() if ":\t" in line)
sys.exit(not (int(fields["CapEff"], 16) == 0 and fields["NoNewPrivs"] == "1"))
' || fail "process 1 has capabilities or may gain some"
ok "non-root" "as user $uid, no capabilities"

answers_rightly() {
    python3 - "$1" <<'PYTHON'
import http.client, json, struct, sys, zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
WIDTH, HEIGHT = 40, 30


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture():
    """A dark stroke on white, in colour."""
    rows = b"".join(
        b"\0" + b"".join(b"\x10\x10\x10" if 17 <= x < 22 and 4 <= y < 26 else b"\xff\xff\xff" for x in range(WIDTH))
        for y in range(HEIGHT)
    )
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def ask(method, path, body=None, media_type="image/png"):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    connection.request(method, path, body, {"Content-Type": media_type} if body is not None else {})
    response = connection.getresponse()
    return response.status, response.headers.get_content_type(), response.read()


def expect(what, answer, status, media_type, holds):
    if answer[:2] != (status, media_type) or not holds(answer[2]):
        sys.exit(f"{what}: {answer[0]} {answer[1]} {answer[2][:500]!r}, not {status} {media_type}")


def predicted(body):
    answer = json.loads(body)
    return (
        answer["model"] == name
        and answer["label"] in labels
        and answer["label"] == answer["scores"][0]["label"]
        and 0 < answer["confidence"] <= 1
    )


answer = ask("GET", "/models")
expect("GET /models", answer, 200, "application/json", lambda body: json.loads(body)["models"])
models = json.loads(answer[2])["models"]
for model in models:
    name, labels = model["name"], model["manifest"]["classes"]
    expect("POST /predict", ask("POST", f"/predict?model={name}", picture()), 200, "application/json", predicted)
    expect(
        "POST /explain", ask("POST", f"/explain?model={name}", picture()), 200, "application/json",
        lambda body: predicted(body) and json.loads(body)["cam"]["values"],
    )
    expect(
        "POST /explain?format=png", ask("POST", f"/explain?model={name}&format=png", picture()), 200, "image/png",
        lambda body: body.startswith(SIGNATURE) and struct.unpack(">II", body[16:24]) == (WIDTH, HEIGHT),
    )
PROBLEM = "application/problem+json"
for what, answer, status, code in [
    ("an empty body", ask("POST", f"/predict?model={name}", b""), 400, "missing_image"),
    ("an unknown model", ask("POST", "/predict?model=no-such-model", picture()), 404, "unknown_model"),
    ("a text", ask("POST", f"/predict?model={name}", b"text", "text/plain"), 415, "unsupported_media_type"),
    ("half an image", ask("POST", f"/predict?model={name}", picture()[:60]), 422, "undecodable_image"),
]:
    expect(
        what, answer, status, PROBLEM,
        lambda body: json.loads(body)["code"] == code and json.loads(body)["status"] == status,
    )
print("answers of", ", ".join(model["name"] for model in models))
PYTHON
}

answers_rightly "$port" || fail "the service answers wrongly"
ok "predicts, explains, rejects"

health=
for _ in {1..120}; do
    health=$(docker container inspect --format '{{.State.Health.Status}}' "$container")
    if [[ $health == healthy ]]; then break; fi
    running || fail "the container ended while it was to become healthy"
    sleep 0.5
done
[[ $health == healthy ]] || fail "the health check says '$health' after 60 s"
ok "healthy"

# --- stop --------------------------------------------------------------------------------------

started=$SECONDS
docker stop --time 20 "$container" >/dev/null || fail "the container cannot be stopped"
took=$((SECONDS - started))
code=$(docker container inspect --format '{{.State.ExitCode}}' "$container")
[[ $code == 0 ]] || fail "SIGTERM: exit status $code after $took s, not 0 (137: it had to be killed)"
[[ $took -lt 10 ]] || fail "SIGTERM: $took s until the container ended"
ok "stops" "on SIGTERM with exit status 0 within $took s"

# --- the Deployment ----------------------------------------------------------------------------

# podman with its own storage, so that the machine's containers are not touched.
podman() {
    # podman would read Docker's settings, too.
    env --unset=DOCKER_CONFIG --unset=DOCKER_HOST DISABLE_HC_SYSTEMD=true "HOME=$work/podman/home" \
        "LD_LIBRARY_PATH=$podman_libraries${LD_LIBRARY_PATH:-}" \
        "CONTAINERS_CONF=$work/podman/containers.conf" "CONTAINERS_STORAGE_CONF=$work/podman/storage.conf" \
        podman --tmpdir "$work/podman/tmp" "$@"
}

# Print the reason if podman is not available.
prepare_podman() {
    [[ $(id -u) == 0 ]] || { say "only root can run podman with host networking" && return 1; }
    local engine='' tools_seccomp=
    if [[ -z $(type -P podman) ]]; then  # not the function above
        command -v apt-get dpkg >/dev/null || { say "there is neither podman nor apt" && return 1; }
        # catatonit keeps the pod's namespaces alive. A minimal machine lacks the three libraries.
        unpack podman conmon catatonit runc golang-github-containers-common libdevmapper1.02.1 \
            libseccomp2 libgpgme11 libassuan0 libsubid4 \
            || { say "podman's packages cannot be fetched: $(tail -n 1 "$work/apt.log")" && return 1; }
        engine="conmon_path = [\"$tools/usr/bin/conmon\"]
helper_binaries_dir = [\"$tools/usr/bin\"]
runtime = \"runc\"
[engine.runtimes]
runc = [\"$tools/usr/sbin/runc\"]"
        tools_seccomp="seccomp_profile = \"$tools/usr/share/containers/seccomp.json\""
        podman_libraries=$(printf '%s:' "$tools"/lib/*-linux-gnu* "$tools"/usr/lib/*-linux-gnu*)
    fi
    mkdir -p "$work/podman/home/.config/containers"
    say '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/podman/home/.config/containers/policy.json"
    # podman requests limits of a million files and processes, which root inside a container may not
    # set. Without systemd, cgroups are managed by cgroupfs, and events go to a file.
    cat >"$work/podman/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
$tools_seccomp
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
$engine
CONF
    cat >"$work/podman/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$work/podman/graph"
runroot = "$work/podman/run"
CONF
    local reason
    reason=$(podman info 2>&1 >/dev/null) || { say "podman does not run: $(tail -n 1 <<<"$reason")" && return 1; }
}

# Render the manifest with four changes: podman shares the machine's network (and then cannot publish
# ports), the port is a free one, the image is the one just built, and the CPU limit is one core, to
# check that the service respects it.
write_manifest() {
    mkdir -p "$work/manifest"
    cp -r deploy/kubernetes "$work/manifest/kubernetes"
    cat >"$work/manifest/kustomization.yaml" <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [kubernetes/overlays/cpu]
images:
  - {name: limelight, newName: docker.io/$image, newTag: latest}
patches:
  - target: {kind: Deployment, name: limelight}
    patch: |
      - {op: add, path: /spec/template/spec/hostNetwork, value: true}
      - {op: remove, path: /spec/template/spec/containers/0/ports}
      - {op: add, path: /spec/template/spec/containers/0/imagePullPolicy, value: Never}
      - {op: replace, path: /spec/template/spec/containers/0/resources/limits/cpu, value: "1"}
      - {op: replace, path: /spec/template/spec/containers/0/resources/requests/cpu, value: "1"}
      - op: add
        path: /spec/template/spec/containers/0/env
        value: [{name: BENTOML_HOST, value: 127.0.0.1}, {name: BENTOML_PORT, value: "$port"}]
YAML
    "$1" kustomize "$work/manifest" >"$work/manifest.yaml"
}

run_deployment() {
    local kubectl=$1 started=$SECONDS answer
    docker save --output "$work/image.tar" "$image" || fail "the image cannot be saved"
    podman load --input "$work/image.tar" >/dev/null 2>"$work/podman.log" \
        || fail "podman cannot load the image: $(tail -n 1 "$work/podman.log")"
    rm "$work/image.tar"
    podman tag "$(podman images --quiet | head -n 1)" "docker.io/$image:latest"
    write_manifest "$kubectl" || fail "the manifest cannot be rendered"
    pod=limelight-pod-0-limelight
    podman play kube "$work/manifest.yaml" >"$work/podman.log" 2>&1 \
        || fail "podman cannot run the Deployment: $(grep . "$work/podman.log" | tail -n 3)"
    until answer=$(status "$base/readyz") && [[ $answer == 200 ]]; do
        [[ $(podman inspect --format '{{.State.Running}}' "$pod") == true ]] \
            || fail "the pod's container ended before it was ready"
        [[ $((SECONDS - started)) -lt 120 ]] || fail "the Deployment: /readyz answers $answer, not 200"
        sleep 0.5
    done
    podman exec "$pod" python -c '
import os, sys
fields = dict(line.split(":\t") for line in open("/proc/1/status").read().splitlines() if ":\t" in line)
wrong = [name for name, holds in {
    "capabilities": all(int(fields[f"Cap{kind}"], 16) == 0 for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
    "may gain privileges": fields["NoNewPrivs"] == "1",
    "no seccomp filter": fields["Seccomp"] == "2",
    "user": os.getuid() == os.getgid() == 10001,
    "the root can be written to": os.statvfs("/").f_flag & os.ST_RDONLY,
    "/tmp cannot be written to": os.access("/tmp", os.W_OK),
    "not the settings of the ConfigMap": os.environ.get("LIMELIGHT_LOG_FORMAT") == "json",
}.items() if not holds]
sys.exit(", ".join(wrong) or 0)
' || fail "the Deployment's container is not what the manifest says"
    answers_rightly "$port" || fail "the Deployment's service answers wrongly"
    answer=$(body "$base/metrics" | sed -n 's/^limelight_workers //p')
    [[ $answer == 1.0 ]] || fail "the Deployment: '$answer' workers, not the 1 of its CPU limit"
    # Like the kubelet: SIGTERM, then SIGKILL after the grace period.
    podman pod stop --time 30 "${pod%-limelight}" >/dev/null || fail "the pod cannot be stopped"
    answer=$(podman inspect --format '{{.State.ExitCode}}' "$pod")
    [[ $answer == 0 ]] || fail "the Deployment: SIGTERM: exit status $answer, not 0 (137: it had to be killed)"
    podman kube down "$work/manifest.yaml" >/dev/null || fail "the Deployment cannot be taken down"
    [[ -z $(podman ps --all --quiet) ]] || fail "the Deployment left containers behind"
    pod=
    ok "Deployment" "through podman: restricted, answers, stops with exit status 0 ($((SECONDS - started)) s)"
}

if ! kubectl=$(python3 tests/deploy/kubectl.py 2>"$work/kubectl.log"); then
    left_out="the Deployment ($(tail -n 1 "$work/kubectl.log"))"
elif ! prepare_podman >"$work/podman.log"; then
    left_out="the Deployment ($(tail -n 1 "$work/podman.log"))"
else
    docker rm --force "$container" >/dev/null
    run_deployment "$kubectl"
fi

summary=$(printf '%s, ' "${passed[@]}")
if [[ -n $left_out ]]; then say "SKIPPED: $left_out"; fi
say "PASSED: ${summary%, } ($SECONDS s)"
