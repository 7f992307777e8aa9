// A client of kling-flows: makes videos, watches them through disconnects, lists and downloads them.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	pb "github.com/kling-flows/kling-flows/examples/go/gen/kling_flows/v1"
)

const usage = `usage: kling-flows-go [--server HOST:PORT] [--ca FILE] COMMAND
  create [--request-id ID] [--label KEY=VALUE]... [--attempts N] PROMPT
  watch [--label KEY=VALUE]... [--tasks N] [NAME...]
  list [--label KEY=VALUE]... [--page-size N]
  download NAME FILE
The environment variable KLING_FLOWS_TOKEN holds the bearer token, KLING_FLOWS_SERVER_CA a default of --ca.`

var errUsage = errors.New(usage)

// labels is a flag that may be given several times.
type labels map[string]string

func (l labels) String() string { return "" }

func (l labels) Set(pair string) error {
	key, value, found := strings.Cut(pair, "=")
	if !found {
		return fmt.Errorf("%q is not KEY=VALUE", pair)
	}
	l[key] = value
	return nil
}

// filter is the condition that a task carries all of these labels.
func (l labels) filter() string {
	var conditions []string
	for key, value := range l {
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)
		conditions = append(conditions, fmt.Sprintf(`labels.%s = "%s"`, key, quoted))
	}
	return strings.Join(conditions, " AND ")
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp) || errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, explain(err))
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	flags := newFlags("kling-flows-go")
	server := flags.String("server", "127.0.0.1:50051", "")
	ca := flags.String("ca", os.Getenv("KLING_FLOWS_SERVER_CA"), "")
	if err := parse(flags, arguments); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errUsage
	}
	connection, err := connect(*server, *ca)
	if err != nil {
		return err
	}
	defer connection.Close()
	if token := os.Getenv("KLING_FLOWS_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	client := pb.NewVideoTaskServiceClient(connection)
	command, arguments := flags.Arg(0), flags.Args()[1:]
	switch command {
	case "create":
		return runCreate(ctx, client, arguments)
	case "watch":
		return runWatch(ctx, client, arguments)
	case "list":
		return runList(ctx, client, arguments)
	case "download":
		return runDownload(ctx, client, arguments)
	}
	return errUsage
}

func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	flags.Usage = func() {}
	return flags
}

func parse(flags *flag.FlagSet, arguments []string) error {
	if flags.Parse(arguments) != nil {
		return errUsage
	}
	return nil
}

func connect(server, ca string) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", ca)
		}
		transport = credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	}
	return grpc.NewClient(
		server,
		grpc.WithTransportCredentials(transport),
		// Notices a connection that died silently; the server disconnects who pings every 5 seconds or more often.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// The pauses between attempts are ours; those of the transport would come on top.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A page of 1,000 tasks with long prompts passes the default of 4 MiB.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
}
