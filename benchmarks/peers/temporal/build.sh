#!/bin/sh
# Builds the Temporal CLI, whose `server start-dev` is the server, into $PEER_CACHE, and prints where it is.
# 1.5.1 (server 1.29.1) is the newest that `go install` takes: later ones have a replace directive in their go.mod.
# Start it with: temporal server start-dev --headless --ip 127.0.0.1 --port PORT --db-filename FILE
# (https://docs.temporal.io/cli/server#start-dev); without --db-filename it forgets everything when it ends.
set -eu
version=v1.5.1
folder="${PEER_CACHE:?is the folder to build into}/temporal-cli-$version"
if [ ! -x "$folder/temporal" ]; then
  GOBIN="$folder" go install -trimpath -ldflags "-s -w" "github.com/temporalio/cli/cmd/temporal@$version" >&2
fi
echo "$folder/temporal"
