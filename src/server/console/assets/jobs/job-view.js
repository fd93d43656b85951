// Owns the view of one job: puts its parts together and refreshes them.

import { badge, setBadge } from "../page/badge.js";
import { el, keyed } from "../page/dom.js";
import { lazyPart } from "../page/lazy-part.js";
import { resultTable } from "../page/result-table.js";
import { setAsideRows } from "../pure/batches.js";
import { advice } from "../pure/job-state.js";
import { path } from "../pure/route.js";
import { lookAtJobs } from "../server/jobs-feed.js";
import { jobActions } from "./job-actions.js";
import { jobBatches } from "./job-batches.js";
import { jobFacts } from "./job-facts.js";

/** @import { View } from "../page/view.js" */
/** @import { Rows } from "../pure/wire.js" */
/** @import { SeenJob } from "../server/jobs-feed.js" */

/**
 * @param {HTMLElement} root
 * @param {string} name of the job
 * @param {() => void} again refreshes the view at once
 * @returns {View}
 */
export function jobView(root, name, again) {
  const below = `/jobs${path(name)}`;
  const state = badge("");
  // A job that fails while the user looks at it is announced.
  state.setAttribute("aria-live", "polite");
  const actions = jobActions(name, below, again);
  const note = el("div", { class: "note", hidden: true });
  const facts = jobFacts();
  const batches = jobBatches(below);
  const parts = [
    lazyPart("Partitions", `${below}/partitions`, again,
      (/** @type {Rows} */ found) => resultTable(found, { label: "Partitions", hasTypes: false })),
    lazyPart("Late rows", `${below}/late-rows`, again,
      (/** @type {Rows} */ found) => setAside(found, "late row")),
    lazyPart("Dead letters", `${below}/dead-letters`, again,
      (/** @type {Rows} */ found) => setAside(found, "dead letter")),
    lazyPart("Definition", `${below}/definition`, again,
      (/** @type {{ definition: string }} */ { definition }) =>
        el("pre", { class: "code", tabindex: "0", text: definition })),
  ];
  const gone = el("p", { class: "empty", hidden: true, text: "The job no longer exists." });
  const all = el("div", {}, note, facts.node, batches.node, ...parts.map((part) => part.node));
  root.append(
    el("p", { class: "crumb" }, el("a", { href: "#/jobs", text: "Jobs" })),
    el("div", { class: "heading" }, el("h1", { text: name }), state, actions.node),
    gone, all);

  /**
   * @param {SeenJob} job
   * @param {string} now
   * @returns {void}
   */
  function fill(job, now) {
    setBadge(state, job.state);
    const said = [job.reason ?? "", advice(job.state)].filter(Boolean);
    note.hidden = said.length === 0;
    note.dataset.state = job.state;
    keyed(note, said, (line) => line, (line) => el("p", { text: line }), () => {});
    facts.fill(job, batches.all(), now);
  }

  return {
    async refresh() {
      const { now, jobs } = await lookAtJobs();
      const job = jobs.find((one) => one.job === name) ?? null;
      all.hidden = !job;
      gone.hidden = Boolean(job);
      actions.show(job);
      if (!job) {
        setBadge(state, "");
        return;
      }
      fill(job, now);
      const mark = `${job.generation}/${job.batch}`;
      await Promise.all([batches, ...parts].map((part) => part.load(mark)));
      fill(job, now);
    },
  };
}

/**
 * The rows that a job has set aside.
 *
 * @param {Rows} found
 * @param {string} what one of them is
 * @returns {HTMLElement}
 */
function setAside(found, what) {
  if (found.rows.length === 0) return el("p", { class: "empty", text: `There is no ${what}.` });
  const { summary, shown } = setAsideRows(found, what);
  return el("div", {},
    el("p", { class: "summary", text: summary }), resultTable(shown, { label: `${what}s`, showsBytes: true }));
}
