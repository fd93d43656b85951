// Owns the state of the jobs from the last request, and their speed.

import { Rates } from "../pure/rates.js";
import { get } from "./api.js";

/** @import { Job } from "../pure/wire.js" */

/** @typedef {Job & { rate: number | null }} SeenJob a job with its rows per second, if that is known */

const rates = new Rates();

/**
 * Looks at all jobs. `now` is the server's clock.
 *
 * @returns {Promise<{ now: string, jobs: SeenJob[] }>}
 */
export async function lookAtJobs() {
  /** @type {{ now: string, jobs: Job[] }} */
  const { now, jobs } = await get("/jobs");
  const seen = jobs.map((job) => ({ ...job, rate: rates.sample(job, Date.parse(now)) }));
  rates.keepOnly(new Set(jobs.map((job) => job.job)));
  return { now, jobs: seen };
}
