package io.klingflows.example;

import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.klingflows.v1.VideoTask;
import io.klingflows.v1.VideoTaskView;
import io.klingflows.v1.WatchVideoTasksRequest;
import io.klingflows.v1.WatchVideoTasksResponse;
import java.util.Iterator;
import java.util.List;

/** One watch, however many streams it takes. */
final class Watch {
  private final Main.Connection connection;
  private final WatchVideoTasksRequest.Builder request;
  private final int enough;
  private final Proof proof = new Proof();
  private int ended;
  private int failures;

  /**
   * @param names the tasks to watch to their end; if empty, those that match
   * @param filter which to watch; must speak of what never changes, as labels do
   * @param enough end once so many tasks are final; 0: when the server ends the watch
   */
  Watch(Main.Connection connection, List<String> names, String filter, int enough) {
    this.connection = connection;
    this.enough = enough;
    this.request =
        WatchVideoTasksRequest.newBuilder()
            .addAllNames(names)
            .setFilter(filter)
            .setUntilFinal(!names.isEmpty())
            .setView(VideoTaskView.BASIC);
  }

  /** Prints every event and answers what was proved. */
  String run() throws InterruptedException {
    int disconnects = 0;
    while (true) {
      StatusRuntimeException end;
      try {
        if (stream()) {
          return "%s, %d disconnects".formatted(proof, disconnects);
        }
        end = Status.UNAVAILABLE.withDescription("the stream ended early").asRuntimeException();
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() == Status.Code.OUT_OF_RANGE && !request.getResumeToken().isEmpty()) {
          System.err.println("starting over with a snapshot after " + Errors.explain(error));
          request.clearResumeToken();
          proof.startOver();
          continue;
        }
        if (!Errors.isDisconnect(error)) {
          throw error;
        }
        end = error;
      }
      disconnects++;
      failures++;
      Errors.pause(end, failures, connection);
    }
  }

  /** Reads one stream to its end; answers whether that is the end of the watch. */
  private boolean stream() {
    // Leaving a stream early does not end it; cancelling its context does.
    try (Context.CancellableContext context = Context.current().withCancellation()) {
      Context outer = context.attach();
      try {
        Iterator<WatchVideoTasksResponse> stream = connection.stub().watchVideoTasks(request.build());
        while (stream.hasNext()) {
          WatchVideoTasksResponse message = stream.next();
          message.getVideoTasksList().forEach(this::take);
          if (message.getSynced()) {
            proof.synced();
          }
          // Only now: a message that is half dealt with has to come again.
          request.setResumeToken(message.getResumeToken());
          failures = 0;
          if (enough > 0 && ended >= enough) {
            return true;
          }
        }
        return request.getUntilFinal();
      } finally {
        context.detach(outer);
      }
    }
  }

  private void take(VideoTask task) {
    if (proof.take(task)) {
      Main.show(task);
      ended += isFinal(task.getState()) ? 1 : 0;
    }
  }

  /** Whether a state never changes again; one that this program does not know is not final. */
  private static boolean isFinal(VideoTask.State state) {
    return switch (state) {
      case SUCCEEDED, FAILED, CANCELLED, EXPIRED, LOST -> true;
      default -> false;
    };
  }
}
