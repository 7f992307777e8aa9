package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kling-flows/kling-flows/examples/go/gen/kling_flows/v1"
)

// runWatch prints every event of the tasks that are named, or that carry the labels. It ends once all that are named,
// or as many as --tasks says, are final.
func runWatch(ctx context.Context, client pb.VideoTaskServiceClient, arguments []string) error {
	flags := newFlags("watch")
	tasks := flags.Int("tasks", 0, "")
	chosen := labels{}
	flags.Var(chosen, "label", "")
	if err := parse(flags, arguments); err != nil {
		return err
	}
	names := flags.Args()
	if len(names) > 0 && (len(chosen) > 0 || *tasks > 0) {
		return errUsage
	}
	watch := &watch{
		client:  client,
		request: &pb.WatchVideoTasksRequest{Names: names, Filter: chosen.filter(), UntilFinal: len(names) > 0, View: pb.VideoTaskView_BASIC},
		enough:  *tasks,
		proof:   proof{last: map[string]int64{}},
	}
	if err := watch.run(ctx); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d tasks, %d events, none skipped, none repeated, %d disconnects\n",
		len(watch.proof.last), watch.proof.events, watch.disconnects)
	return nil
}

// watch is one watch, however many streams it takes.
type watch struct {
	client      pb.VideoTaskServiceClient
	request     *pb.WatchVideoTasksRequest
	enough      int
	proof       proof
	final       int
	disconnects int
	failures    int
}

var errEnough = errors.New("as many tasks as asked for are final")

func (w *watch) run(ctx context.Context) error {
	for {
		err := w.stream(ctx)
		switch {
		case errors.Is(err, errEnough):
			return nil
		case err == nil && w.request.UntilFinal:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case status.Code(err) == codes.OutOfRange && w.request.ResumeToken != "":
			fmt.Fprintln(os.Stderr, "starting over with a snapshot after", explain(err))
			w.request.ResumeToken = ""
			w.proof.startOver()
			continue
		case err == nil:
			err = status.Error(codes.Unavailable, "the stream ended early")
		case !isDisconnect(err):
			return err
		}
		w.disconnects++
		w.failures++
		if err := pause(ctx, err, w.failures); err != nil {
			return err
		}
	}
}

// stream reads one stream to its end; nil is an end with OK.
func (w *watch) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.client.WatchVideoTasks(ctx, w.request)
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, task := range message.VideoTasks {
			isNew, err := w.proof.take(task)
			if err != nil {
				return err
			}
			if isNew {
				show(task)
				if isFinal(task.State) {
					w.final++
				}
			}
		}
		if message.Synced {
			w.proof.synced = true
		}
		// Only now: a message that is half dealt with has to come again.
		w.request.ResumeToken = message.ResumeToken
		w.failures = 0
		if w.enough > 0 && w.final >= w.enough {
			return errEnough
		}
	}
}

// proof holds the last revision of every task, and with it that no event was missed and none came twice.
type proof struct {
	last   map[string]int64
	events int
	// synced is false while a snapshot comes, which shows tasks as they are now.
	synced bool
	// lost is true if a resume token has expired: what happened meanwhile is not told again.
	lost bool
}

func (p *proof) startOver() {
	p.synced, p.lost = false, true
}

// take answers whether the task is news; its error says that the server's promise is broken.
func (p *proof) take(task *pb.VideoTask) (bool, error) {
	last := p.last[task.Name]
	switch {
	case p.synced && task.Revision != last+1:
		return false, fmt.Errorf("%s: revision %d came after %d", task.Name, task.Revision, last)
	case task.Revision <= last:
		return false, nil
	case p.lost && last > 0 && task.Revision > last+1:
		fmt.Fprintf(os.Stderr, "%s: revisions %d to %d were not seen\n", task.Name, last+1, task.Revision-1)
	}
	p.last[task.Name] = task.Revision
	p.events++
	return true, nil
}

// isFinal tells whether a task's state never changes again; one that this program does not know is not final.
func isFinal(state pb.VideoTask_State) bool {
	switch state {
	case pb.VideoTask_SUCCEEDED, pb.VideoTask_FAILED, pb.VideoTask_CANCELLED, pb.VideoTask_EXPIRED, pb.VideoTask_LOST:
		return true
	}
	return false
}
