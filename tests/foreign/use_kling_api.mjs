// Orders a video with npm's kling-api, waits for it, and asks what is left on the account.
// Usage: node use_kling_api.mjs <base URL> <order as JSON>; prints one JSON object.
// Keys come from KLING_ACCESS_KEY and KLING_SECRET_KEY.
import { KlingAPI, KlingAPIError } from "kling-api";

const [baseUrl, order] = process.argv.slice(2);
const client = new KlingAPI({ baseUrl });
const outcome = {};
try {
  const task = await client.textToVideo(JSON.parse(order));
  outcome.created = task.data;
  const done = await client.waitForVideoResult(task.data.task_id, undefined, {
    interval: 100,
    timeout: 30_000,
    showSpinner: false,
  });
  outcome.result = done.data;
  outcome.account = (await client.getAccountInfo(Date.now() - 60_000, Date.now())).data;
} catch (error) {
  if (!(error instanceof KlingAPIError)) throw error;
  outcome.error = { code: error.code, message: error.message };
}
console.log(JSON.stringify(outcome));
