# SPDX-License-Identifier: MIT
#
# The image: Debian 13 slim, one binary, an unprivileged user, nothing to write but /run/carpool.
#
#     ./dev image                                      where there is no Docker engine or no registry
#     docker build -t carpool .                        where there are both
#     docker run -e CARPOOL_POOLS="postgres://app:secret@db/orders" -p 6432:6432 carpool
#
# docs/deploy.md tells the rest.

ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
WORKDIR /src
# Packages first: this layer changes only when their list does.
COPY dev ./
RUN ./dev setup build
COPY CMakeLists.txt CMakePresets.json ./
COPY admin admin
COPY health health
COPY pools pools
COPY proxy proxy
RUN cmake --preset release -DCARPOOL_TESTS=OFF -DCARPOOL_WERROR=OFF \
    && cmake --build --preset release --target carpool \
    && strip -o carpool build/release/carpool

FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates libcurl4t64 libhiredis1.1.0 libjansson4 libllhttp9.2 libpq5 libssl3t64 \
        libuv1t64 libyaml-0-2 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log \
    && groupadd --gid 10001 carpool \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /run/carpool \
        --shell /usr/sbin/nologin carpool \
    && install -d -o carpool -g carpool -m 0755 /run/carpool \
    && install -d /etc/carpool
COPY --from=build /src/carpool /usr/local/bin/carpool
COPY deploy/entrypoint.sh /usr/local/bin/carpool-entrypoint
# A library that is missing in this stage shows here, not at the first start.
RUN ["carpool", "version"]

# For pools made from URLs (CARPOOL_POOLS, or arguments); a configuration file says all this itself,
# and the entrypoint takes them away. Ports are the addresses of a container, so clients of Postgres
# and Redis log in with the pool's own user and password.
ENV CARPOOL_LISTEN=0.0.0.0 \
    CARPOOL_ADMIN_HTTP=0.0.0.0:9601
EXPOSE 6432 6380 8081 9601

# The admin socket. A volume, so that it can be written under --read-only, too.
VOLUME /run/carpool
USER 10001:10001
# The default drain (8 s) ends within the ten seconds that `docker stop` grants.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=6s --start-period=15s --retries=3 CMD ["carpool", "health"]
ENTRYPOINT ["carpool-entrypoint"]
CMD ["run"]
