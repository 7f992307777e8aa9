package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// detail finds the message of type T that came with an error, nil if there is none.
func detail[T any](err error) (found T) {
	for _, each := range status.Convert(err).Details() {
		if message, ok := each.(T); ok {
			return message
		}
	}
	return found
}

// explain says what went wrong: the code, the reason, the message, and each field that was refused.
func explain(err error) string {
	failure, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	head := code.Code(failure.Code()).String() // RESOURCE_EXHAUSTED; codes.Code would say ResourceExhausted
	if reason := detail[*errdetails.ErrorInfo](err).GetReason(); reason != "" {
		head += " (" + reason + ")"
	}
	lines := []string{head + ": " + failure.Message()}
	for _, violation := range detail[*errdetails.BadRequest](err).GetFieldViolations() {
		lines = append(lines, fmt.Sprintf("  %s: %s", violation.Field, violation.Description))
	}
	return strings.Join(lines, "\n")
}

// isDisconnect tells whether a call ended without the server having said anything about its subject.
func isDisconnect(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		return true
	case codes.Internal, codes.Unknown, codes.Canceled:
		// Without an ErrorInfo it is the transport that says so.
		return detail[*errdetails.ErrorInfo](err) == nil
	}
	return false
}

// isRepeatable tells whether the server may accept later what it has not accepted now.
func isRepeatable(err error) bool {
	full := status.Code(err) == codes.ResourceExhausted && detail[*errdetails.RetryInfo](err) != nil
	return full || isDisconnect(err)
}

// pause waits as long as the server asks for, else longer with every failure.
func pause(ctx context.Context, cause error, failures int) error {
	delay := min(100*time.Millisecond<<min(failures-1, 10), 2*time.Second)
	if asked := detail[*errdetails.RetryInfo](cause).GetRetryDelay(); asked != nil {
		delay = asked.AsDuration()
	}
	delay += time.Duration(rand.Int64N(int64(delay)/5 + 1))
	fmt.Fprintf(os.Stderr, "trying again in %.1f s after %s\n", delay.Seconds(), explain(cause))
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
