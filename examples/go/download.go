package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kling-flows/kling-flows/examples/go/gen/kling_flows/v1"
)

// runDownload writes a task's video to a file. It goes on where it was interrupted, in this run or in an earlier one,
// and keeps nothing whose checksum is wrong.
func runDownload(ctx context.Context, client pb.VideoTaskServiceClient, arguments []string) error {
	flags := newFlags("download")
	if err := parse(flags, arguments); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errUsage
	}
	name, path := flags.Arg(0), flags.Arg(1)
	part := path + ".part"
	file, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	digest := sha256.New()
	offset, err := io.Copy(digest, file)
	if err != nil {
		return err
	}
	var artifact *pb.Artifact
	for failures := 0; ; {
		artifact, offset, err = receive(ctx, client, name, offset, io.MultiWriter(file, digest), &failures)
		if err == nil && offset < artifact.GetSizeBytes() {
			err = status.Error(codes.Unavailable, "the stream ended early")
		}
		if err == nil {
			break
		}
		if status.Code(err) == codes.OutOfRange {
			return errors.Join(fmt.Errorf("%s is longer than the video and was removed: %w", part, err), os.Remove(part))
		}
		if ctx.Err() != nil || !isDisconnect(err) {
			return err
		}
		failures++
		if err := pause(ctx, err, failures); err != nil {
			return err
		}
	}
	if sum := digest.Sum(nil); !bytes.Equal(sum, artifact.GetSha256()) {
		return errors.Join(fmt.Errorf("%s had the checksum %x instead of %x and was removed", part, sum, artifact.GetSha256()), os.Remove(part))
	}
	if err := errors.Join(file.Close(), os.Rename(part, path)); err != nil {
		return err
	}
	fmt.Printf("%x  %s\n", artifact.GetSha256(), path)
	return nil
}

// receive reads one stream from offset on; it answers the offset that was reached, also with an error.
func receive(ctx context.Context, client pb.VideoTaskServiceClient, name string, offset int64, out io.Writer, failures *int) (*pb.Artifact, int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var artifact *pb.Artifact
	stream, err := client.DownloadVideo(ctx, &pb.DownloadVideoRequest{Name: name, Offset: offset})
	if err != nil {
		return artifact, offset, err
	}
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return artifact, offset, nil
		}
		if err != nil {
			return artifact, offset, err
		}
		if message.Artifact != nil {
			artifact = message.Artifact
		}
		if message.Offset != offset {
			return artifact, offset, fmt.Errorf("a piece of %s begins at %d instead of %d", name, message.Offset, offset)
		}
		written, err := out.Write(message.Data)
		offset += int64(written)
		if err != nil {
			return artifact, offset, err
		}
		*failures = 0
	}
}
