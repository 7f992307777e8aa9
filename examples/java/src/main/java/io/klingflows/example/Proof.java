package io.klingflows.example;

import io.klingflows.v1.VideoTask;
import java.util.HashMap;
import java.util.Map;

/** The last revision of every task, and with it the proof that no event was missed and none came twice. */
final class Proof {
  private final Map<String, Long> last = new HashMap<>();
  private int events;
  private boolean synced;
  private boolean lost;

  /** The snapshot, which shows tasks as they are now, is complete: from here on every event comes. */
  void synced() {
    synced = true;
  }

  /** A resume token has expired: a snapshot comes again, and what happened meanwhile is not told. */
  void startOver() {
    synced = false;
    lost = true;
  }

  /**
   * Answers whether the task is news.
   *
   * @throws IllegalStateException the server has broken its promise
   */
  boolean take(VideoTask task) {
    long before = last.getOrDefault(task.getName(), 0L);
    long revision = task.getRevision();
    if (synced && revision != before + 1) {
      throw new IllegalStateException("%s: revision %d came after %d".formatted(task.getName(), revision, before));
    }
    if (revision <= before) {
      return false;
    }
    if (lost && before > 0 && revision > before + 1) {
      System.err.printf("%s: revisions %d to %d were not seen%n", task.getName(), before + 1, revision - 1);
    }
    last.put(task.getName(), revision);
    events++;
    return true;
  }

  @Override
  public String toString() {
    return "%d tasks, %d events, none skipped, none repeated".formatted(last.size(), events);
  }
}
