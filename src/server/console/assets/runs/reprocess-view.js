// Owns the view of a new run: the history of a job, the range that is chosen, and the statement that plans the run.

import { el, setText } from "../page/dom.js";
import { items } from "../page/items.js";
import { problem } from "../page/notices.js";
import { StatementRun } from "../page/statement-run.js";
import { hasRun, reprocessStatement } from "../pure/reprocess.js";
import { path } from "../pure/route.js";
import { newRunId } from "../pure/runs.js";
import { get } from "../server/api.js";
import { lookAtRuns } from "../server/runs-feed.js";
import { JobHistory } from "./job-history.js";
import { OrderForm } from "./order-form.js";
import { beginWork, workOf } from "./run-work.js";

/** @import { View } from "../page/view.js" */
/** @import { Job, Run } from "../pure/wire.js" */
/** @import { RunWork } from "./run-work.js" */

/** The most rows of a preview. */
const ROWS = 1_000;

/**
 * @param {HTMLElement} root
 * @param {string | null} job the one that is chosen at first
 * @param {(sql: string) => void} openQuery opens the editor with a statement
 * @returns {View}
 */
export function reprocessView(root, job, openQuery) {
  const form = new OrderForm(show);
  const history = new JobHistory((range) => form.setRange(range));
  const preview = new StatementRun();
  const sql = el("pre", { class: "code", tabindex: "0", "aria-label": "The statement", "aria-live": "off" });
  const missing = el("p", { class: "summary", role: "status" });
  const result = el("section", { class: "result", "aria-label": "Result" });
  const explain = el("button", { type: "button", text: "Preview", on: { click: startPreview } });
  const plan = el("button", { type: "button", class: "primary", text: "Plan", on: { click: startPlan } });
  const open = el("button", { type: "button", text: "Open in the editor", on: { click: openEditor } });
  const cancel = el("button", { type: "button", text: "Cancel", hidden: true, on: { click: () => stop() } });
  /** @type {{ id: string, work: RunWork } | null} the run that is being planned here */
  let planning = null;
  /** @type {Run[]} */
  let runs = [];

  root.append(
    el("p", { class: "crumb" }, el("a", { href: "#/runs", text: "Runs" })),
    el("div", { class: "heading" }, el("h1", { text: "New run" })),
    el("p", { class: "summary", text:
      "A run computes a part of a job's past again. A plan compares it with the published rows, and writes nothing." }),
    form.jobNode, history.node, form.node,
    el("h2", { text: "Statement" }), sql, missing,
    el("div", { class: "bar" }, el("div", { class: "buttons" }, plan, explain, open, cancel)),
    result);
  form.onJob(choose);
  show();

  /**
   * @param {string} name
   * @returns {void}
   */
  function choose(name) {
    form.setId(name === "" ? "" : newRunId(name, new Date().toISOString()));
    history.choose(name, runs);
    show();
  }

  /** @returns {void} */
  function show() {
    const made = reprocessStatement(form.order, "PLAN");
    const isBusy = preview.isRunning || Boolean(planning?.work.isRunning);
    sql.hidden = made.sql === null;
    setText(sql, made.sql ?? "");
    setText(missing, made.missing ?? "");
    for (const button of [explain, plan]) button.disabled = made.sql === null || isBusy;
    open.disabled = made.sql === null;
    cancel.hidden = !isBusy;
    history.select(form.range);
  }

  /** @returns {void} */
  function openEditor() {
    const { sql: made } = reprocessStatement(form.order, "PLAN");
    if (made !== null) openQuery(made);
  }

  /** @returns {Promise<void>} */
  async function startPreview() {
    const made = reprocessStatement(form.order, "EXPLAIN");
    if (made.sql === null) return;
    result.replaceChildren(el("p", { class: "empty", text: "reading…" }));
    const running = preview.run(made.sql, ROWS);
    show();
    try {
      const answer = await running;
      const warnings = (answer?.warnings ?? []).map((warning) => el("p", { class: "note", text: warning }));
      result.replaceChildren(el("h2", { text: "What the run would do" }), ...warnings,
        answer ? items(answer) : el("p", { class: "empty", text: "nothing" }));
    } catch (error) {
      result.replaceChildren(problem(error));
    }
    show();
  }

  /** @returns {void} */
  function startPlan() {
    const { order } = form;
    const id = order.run_id === "" ? newRunId(order.job, new Date().toISOString()) : order.run_id;
    const made = reprocessStatement({ ...order, run_id: id }, "PLAN");
    if (made.sql === null) return;
    result.replaceChildren(el("p", { class: "empty", text: "The rows are computed and compared." }));
    planning = { id, work: beginWork(id, "planning", made.sql, ended) };
    show();
  }

  /**
   * A plan has ended, perhaps while another view is shown.
   *
   * @returns {void}
   */
  function ended() {
    const work = planning ? workOf(planning.id) : null;
    if (!planning || !work || !root.contains(result)) return;
    if (work.error) result.replaceChildren(problem(work.error));
    else if (work.answer && !hasRun(work.answer)) result.replaceChildren(items(work.answer));
    else location.hash = `#/runs${path(planning.id)}`;
    show();
  }

  /** @returns {void} */
  function stop() {
    if (preview.isRunning) preview.cancel();
    else planning?.work.cancel();
  }

  return {
    async refresh() {
      const [{ jobs }, all] = await Promise.all([get("/jobs"), lookAtRuns()]);
      const isFirst = form.order.job === "";
      runs = all;
      form.offer(jobs.map((/** @type {Job} */ one) => one.job), job);
      if (isFirst && form.order.job !== "") choose(form.order.job);
      history.showRuns(runs);
      const run = planning ? all.find((one) => one.run_id === planning?.id) : null;
      if (run && planning?.work.isRunning) {
        result.replaceChildren(el("p", {},
          el("a", { href: `#/runs${path(run.run_id)}`, text: run.run_id }), " is being planned."));
      }
    },
  };
}
