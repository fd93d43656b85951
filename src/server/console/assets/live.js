// The jobs as of the last look, and how fast they are.

import { get } from "./api.js";

/** Rates are those of about so many milliseconds. */
const WINDOW = 10_000;

/** Of each job: when it was looked at, and how many rows it had read by then. */
const samples = new Map();

/** Looks at all jobs: `{ now, jobs }`, each job with its `rate`, if it is known. */
export async function lookAtJobs() {
  const { now, jobs } = await get("/jobs");
  for (const job of jobs) job.rate = rateOf(job, Date.parse(now));
  const names = new Set(jobs.map((job) => job.job));
  for (const name of samples.keys()) if (!names.has(name)) samples.delete(name);
  return { now, jobs };
}

function rateOf({ job, state, here }, at) {
  if (!here || !isAtWork(state)) {
    samples.delete(job);
    return null;
  }
  let seen = samples.get(job) ?? [];
  const last = seen.at(-1);
  // It was begun anew.
  if (last && last.rows > here.rows_in) seen = [];
  if (!last || last.at < at) seen.push({ at, rows: here.rows_in });
  while (seen.length > 2 && at - seen[1].at >= WINDOW) seen.shift();
  samples.set(job, seen);
  const [first, newest] = [seen[0], seen.at(-1)];
  return newest.at > first.at ? ((newest.rows - first.rows) * 1000) / (newest.at - first.at) : null;
}

/** Whether what it says of itself is of now. */
export const isAtWork = (state) => state === "RUNNING" || state === "WAITING";

/** Records that are there and not read, if it is known. */
export const lag = ({ state, here }) => (here && isAtWork(state) ? here.lag : null);

const ADVICE = {
  WAITING: "It tries again by itself until that has passed.",
  PAUSED: "It goes on where it stands when it is resumed.",
  FAILED: "Mend the cause, then resume it. docs/jobs.md has what helps for each reason.",
  ACTIVE: "It is to run, and no process has given a sign of life for half a minute. If none runs it, start one with its files.",
};

/** What to do about the state of a job, if something is to be done. */
export const advice = (state) => ADVICE[state] ?? "";
