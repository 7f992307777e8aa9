// A download that goes on where it was interrupted, in this run or in an earlier one.

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';

import * as grpc from '@grpc/grpc-js';

import { credentials, isDisconnect, isServiceError, pause } from './client.js';
import type { Artifact__Output } from './gen/kling_flows/v1/Artifact.js';
import type { DownloadVideoResponse__Output } from './gen/kling_flows/v1/DownloadVideoResponse.js';
import type { VideoTaskServiceClient } from './gen/kling_flows/v1/VideoTaskService.js';
import { unavailable } from './watch.js';

/** Writes a task's video to a file and answers its checksum; keeps nothing whose checksum is wrong. */
export async function download(client: VideoTaskServiceClient, name: string, path: string): Promise<string> {
  const part = `${path}.part`;
  const file = await open(part, 'a');
  const digest = createHash('sha256');
  let offset = 0;
  let artifact: Artifact__Output | undefined;
  try {
    for await (const piece of createReadStream(part)) {
      digest.update(piece as Buffer);
      offset += (piece as Buffer).length;
    }
    for (let failures = 0; artifact === undefined || offset < Number(artifact.size_bytes); ) {
      const call = client.downloadVideo({ name, offset }, credentials());
      let end: grpc.ServiceError;
      try {
        for await (const message of call as AsyncIterable<DownloadVideoResponse__Output>) {
          artifact = message.artifact ?? artifact;
          if (Number(message.offset) !== offset) {
            throw new Error(`a piece of ${name} begins at ${message.offset} instead of ${offset}`);
          }
          await file.appendFile(message.data);
          digest.update(message.data);
          offset += message.data.length;
          failures = 0;
        }
        end = unavailable('the stream ended early');
      } catch (error) {
        if (!isServiceError(error)) throw error;
        if (error.code === grpc.status.OUT_OF_RANGE) {
          await rm(part);
          console.error(`${part} was longer than the video and was removed`);
        }
        if (!isDisconnect(error)) throw error;
        end = error;
      } finally {
        call.cancel();
      }
      if (artifact !== undefined && offset >= Number(artifact.size_bytes)) break;
      failures += 1;
      await pause(end, failures);
    }
  } finally {
    await file.close();
  }
  const [expected, actual] = [artifact.sha256.toString('hex'), digest.digest('hex')];
  if (actual !== expected) {
    await rm(part);
    throw new Error(`${part} had the checksum ${actual} instead of ${expected} and was removed`);
  }
  await rename(part, path);
  return actual;
}
