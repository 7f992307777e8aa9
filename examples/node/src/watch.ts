// A watch through any number of disconnects, with the proof that it missed nothing and saw nothing twice.

import * as grpc from '@grpc/grpc-js';

import { credentials, explain, isDisconnect, isServiceError, pause } from './client.js';
import type { VideoTask__Output } from './gen/kling_flows/v1/VideoTask.js';
import type { VideoTaskServiceClient } from './gen/kling_flows/v1/VideoTaskService.js';
import type { WatchVideoTasksResponse__Output } from './gen/kling_flows/v1/WatchVideoTasksResponse.js';

/** A state that this program does not know is not final. */
const FINAL = new Set(['SUCCEEDED', 'FAILED', 'CANCELLED', 'EXPIRED', 'LOST']);

export interface Watched {
  names: string[];
  filter: string;
  /** End once so many tasks are final; 0: when the server ends the watch. */
  enough: number;
}

/** The last revision of every task. Revisions are read as numbers: a task has a few dozen. */
export class Proof {
  readonly last = new Map<string, number>();
  events = 0;
  /** False while a snapshot comes, which shows tasks as they are now. */
  synced = false;
  /** A resume token has expired: what happened meanwhile is not told again. */
  private lost = false;

  startOver(): void {
    this.synced = false;
    this.lost = true;
  }

  /** Answers whether the task is news; throws if the server has broken its promise. */
  take(task: VideoTask__Output): boolean {
    const last = this.last.get(task.name) ?? 0;
    const revision = Number(task.revision);
    if (this.synced && revision !== last + 1) {
      throw new Error(`${task.name}: revision ${revision} came after ${last}`);
    }
    if (revision <= last) return false;
    if (this.lost && last > 0 && revision > last + 1) {
      console.error(`${task.name}: revisions ${last + 1} to ${revision - 1} were not seen`);
    }
    this.last.set(task.name, revision);
    this.events += 1;
    return true;
  }
}

/** Calls `show` with every task after each of its events. */
export async function watch(
  client: VideoTaskServiceClient,
  { names, filter, enough }: Watched,
  show: (task: VideoTask__Output) => void,
): Promise<string> {
  const proof = new Proof();
  let resumeToken = '';
  let final = 0;
  let failures = 0;
  let disconnects = 0;
  const summary = (): string =>
    `${proof.last.size} tasks, ${proof.events} events, none skipped, none repeated, ${disconnects} disconnects`;
  for (;;) {
    const request = { names, filter, until_final: names.length > 0, resume_token: resumeToken, view: 'BASIC' } as const;
    const call = client.watchVideoTasks(request, credentials());
    let end: grpc.ServiceError;
    try {
      // `for await` holds the server back while we are busy; `call.on('data')` would buffer without bound.
      for await (const message of call as AsyncIterable<WatchVideoTasksResponse__Output>) {
        for (const task of message.video_tasks) {
          if (!proof.take(task)) continue;
          show(task);
          if (FINAL.has(task.state)) final += 1;
        }
        proof.synced ||= message.synced;
        resumeToken = message.resume_token; // only now: a message that is half dealt with has to come again
        failures = 0;
        if (enough > 0 && final >= enough) return summary();
      }
      if (names.length > 0) return summary();
      end = unavailable('the stream ended early');
    } catch (error) {
      if (!isServiceError(error)) throw error;
      if (error.code === grpc.status.OUT_OF_RANGE && resumeToken) {
        console.error(`starting over with a snapshot after ${explain(error)}`);
        resumeToken = '';
        proof.startOver();
        continue;
      }
      if (!isDisconnect(error)) throw error;
      end = error;
    } finally {
      call.cancel(); // leaving the loop early does not do it
    }
    disconnects += 1;
    failures += 1;
    await pause(end, failures);
  }
}

/** An end that the server did not mean. */
export function unavailable(details: string): grpc.ServiceError {
  const code = grpc.status.UNAVAILABLE;
  return Object.assign(new Error(details), { code, details, metadata: new grpc.Metadata() });
}
