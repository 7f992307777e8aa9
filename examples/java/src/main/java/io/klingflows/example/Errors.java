package io.klingflows.example;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.Supplier;

/** What the server's errors carry, and what to do about them. */
final class Errors {
  private static final Duration FIRST_PAUSE = Duration.ofMillis(100);
  private static final Duration LONGEST_PAUSE = Duration.ofSeconds(2);

  private Errors() {}

  /** The message of a type that came with an error, if there is one. */
  static <T extends Message> Optional<T> detail(StatusRuntimeException error, Class<T> type) {
    Status status = StatusProto.fromThrowable(error);
    for (Any each : status.getDetailsList()) {
      if (each.is(type)) {
        try {
          return Optional.of(each.unpack(type));
        } catch (InvalidProtocolBufferException malformed) {
          throw new IllegalStateException(malformed);
        }
      }
    }
    return Optional.empty();
  }

  /** What went wrong: the code, the reason, the message, and each field that was refused. */
  static String explain(StatusRuntimeException error) {
    StringBuilder text = new StringBuilder(error.getStatus().getCode().toString());
    detail(error, ErrorInfo.class).ifPresent(info -> text.append(" (").append(info.getReason()).append(')'));
    text.append(": ").append(error.getStatus().getDescription());
    detail(error, BadRequest.class)
        .ifPresent(
            refused ->
                refused
                    .getFieldViolationsList()
                    .forEach(each -> text.append("\n  ").append(each.getField()).append(": ").append(each.getDescription())));
    return text.toString();
  }

  /** Whether a call ended without the server having said anything about its subject. */
  static boolean isDisconnect(StatusRuntimeException error) {
    return switch (error.getStatus().getCode()) {
      case UNAVAILABLE -> true;
        // Without an ErrorInfo it is the transport that says so.
      case CANCELLED, INTERNAL, UNKNOWN -> detail(error, ErrorInfo.class).isEmpty();
      default -> false;
    };
  }

  /** Whether the server may accept later what it has not accepted now. */
  private static boolean isRepeatable(StatusRuntimeException error) {
    boolean isFull = error.getStatus().getCode() == io.grpc.Status.Code.RESOURCE_EXHAUSTED;
    return isFull && detail(error, RetryInfo.class).isPresent() || isDisconnect(error);
  }

  /** Waits as long as the server asks for, else longer with every failure. */
  static void pause(StatusRuntimeException error, int failures, Main.Connection connection) throws InterruptedException {
    Duration delay =
        detail(error, RetryInfo.class)
            .map(info -> Duration.ofSeconds(info.getRetryDelay().getSeconds(), info.getRetryDelay().getNanos()))
            .orElseGet(() -> FIRST_PAUSE.multipliedBy(1L << Math.min(failures - 1, 10)));
    if (detail(error, RetryInfo.class).isEmpty() && delay.compareTo(LONGEST_PAUSE) > 0) {
      delay = LONGEST_PAUSE;
    }
    long millis = (long) (delay.toMillis() * ThreadLocalRandom.current().nextDouble(1, 1.2));
    System.err.printf("trying again in %.1f s after %s%n", millis / 1000.0, explain(error));
    Thread.sleep(millis);
    // The pauses between attempts are ours; those of the channel would come on top.
    connection.channel().resetConnectBackoff();
  }

  /** Repeats a call that is safe to repeat, while the server asks for patience. */
  static <T> T retry(int attempts, Main.Connection connection, Supplier<T> call) throws InterruptedException {
    for (int attempt = 1; ; attempt++) {
      try {
        return call.get();
      } catch (StatusRuntimeException error) {
        if (attempt >= attempts || !isRepeatable(error)) {
          throw error;
        }
        pause(error, attempt, connection);
      }
    }
  }
}
