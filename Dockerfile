# The agent's image: one static program on an empty base.
#
#   docker build -t ringfence --build-arg BUILDER=… --build-arg BASE=… .
#
# The agent loads BPF programs, makes namespaces and writes cgroups, so its
# container is privileged by nature and runs as root; what it fences is not. It
# fetches nothing when it runs.
ARG BUILDER=golang:1.26-bookworm
ARG BASE=scratch

FROM ${BUILDER} AS build
WORKDIR /src
# Modules first: they change less often than the sources.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The BPF objects are committed, so no C compiler is needed.
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/ ./cmd/...

FROM ${BASE}
LABEL org.opencontainers.image.title="ringfence" \
      org.opencontainers.image.description="Fences the network of sandboxes, by eBPF" \
      org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"
# How to run it: docker inspect shows what the privileges are for.
LABEL dev.ringfence.privileged="true: bpf(2), namespaces, cgroups" \
      dev.ringfence.mounts="/sys/fs/bpf (shared), /sys/fs/cgroup, /run/ringfence (shared)" \
      dev.ringfence.kernel="6.1 or newer, with BTF"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/LICENSE /src/bpf/LICENSE* /licenses/
COPY --from=build /out/ /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/ringfence"]
