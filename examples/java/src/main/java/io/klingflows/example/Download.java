package io.klingflows.example;

import com.google.protobuf.ByteString;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.klingflows.v1.Artifact;
import io.klingflows.v1.DownloadVideoRequest;
import io.klingflows.v1.DownloadVideoResponse;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.security.DigestOutputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Iterator;

/** A download that goes on where it was interrupted, in this run or in an earlier one. */
final class Download {
  private final Main.Connection connection;
  private final String name;
  private final Path file;
  private final Path part;
  private final MessageDigest digest;
  private Artifact artifact;
  private long offset;
  private int failures;

  Download(Main.Connection connection, String name, Path file) throws NoSuchAlgorithmException {
    this.connection = connection;
    this.name = name;
    this.file = file;
    this.part = Path.of(file + ".part");
    this.digest = MessageDigest.getInstance("SHA-256");
  }

  /** Writes the file and answers its checksum; keeps nothing whose checksum is wrong. */
  String run() throws IOException, InterruptedException {
    if (Files.exists(part)) {
      try (InputStream earlier = Files.newInputStream(part);
          OutputStream hash = new DigestOutputStream(OutputStream.nullOutputStream(), digest)) {
        offset = earlier.transferTo(hash);
      }
    }
    try (OutputStream out = Files.newOutputStream(part, StandardOpenOption.CREATE, StandardOpenOption.APPEND)) {
      while (!receive(out)) {}
    }
    String expected = HexFormat.of().formatHex(artifact.getSha256().toByteArray());
    String actual = HexFormat.of().formatHex(digest.digest());
    if (!actual.equals(expected)) {
      Files.delete(part);
      throw new IOException("%s had the checksum %s instead of %s and was removed".formatted(part, actual, expected));
    }
    Files.move(part, file, StandardCopyOption.REPLACE_EXISTING);
    return actual;
  }

  /** Reads one stream; answers whether the file is complete. */
  private boolean receive(OutputStream out) throws IOException, InterruptedException {
    StatusRuntimeException end;
    try (Context.CancellableContext context = Context.current().withCancellation()) {
      Context outer = context.attach();
      try {
        stream(out);
        end = Status.UNAVAILABLE.withDescription("the stream ended early").asRuntimeException();
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() == Status.Code.OUT_OF_RANGE) {
          Files.delete(part);
          System.err.println(part + " was longer than the video and was removed");
        }
        if (!Errors.isDisconnect(error)) {
          throw error;
        }
        end = error;
      } finally {
        context.detach(outer);
      }
    }
    if (artifact != null && offset >= artifact.getSizeBytes()) {
      return true;
    }
    failures++;
    Errors.pause(end, failures, connection);
    return false;
  }

  private void stream(OutputStream out) throws IOException {
    DownloadVideoRequest request = DownloadVideoRequest.newBuilder().setName(name).setOffset(offset).build();
    Iterator<DownloadVideoResponse> stream = connection.stub().downloadVideo(request);
    while (stream.hasNext()) {
      DownloadVideoResponse message = stream.next();
      if (message.hasArtifact()) {
        artifact = message.getArtifact();
      }
      if (message.getOffset() != offset) {
        throw new IOException("a piece of %s begins at %d instead of %d".formatted(name, message.getOffset(), offset));
      }
      ByteString data = message.getData();
      data.writeTo(out);
      digest.update(data.asReadOnlyByteBuffer());
      offset += data.size();
      failures = 0;
    }
  }
}
