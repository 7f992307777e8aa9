// Makes a video from a prompt and watches it to the end. All it knows of the server are the .proto files.

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const USAGE = 'usage: node generate.mjs [--server HOST:PORT] PROMPT';
const CREATE_ATTEMPTS = 7;

const definition = protoLoader.loadSync(
  ['kling_flows/v1/video_task_service.proto', 'google/rpc/error_details.proto'],
  {
    includeDirs: [fileURLToPath(new URL('../../protos', import.meta.url))],
    keepCase: true,
    longs: String, // else a revision is a Long object
    enums: String,
    defaults: true,
    oneofs: true,
    json: true, // a google.protobuf.Any becomes the message in it, its type in '@type'
  },
);
const { VideoTaskService } = grpc.loadPackageDefinition(definition).kling_flows.v1;

/** The messages that came with an error, for example google.rpc.BadRequest. */
function detailsOf(error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
  return bytes ? definition['google.rpc.Status'].deserialize(bytes).details : [];
}

function find(details, type) {
  return details.find((detail) => detail['@type'] === `type.googleapis.com/${type}`);
}

function explain(error) {
  const details = detailsOf(error);
  const reason = find(details, 'google.rpc.ErrorInfo')?.reason;
  const violations = find(details, 'google.rpc.BadRequest')?.field_violations ?? [];
  return [
    `${grpc.status[error.code]}${reason ? ` (${reason})` : ''}: ${error.details}`,
    ...violations.map(({ field, description }) => `  ${field}: ${description}`),
  ].join('\n');
}

/** Waits as long as the server asks for, or longer with every failure. */
async function pause(error, failures) {
  const delay = find(detailsOf(error), 'google.rpc.RetryInfo')?.retry_delay;
  console.error(`trying again after ${explain(error)}`);
  const seconds = delay ? Number(delay.seconds) + delay.nanos / 1e9 : Math.min(0.1 * 2 ** failures, 10);
  await sleep(1000 * seconds * (1 + Math.random() / 5));
}

/** Creates the task once, however often the request has to be sent: the server knows it again by its request_id. */
async function create(client, prompt) {
  const createVideoTask = promisify(client.createVideoTask).bind(client);
  const request = { video_task: { text_to_video: { prompt } }, request_id: randomUUID() };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await createVideoTask(request, { deadline: Date.now() + 30_000 });
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE || attempt === CREATE_ATTEMPTS) throw error;
      await pause(error, attempt);
    }
  }
}

/** Yields the task after each of its events until it is final, through any number of disconnects. */
async function* watch(client, name) {
  let resumeToken = '';
  let failures = 0;
  for (;;) {
    const call = client.watchVideoTasks({ names: [name], until_final: true, resume_token: resumeToken });
    try {
      // `for await` holds the server back while we are busy; `call.on('data')` would buffer without bound.
      for await (const message of call) {
        yield* message.video_tasks;
        resumeToken = message.resume_token;
        failures = 0;
      }
      return;
    } catch (error) {
      if (error.code === grpc.status.OUT_OF_RANGE && resumeToken) {
        resumeToken = ''; // too old: start over with a snapshot
      } else if (error.code === grpc.status.UNAVAILABLE) {
        failures += 1;
        await pause(error, failures);
      } else {
        throw error;
      }
    } finally {
      call.cancel(); // leaving the loop early does not do it
    }
  }
}

async function generate(client, prompt) {
  const { name } = await create(client, prompt);
  console.log(name);
  let task;
  for await (task of watch(client, name)) {
    console.log(task.revision.padStart(4), task.state, ...(task.error ? [task.error.message] : []));
  }
  for (const { uri, sha256 } of task.artifacts) {
    console.log(uri);
    console.log(`sha256 ${sha256.toString('hex')}`);
  }
  return task.state === 'SUCCEEDED';
}

function commandLine() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { server: { type: 'string', default: '127.0.0.1:50051' } },
    });
    if (positionals.length === 1) return { server: values.server, prompt: positionals[0] };
    console.error(USAGE);
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
  }
  return process.exit(2);
}

const { server, prompt } = commandLine();
const client = new VideoTaskService(server, grpc.credentials.createInsecure(), {
  'grpc.keepalive_time_ms': 30_000, // notices a connection that died silently; the server disconnects at 10 s and less
  'grpc.keepalive_timeout_ms': 10_000,
});
try {
  if (!(await generate(client, prompt))) process.exitCode = 1;
} catch (error) {
  if (!(error.code in grpc.status)) throw error;
  console.error(explain(error));
  process.exitCode = 1;
} finally {
  client.close();
}
