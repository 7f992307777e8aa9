package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	pb "github.com/kling-flows/kling-flows/examples/go/gen/kling_flows/v1"
)

// runCreate creates a task once, however often the request has to be sent: the server knows it by its request id.
func runCreate(ctx context.Context, client pb.VideoTaskServiceClient, arguments []string) error {
	flags := newFlags("create")
	requestID := flags.String("request-id", rand.Text(), "")
	attempts := flags.Int("attempts", 5, "")
	chosen := labels{}
	flags.Var(chosen, "label", "")
	if err := parse(flags, arguments); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errUsage
	}
	request := &pb.CreateVideoTaskRequest{
		RequestId: *requestID,
		VideoTask: &pb.VideoTask{
			Spec:   &pb.VideoTask_TextToVideo{TextToVideo: &pb.TextToVideo{Prompt: flags.Arg(0)}},
			Labels: chosen,
		},
	}
	task, err := retry(ctx, *attempts, func(ctx context.Context) (*pb.VideoTask, error) {
		return client.CreateVideoTask(ctx, request)
	})
	if err == nil {
		fmt.Println(task.Name)
	}
	return err
}

// runList prints all tasks, the newest first, page by page.
func runList(ctx context.Context, client pb.VideoTaskServiceClient, arguments []string) error {
	flags := newFlags("list")
	pageSize := flags.Int("page-size", 100, "")
	chosen := labels{}
	flags.Var(chosen, "label", "")
	if err := parse(flags, arguments); err != nil {
		return err
	}
	if flags.NArg() != 0 {
		return errUsage
	}
	request := &pb.ListVideoTasksRequest{
		PageSize: int32(*pageSize), Filter: chosen.filter(), View: pb.VideoTaskView_BASIC,
	}
	for {
		page, err := retry(ctx, 5, func(ctx context.Context) (*pb.ListVideoTasksResponse, error) {
			return client.ListVideoTasks(ctx, request)
		})
		if err != nil {
			return err
		}
		for _, task := range page.VideoTasks {
			show(task)
		}
		if page.NextPageToken == "" {
			return nil
		}
		request.PageToken = page.NextPageToken
	}
}

// retry repeats a call that is safe to repeat while the server asks for patience.
func retry[T any](ctx context.Context, attempts int, call func(context.Context) (T, error)) (T, error) {
	for attempt := 1; ; attempt++ {
		limited, cancel := context.WithTimeout(ctx, 30*time.Second)
		answer, err := call(limited)
		cancel()
		if err == nil || attempt >= attempts || !isRepeatable(err) {
			return answer, err
		}
		if err := pause(ctx, err, attempt); err != nil {
			return answer, err
		}
	}
}

func show(task *pb.VideoTask) {
	line := fmt.Sprintf("%s %d %s", task.Name, task.Revision, task.State)
	if message := task.GetError().GetMessage(); message != "" {
		line += ": " + message
	}
	fmt.Println(line)
}
