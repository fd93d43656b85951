// All jobs.

import { path } from "./api.js";
import { el, keyed, setAttribute, setText } from "./dom.js";
import { ago, count, plural, rate, time } from "./format.js";
import { advice, lag, lookAtJobs } from "./live.js";

const COLUMNS = [
  ["state", "State"], ["rate", "Rows read"], ["lag", "Behind"], ["watermark", "Watermark (UTC)"], ["batch", "Last batch"],
];

/** The view. */
export function jobsView(root) {
  const summary = el("p", { class: "summary" });
  const body = el("tbody");
  const head = el("tr", {}, el("th", { scope: "col", text: "Job" }),
    ...COLUMNS.map(([name, text]) => el("th", { scope: "col", class: name, text })));
  const table = el("table", { class: "jobs", hidden: true }, el("thead", {}, head), body);
  const none = el("p", { class: "empty", hidden: true, text: "There are no jobs. CREATE JOB makes one: in a file of the server, by a client, or in a query here." });
  root.append(el("div", { class: "heading" }, el("h1", { text: "Jobs" }), summary), table, none);
  return {
    async refresh() {
      const { now, jobs } = await lookAtJobs();
      table.hidden = jobs.length === 0;
      none.hidden = jobs.length > 0;
      const failed = jobs.filter((job) => job.state === "FAILED").length;
      setText(summary, jobs.length === 0 ? "" : plural(jobs.length, "job") + (failed ? `, ${count(failed)} failed` : ""));
      keyed(body, jobs, (job) => job.job, makeRow, (row, job) => fillRow(row, job, now));
    },
  };
}

function makeRow(job) {
  const cells = COLUMNS.map(([name, text]) => el("td", { class: name, "data-label": text }));
  cells[0].append(badge(job.state));
  return el("tr", {},
    el("th", { scope: "row" },
      el("a", { href: `#/jobs${path(job.job)}`, text: job.job }),
      el("p", { class: "reason" }), el("p", { class: "advice" })),
    ...cells);
}

function fillRow(row, job, now) {
  const cells = Object.fromEntries([...row.querySelectorAll("td")].map((cell) => [cell.className, cell]));
  setBadge(cells.state.firstElementChild, job.state);
  setText(row.querySelector(".reason"), job.reason ?? "");
  setText(row.querySelector(".advice"), job.state === "PAUSED" ? "" : advice(job.state));
  setText(cells.rate, rate(job.rate));
  setText(cells.lag, count(lag(job)));
  setText(cells.watermark, time(job.here?.watermark));
  setText(cells.batch, job.committed_at ? `${count(job.batch)}, ${ago(job.committed_at, now)}` : "none yet");
}

/** The state of a job: a word with a colour. */
export function badge(state) {
  const made = el("span", { class: "badge" });
  setBadge(made, state);
  return made;
}

/** Changes it. */
export function setBadge(of, state) {
  setText(of, state);
  setAttribute(of, "data-state", state);
}
