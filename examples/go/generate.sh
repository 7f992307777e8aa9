#!/bin/sh
# Writes gen/ from ../../protos, with the plugins that go.mod pins and the protoc that PROTOC names.
set -eu
cd "$(dirname "$0")"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
GOBIN="$tools" go install google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
out=${OUT:-gen}
mkdir -p "$out"
# Unquoted, since PROTOC may be several words.
PATH="$tools:$PATH" ${PROTOC:-protoc} -I ../../protos \
  --go_out="$out" --go_opt=module=github.com/kling-flows/kling-flows/gen/go \
  --go-grpc_out="$out" --go-grpc_opt=module=github.com/kling-flows/kling-flows/gen/go \
  ../../protos/kling_flows/v1/*.proto
