// Owns the list of all runs.

import { badge, setBadge } from "../page/badge.js";
import { el, keyed, setText, within } from "../page/dom.js";
import { count, NONE, plural, time } from "../pure/format.js";
import { path } from "../pure/route.js";
import { progress } from "../pure/runs.js";
import { lookAtRuns } from "../server/runs-feed.js";

/** @import { View } from "../page/view.js" */
/** @import { Run } from "../pure/wire.js" */

/** The class and the title of each column. */
const COLUMNS = [
  ["job", "Job"], ["state", "State"], ["done", "Done"], ["changed", "Changed"], ["new", "New"], ["gone", "Gone"],
  ["created", "Planned at (UTC)"],
];
const NO_RUNS = "There are no runs. A run computes a part of a job's past again, and publishes what differs.";

/**
 * @param {HTMLElement} root
 * @returns {View}
 */
export function runsView(root) {
  const summary = el("p", { class: "summary" });
  const body = el("tbody");
  const head = el("tr", {}, el("th", { scope: "col", text: "Run" }),
    ...COLUMNS.map(([name, text]) => el("th", { scope: "col", class: name, text })));
  const table = el("table", { class: "jobs", hidden: true }, el("thead", {}, head), body);
  const none = el("p", { class: "empty", hidden: true, text: NO_RUNS });
  root.append(
    el("div", { class: "heading" }, el("h1", { text: "Runs" }), summary,
      el("div", { class: "buttons" }, el("a", { class: "button primary", href: "#/reprocess", text: "New run…" }))),
    table, none);
  return {
    async refresh() {
      const runs = await lookAtRuns();
      table.hidden = runs.length === 0;
      none.hidden = runs.length > 0;
      setText(summary, runs.length ? plural(runs.length, "run") : "");
      keyed(body, runs, (run) => run.run_id, makeRow, fillRow);
    },
  };
}

/**
 * @param {Run} run
 * @returns {HTMLElement}
 */
function makeRow(run) {
  const cells = COLUMNS.map(([name, text]) => el("td", { class: name, "data-label": text }));
  cells[1].append(badge(run.state));
  return el("tr", {},
    el("th", { scope: "row" },
      el("a", { href: `#/runs${path(run.run_id)}`, text: run.run_id }),
      el("p", { class: "reason" }), el("p", { class: "advice" })),
    ...cells);
}

/**
 * @param {HTMLElement} row
 * @param {Run} run
 * @returns {void}
 */
function fillRow(row, run) {
  const done = progress(run);
  setText(within(row, "td.job"), run.job ?? NONE);
  setBadge(within(row, ".badge"), run.state);
  setText(within(row, ".reason"), run.reason ?? "");
  setText(within(row, ".advice"), run.asked ?? "");
  setText(within(row, "td.done"), done === null ? plural(run.chunks ?? 0, "chunk") : `${Math.floor(done * 100)} %`);
  for (const kind of /** @type {const} */ (["changed", "new", "gone"])) {
    setText(within(row, `td.${kind}`), count(run[kind]));
  }
  setText(within(row, "td.created"), time(run.created_at?.slice(0, 19)));
}
