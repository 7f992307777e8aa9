// The connection, and what the server's errors carry. All that is known of the server are the .proto files.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import * as grpc from '@grpc/grpc-js';
import * as protoLoader from '@grpc/proto-loader';

import type { ProtoGrpcType as ErrorTypes } from './gen/error_details.js';
import type { BadRequest__Output } from './gen/google/rpc/BadRequest.js';
import type { ErrorInfo__Output } from './gen/google/rpc/ErrorInfo.js';
import type { RetryInfo__Output } from './gen/google/rpc/RetryInfo.js';
import type { Status__Output } from './gen/google/rpc/Status.js';
import type { VideoTaskServiceClient } from './gen/kling_flows/v1/VideoTaskService.js';
import type { ProtoGrpcType } from './gen/video_task_service.js';

/** The messages that come with errors, by the end of their type's name. */
interface Details {
  BadRequest: BadRequest__Output;
  ErrorInfo: ErrorInfo__Output;
  RetryInfo: RetryInfo__Output;
}

const CALL_SECONDS = 30;
const FIRST_PAUSE_SECONDS = 0.1;
const LONGEST_PAUSE_SECONDS = 2;

// The same options as those that the types are generated with (package.json).
const definition = protoLoader.loadSync(
  ['kling_flows/v1/video_task_service.proto', 'google/rpc/error_details.proto'],
  {
    includeDirs: [fileURLToPath(new URL('../../../protos', import.meta.url))],
    keepCase: true,
    longs: String, // else a revision is a Long object
    enums: String,
    defaults: true,
    oneofs: true,
    json: true, // a google.protobuf.Any becomes the message in it, its type in '@type'
  },
);
const { VideoTaskService } = (grpc.loadPackageDefinition(definition) as unknown as ErrorTypes & ProtoGrpcType).kling_flows.v1;
const status = definition['google.rpc.Status'] as unknown as protoLoader.MessageTypeDefinition<object, Status__Output>;

export function connect(server: string, ca: string | undefined): VideoTaskServiceClient {
  const credentials = ca ? grpc.credentials.createSsl(readFileSync(ca)) : grpc.credentials.createInsecure();
  return new VideoTaskService(server, credentials, {
    // Notices a connection that died silently; the server disconnects who pings every 5 seconds or more often.
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 10_000,
    // The pauses between attempts are ours; those of the transport would come on top.
    'grpc.initial_reconnect_backoff_ms': 50,
    'grpc.max_reconnect_backoff_ms': 1_000,
    // A page of 1,000 tasks with long prompts passes the default of 4 MiB.
    'grpc.max_receive_message_length': 64 * 1024 * 1024,
  });
}

/** What goes with every call: who calls. */
export function credentials(): grpc.Metadata {
  const metadata = new grpc.Metadata();
  const token = process.env['KLING_FLOWS_TOKEN'];
  if (token) metadata.set('authorization', `Bearer ${token}`);
  return metadata;
}

export function isServiceError(error: unknown): error is grpc.ServiceError {
  return error instanceof Error && 'code' in error && typeof error.code === 'number' && error.code in grpc.status;
}

/** The message of a type that came with an error, if there is one. */
function detail<Type extends keyof Details>(error: grpc.ServiceError, type: Type): Details[Type] | undefined {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (!(bytes instanceof Buffer)) return undefined;
  const details = status.deserialize(bytes).details as unknown as ({ '@type': string } & Details[Type])[];
  return details.find((each) => each['@type'] === `type.googleapis.com/google.rpc.${type}`);
}

/** What went wrong: the code, the reason, the message, and each field that was refused. */
export function explain(error: grpc.ServiceError): string {
  const reason = detail(error, 'ErrorInfo')?.reason;
  return [
    `${grpc.status[error.code]}${reason ? ` (${reason})` : ''}: ${error.details}`,
    ...(detail(error, 'BadRequest')?.field_violations ?? []).map(({ field, description }) => `  ${field}: ${description}`),
  ].join('\n');
}

/** Whether a call ended without the server having said anything about its subject. */
export function isDisconnect(error: grpc.ServiceError): boolean {
  const { CANCELLED, INTERNAL, UNAVAILABLE, UNKNOWN } = grpc.status;
  if (error.code === UNAVAILABLE) return true;
  // Without an ErrorInfo it is the transport that says so.
  return [CANCELLED, INTERNAL, UNKNOWN].includes(error.code) && !detail(error, 'ErrorInfo');
}

/** Whether the server may accept later what it has not accepted now. */
function isRepeatable(error: grpc.ServiceError): boolean {
  const full = error.code === grpc.status.RESOURCE_EXHAUSTED && detail(error, 'RetryInfo') !== undefined;
  return full || isDisconnect(error);
}

/** Waits as long as the server asks for, else longer with every failure. */
export async function pause(error: grpc.ServiceError, failures: number): Promise<void> {
  const asked = detail(error, 'RetryInfo')?.retry_delay;
  const seconds = asked
    ? Number(asked.seconds) + asked.nanos / 1e9
    : Math.min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS);
  const jittered = seconds * (1 + Math.random() / 5);
  console.error(`trying again in ${jittered.toFixed(1)} s after ${explain(error)}`);
  await sleep(1000 * jittered);
}

/** Repeats a call that is safe to repeat, while the server asks for patience. */
export async function retry<Answer>(
  attempts: number,
  call: (options: grpc.CallOptions, done: grpc.requestCallback<Answer>) => unknown,
): Promise<Answer> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await new Promise<Answer>((resolve, reject) => {
        call({ deadline: Date.now() + 1000 * CALL_SECONDS }, (error, answer) => (error ? reject(error) : resolve(answer!)));
      });
    } catch (error) {
      if (attempt >= attempts || !isServiceError(error) || !isRepeatable(error)) throw error;
      await pause(error, attempt);
    }
  }
}
