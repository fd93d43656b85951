// Owns the view of one run: its state and progress, its plan, its changes, and what can be done with it.

import { badge, setBadge } from "../page/badge.js";
import { el, keyed, setAttribute, setText, within } from "../page/dom.js";
import { items } from "../page/items.js";
import { lazyPart } from "../page/lazy-part.js";
import { count, NONE, plural, time } from "../pure/format.js";
import { path } from "../pure/route.js";
import { progress, runAdvice } from "../pure/runs.js";
import { lookAtRuns } from "../server/runs-feed.js";
import { runActions } from "./run-actions.js";
import { runChanges } from "./run-changes.js";

/** @import { View } from "../page/view.js" */
/** @import { Run } from "../pure/wire.js" */

/**
 * @param {HTMLElement} root
 * @param {string} runId
 * @param {() => void} again refreshes the view at once
 * @returns {View}
 */
export function runView(root, runId, again) {
  const state = badge("");
  state.setAttribute("aria-live", "polite");
  const actions = runActions(runId, again);
  const note = el("div", { class: "note", hidden: true });
  const bar = el("progress", { max: "1", "aria-label": "Progress" });
  const done = el("span", { class: "summary" });
  const facts = el("dl", { class: "facts" });
  const changes = runChanges(runId, again);
  const plan = lazyPart("Plan", `/runs${path(runId)}`, again, items);
  const gone = el("p", { class: "empty", hidden: true, text: "There is no run of this name yet." });
  const all = el("div", { hidden: true },
    note, el("div", { class: "bar" }, bar, done), facts, changes.node, plan.node);
  root.append(
    el("p", { class: "crumb" }, el("a", { href: "#/runs", text: "Runs" })),
    el("div", { class: "heading" }, el("h1", { text: runId }), state, actions.buttons),
    actions.said, gone, all);

  /**
   * @param {Run} run
   * @returns {void}
   */
  function fill(run) {
    setBadge(state, run.state);
    const said = [run.reason ?? "", runAdvice(run.state)].filter(Boolean);
    note.hidden = said.length === 0;
    note.dataset.state = run.state;
    keyed(note, said, (line) => line, (line) => el("p", { text: line }), () => {});
    const part = progress(run);
    setAttribute(bar, "value", part);
    setText(done, doneText(run, part));
    keyed(facts, factsOf(run), ([title]) => title,
      ([title]) => el("div", {}, el("dt", { text: title }), el("dd")),
      (fact, [, value]) => setText(within(fact, "dd"), value));
  }

  return {
    async refresh() {
      const run = (await lookAtRuns()).find((one) => one.run_id === runId) ?? null;
      all.hidden = !run;
      gone.hidden = Boolean(run);
      actions.show(run);
      if (!run) {
        setBadge(state, "");
        return;
      }
      fill(run);
      await Promise.all([changes.load(run), plan.load(`${run.state}/${run.chunks}/${run.changed}`)]);
    },
  };
}

/**
 * @param {Run} run
 * @param {number | null} part
 * @returns {string}
 */
function doneText({ state, chunks, chunks_compared, position }, part) {
  const all = [];
  const isPlan = state === "PLANNING" || state === "PLANNED";
  if (part !== null) all.push(`${Math.floor(part * 100)} % ${isPlan ? "compared" : "written"}`);
  const number = (isPlan ? chunks_compared : chunks) ?? 0;
  all.push(plural(number, "chunk"));
  if (position && number > 0) all.push(`the last is ${position}`);
  return all.join(", ");
}

/**
 * The title and the text of each fact.
 *
 * @param {Run} run
 * @returns {[string, string][]}
 */
function factsOf(run) {
  const compared = run.same === null ? NONE : `${count(run.same)} same, ${count(run.changed)} changed, ` +
    `${count(run.new)} new, ${count(run.gone)} gone, ${count(run.unknown)} unknown`;
  const written = run.chunks ? `${count(run.rows_out)} written, ${plural(run.rows_in ?? 0, "record")} read` : NONE;
  return [
    ["Job", run.job ?? NONE],
    ["Publishes", run.emit === "CHANGED" ? "changed and new rows" : run.emit === "ALL" ? "all rows" : NONE],
    ["Planned at (UTC)", time(run.created_at?.slice(0, 19))],
    ["In this state since", time(run.since?.slice(0, 19))],
    ["Asked for", run.asked ?? NONE],
    ["Reads", run.reads ?? NONE],
    ["Emits", run.emits ?? NONE],
    ["Version of the SQL", run.sql_version ?? NONE],
    ["Rows compared", compared],
    ["Rows in the sink", written],
    ["Process", run.owner ?? NONE],
    ["Last heartbeat (UTC)", time(run.heartbeat_at?.slice(0, 19))],
  ];
}
