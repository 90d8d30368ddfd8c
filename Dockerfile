# The image: one static binary, certificate authorities, and a user. docs/container.md says how it is used.
#
#   docker build --tag nocturne .
#   docker buildx build --platform linux/amd64,linux/arm64 --tag nocturne .

# On the building machine's own processor: for another one it compiles across, which is faster than emulation.
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95-slim-bookworm AS build
ARG TARGETARCH
# "true" where the packages of Cargo.lock are there already, and nowhere to be had
ARG CARGO_NET_OFFLINE=false
WORKDIR /build
COPY . .
RUN --mount=type=cache,id=nocturne-target,target=/build/target config/docker/build "$TARGETARCH"

FROM scratch
COPY --from=build /image/ /
USER 65532:65532
# Relative paths in configurations start here.
WORKDIR /etc/nocturne
EXPOSE 5000/tcp 3478/udp 3478/tcp 5349/tcp
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["/nocturne", "health"]
ENTRYPOINT ["/nocturne"]
CMD ["run", "--config-dir", "/etc/nocturne"]
