// A client of kling-flows: makes videos, watches them through disconnects, lists and downloads them.

import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';

import { connect, credentials, explain, isServiceError, retry } from './client.js';
import { download } from './download.js';
import type { ListVideoTasksResponse__Output } from './gen/kling_flows/v1/ListVideoTasksResponse.js';
import type { VideoTask__Output } from './gen/kling_flows/v1/VideoTask.js';
import type { VideoTaskServiceClient } from './gen/kling_flows/v1/VideoTaskService.js';
import { watch } from './watch.js';

const USAGE = `usage: node dist/main.js COMMAND [--server HOST:PORT] [--ca FILE]
  create [--request-id ID] [--label KEY=VALUE]... [--attempts N] PROMPT
  watch [--label KEY=VALUE]... [--tasks N] [NAME...]
  list [--label KEY=VALUE]... [--page-size N]
  download NAME FILE
The environment variable KLING_FLOWS_TOKEN holds the bearer token, KLING_FLOWS_SERVER_CA a default of --ca.`;

class UsageError extends Error {}

function commandLine(): { command: string; rest: string[]; values: ReturnType<typeof parse>['values'] } {
  try {
    const { values, positionals } = parse();
    const [command, ...rest] = positionals;
    if (command === undefined) throw new UsageError('no command');
    return { command, rest, values };
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function parse() {
  return parseArgs({
    allowPositionals: true,
    options: {
      server: { type: 'string', default: '127.0.0.1:50051' },
      ca: { type: 'string', default: process.env['KLING_FLOWS_SERVER_CA'] ?? '' },
      label: { type: 'string', multiple: true, default: [] },
      'request-id': { type: 'string', default: randomUUID() },
      attempts: { type: 'string', default: '5' },
      tasks: { type: 'string', default: '0' },
      'page-size': { type: 'string', default: '100' },
    },
  });
}

function labelsOf(pairs: string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const [, key, value] = /^([^=]+)=(.*)$/s.exec(pair) ?? [];
      if (key === undefined || value === undefined) throw new UsageError(`${pair} is not KEY=VALUE`);
      return [key, value];
    }),
  );
}

function filterOf(labels: Record<string, string>): string {
  return Object.entries(labels)
    .map(([key, value]) => `labels.${key} = "${value.replace(/["\\]/g, '\\$&')}"`)
    .join(' AND ');
}

function numberOf(text: string, name: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new UsageError(`--${name} is not a number`);
  return Number(text);
}

function show({ name, revision, state, error }: VideoTask__Output): void {
  console.log(`${name} ${revision} ${state}${error?.message ? `: ${error.message}` : ''}`);
}

/** Creates the task once, however often the request has to be sent: the server knows it by its request id. */
async function create(
  client: VideoTaskServiceClient,
  prompt: string,
  labels: Record<string, string>,
  requestId: string,
  attempts: number,
): Promise<void> {
  // Names that the .proto files do not know would be dropped without a word; these are checked by their types.
  const request = { video_task: { text_to_video: { prompt }, labels }, request_id: requestId };
  const task = await retry<VideoTask__Output>(attempts, (options, done) =>
    client.createVideoTask(request, credentials(), options, done),
  );
  console.log(task.name);
}

/** Prints all tasks, the newest first, page by page. */
async function list(client: VideoTaskServiceClient, filter: string, pageSize: number): Promise<void> {
  let pageToken = '';
  do {
    const request = { filter, page_size: pageSize, page_token: pageToken, view: 'BASIC' } as const;
    const page = await retry<ListVideoTasksResponse__Output>(5, (options, done) =>
      client.listVideoTasks(request, credentials(), options, done),
    );
    page.video_tasks.forEach(show);
    pageToken = page.next_page_token;
  } while (pageToken);
}

async function run(): Promise<void> {
  const { command, rest, values } = commandLine();
  const labels = labelsOf(values.label);
  const client = connect(values.server, values.ca);
  try {
    const [first, second] = rest;
    if (command === 'create' && first !== undefined && rest.length === 1) {
      await create(client, first, labels, values['request-id'], numberOf(values.attempts, 'attempts'));
    } else if (command === 'watch' && (rest.length === 0 || (values.label.length === 0 && values.tasks === '0'))) {
      const watched = { names: rest, filter: filterOf(labels), enough: numberOf(values.tasks, 'tasks') };
      console.error(await watch(client, watched, show));
    } else if (command === 'list' && rest.length === 0) {
      await list(client, filterOf(labels), numberOf(values['page-size'], 'page-size'));
    } else if (command === 'download' && first !== undefined && second !== undefined && rest.length === 2) {
      console.log(`${await download(client, first, second)}  ${second}`);
    } else {
      throw new UsageError(`${command}: wrong arguments`);
    }
  } finally {
    client.close();
  }
}

try {
  await run();
} catch (error) {
  if (error instanceof UsageError) {
    console.error(`${error.message}\n${USAGE}`);
    process.exitCode = 2;
  } else {
    console.error(isServiceError(error) ? explain(error) : error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
}
