package io.klingflows.example;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import io.klingflows.v1.CreateVideoTaskRequest;
import io.klingflows.v1.ListVideoTasksRequest;
import io.klingflows.v1.ListVideoTasksResponse;
import io.klingflows.v1.TextToVideo;
import io.klingflows.v1.VideoTask;
import io.klingflows.v1.VideoTaskServiceGrpc;
import io.klingflows.v1.VideoTaskServiceGrpc.VideoTaskServiceBlockingStub;
import io.klingflows.v1.VideoTaskView;
import java.io.File;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;

/** A client of kling-flows: makes videos, watches them through disconnects, lists and downloads them. */
@Command(
    name = "kling-flows-example",
    footer = "The environment variable KLING_FLOWS_TOKEN holds the bearer token.")
public final class Main {
  @Option(names = "--server", paramLabel = "HOST:PORT", defaultValue = "127.0.0.1:50051")
  String server;

  @Option(names = "--ca", paramLabel = "FILE", defaultValue = "${env:KLING_FLOWS_SERVER_CA}")
  File ca;

  public static void main(String[] arguments) {
    CommandLine line = new CommandLine(new Main());
    line.setExecutionExceptionHandler(
        (error, command, parsed) -> {
          boolean isStatus = error instanceof StatusRuntimeException;
          System.err.println(isStatus ? Errors.explain((StatusRuntimeException) error) : error.getMessage());
          return 1;
        });
    System.exit(line.execute(arguments));
  }

  @Command(description = "Create a task and print its name.")
  void create(
      @Parameters(paramLabel = "PROMPT") String prompt,
      @Option(names = "--request-id") String requestId,
      @Option(names = "--label", paramLabel = "KEY=VALUE") Map<String, String> labels,
      @Option(names = "--attempts", defaultValue = "5") int attempts)
      throws Exception {
    // However often the request has to be sent, there is one task: the server knows it by its request id.
    CreateVideoTaskRequest request =
        CreateVideoTaskRequest.newBuilder()
            .setRequestId(requestId == null ? UUID.randomUUID().toString() : requestId)
            .setVideoTask(
                VideoTask.newBuilder()
                    .setTextToVideo(TextToVideo.newBuilder().setPrompt(prompt))
                    .putAllLabels(labels == null ? Map.of() : labels))
            .build();
    try (Connection connection = connect()) {
      VideoTask task =
          Errors.retry(attempts, connection, () -> connection.stub().withDeadlineAfter(30, TimeUnit.SECONDS).createVideoTask(request));
      System.out.println(task.getName());
    }
  }

  @Command(description = "Print every event until all that are named, or --tasks of them, are final.")
  void watch(
      @Parameters(paramLabel = "NAME", arity = "0..*") List<String> names,
      @Option(names = "--label", paramLabel = "KEY=VALUE") Map<String, String> labels,
      @Option(names = "--tasks", defaultValue = "0") int tasks)
      throws Exception {
    List<String> watched = names == null ? List.of() : names;
    if (!watched.isEmpty() && (labels != null || tasks > 0)) {
      throw new ParameterException(new CommandLine(this), "NAME goes with neither --label nor --tasks");
    }
    try (Connection connection = connect()) {
      System.err.println(new Watch(connection, watched, filter(labels), tasks).run());
    }
  }

  @Command(description = "Print all tasks, the newest first, page by page.")
  void list(
      @Option(names = "--label", paramLabel = "KEY=VALUE") Map<String, String> labels,
      @Option(names = "--page-size", defaultValue = "100") int pageSize)
      throws Exception {
    ListVideoTasksRequest.Builder request =
        ListVideoTasksRequest.newBuilder().setPageSize(pageSize).setFilter(filter(labels)).setView(VideoTaskView.BASIC);
    try (Connection connection = connect()) {
      do {
        ListVideoTasksResponse page =
            Errors.retry(5, connection, () -> connection.stub().withDeadlineAfter(30, TimeUnit.SECONDS).listVideoTasks(request.build()));
        page.getVideoTasksList().forEach(Main::show);
        request.setPageToken(page.getNextPageToken());
      } while (!request.getPageToken().isEmpty());
    }
  }

  @Command(description = "Write a task's video to a file; goes on where it was interrupted.")
  void download(@Parameters(paramLabel = "NAME") String name, @Parameters(paramLabel = "FILE") Path file)
      throws Exception {
    try (Connection connection = connect()) {
      System.out.println(new Download(connection, name, file).run() + "  " + file);
    }
  }

  /** A channel and its stub. */
  record Connection(ManagedChannel channel, VideoTaskServiceBlockingStub stub) implements AutoCloseable {
    @Override
    public void close() {
      channel.shutdownNow();
    }
  }

  private Connection connect() throws IOException {
    ChannelCredentials credentials = InsecureChannelCredentials.create();
    if (ca != null) {
      credentials = TlsChannelCredentials.newBuilder().trustManager(ca).build();
    }
    ManagedChannel channel =
        Grpc.newChannelBuilder(server, credentials)
            // Notices a connection that died silently; the server disconnects who pings every 5 seconds or more often.
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            // A page of 1,000 tasks with long prompts passes the default of 4 MiB.
            .maxInboundMessageSize(64 * 1024 * 1024)
            .build();
    VideoTaskServiceBlockingStub stub = VideoTaskServiceGrpc.newBlockingStub(channel);
    String token = System.getenv("KLING_FLOWS_TOKEN");
    if (token != null && !token.isEmpty()) {
      Metadata metadata = new Metadata();
      metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
      stub = stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata));
    }
    return new Connection(channel, stub);
  }

  /** The condition that a task carries all of these labels. */
  private static String filter(Map<String, String> labels) {
    return labels == null
        ? ""
        : labels.entrySet().stream()
            .map(label -> "labels.%s = \"%s\"".formatted(label.getKey(), label.getValue().replaceAll("[\"\\\\]", "\\\\$0")))
            .collect(Collectors.joining(" AND "));
  }

  static void show(VideoTask task) {
    String message = task.getError().getMessage();
    System.out.printf("%s %d %s%s%n", task.getName(), task.getRevision(), task.getState(), message.isEmpty() ? "" : ": " + message);
  }
}
