// Owns the list of all jobs.

import { badge, setBadge } from "../page/badge.js";
import { el, keyed, setText, within } from "../page/dom.js";
import { ago, count, plural, rate, time } from "../pure/format.js";
import { advice, lag } from "../pure/job-state.js";
import { path } from "../pure/route.js";
import { lookAtJobs } from "../server/jobs-feed.js";

/** @import { SeenJob } from "../server/jobs-feed.js" */
/** @import { View } from "../page/view.js" */

/** The class and the title of each column. */
const COLUMNS = [
  ["state", "State"], ["rate", "Rows read"], ["lag", "Behind"], ["watermark", "Watermark (UTC)"],
  ["batch", "Last batch"],
];
const NO_JOBS = "There are no jobs. CREATE JOB makes one: in a file of the server, by a client, or in a query here.";

/**
 * @param {HTMLElement} root
 * @returns {View}
 */
export function jobsView(root) {
  const summary = el("p", { class: "summary" });
  const body = el("tbody");
  const head = el("tr", {}, el("th", { scope: "col", text: "Job" }),
    ...COLUMNS.map(([name, text]) => el("th", { scope: "col", class: name, text })));
  const table = el("table", { class: "jobs", hidden: true }, el("thead", {}, head), body);
  const none = el("p", { class: "empty", hidden: true, text: NO_JOBS });
  root.append(el("div", { class: "heading" }, el("h1", { text: "Jobs" }), summary), table, none);
  return {
    async refresh() {
      const { now, jobs } = await lookAtJobs();
      table.hidden = jobs.length === 0;
      none.hidden = jobs.length > 0;
      setText(summary, summaryOf(jobs));
      keyed(body, jobs, (job) => job.job, makeRow, (row, job) => fillRow(row, job, now));
    },
  };
}

/**
 * @param {SeenJob[]} jobs
 * @returns {string}
 */
function summaryOf(jobs) {
  if (jobs.length === 0) return "";
  const failed = jobs.filter((job) => job.state === "FAILED").length;
  return plural(jobs.length, "job") + (failed ? `, ${count(failed)} failed` : "");
}

/**
 * @param {SeenJob} job
 * @returns {HTMLElement}
 */
function makeRow(job) {
  const cells = COLUMNS.map(([name, text]) => el("td", { class: name, "data-label": text }));
  cells[0].append(badge(job.state));
  return el("tr", {},
    el("th", { scope: "row" },
      el("a", { href: `#/jobs${path(job.job)}`, text: job.job }),
      el("p", { class: "reason" }), el("p", { class: "advice" })),
    ...cells);
}

/**
 * @param {HTMLElement} row
 * @param {SeenJob} job
 * @param {string} now
 * @returns {void}
 */
function fillRow(row, job, now) {
  setBadge(within(row, ".badge"), job.state);
  setText(within(row, ".reason"), job.reason ?? "");
  setText(within(row, ".advice"), job.state === "PAUSED" ? "" : advice(job.state));
  setText(within(row, "td.rate"), rate(job.rate));
  setText(within(row, "td.lag"), count(lag(job)));
  setText(within(row, "td.watermark"), time(job.here?.watermark));
  const last = job.committed_at ? `${count(job.batch)}, ${ago(job.committed_at, now)}` : "none yet";
  setText(within(row, "td.batch"), last);
}
