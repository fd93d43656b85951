// Owns the actions on a run: apply, abort, and cancelling the statement that is at work. The first two ask first.

import { confirm } from "../page/dialog.js";
import { el, setText } from "../page/dom.js";
import { items } from "../page/items.js";
import { announce, problem } from "../page/notices.js";
import { StatementRun } from "../page/statement-run.js";
import { count } from "../pure/format.js";
import { isStatus } from "../pure/result.js";
import { canAbort, canApply } from "../pure/runs.js";
import { literal } from "../pure/statement.js";
import { beginWork, workOf } from "./run-work.js";

/** @import { Answer, Run } from "../pure/wire.js" */
/** @import { RunWork } from "./run-work.js" */

/**
 * The buttons of a run, and the place for what its statements have said. `show` makes them those of its state.
 *
 * @param {string} runId
 * @param {() => void} again refreshes the view at once
 * @returns {{ buttons: HTMLElement, said: HTMLElement, show: (run: Run | null) => void }}
 */
export function runActions(runId, again) {
  /** @type {Run | null} */
  let current = null;
  /** @type {RunWork | null} the statement whose end is shown */
  let shown = null;
  const apply = el("button", { type: "button", class: "primary", text: "Apply…", on: { click: askApply } });
  const abort = el("button", { type: "button", text: "Abort…", on: { click: askAbort } });
  const cancel = el("button", {
    type: "button", text: "Cancel the statement", hidden: true, on: { click: () => workOf(runId)?.cancel() },
  });
  const working = el("p", { class: "summary", role: "status", hidden: true });
  const ended = el("div", {});

  /** @returns {Promise<void>} */
  async function askApply() {
    if (!current) return;
    const isSure = await confirm({
      title: `Apply run ${runId}?`, text: applyText(current), action: "Apply run", act: async () => true,
    });
    if (!isSure) return;
    ended.replaceChildren();
    beginWork(runId, "applying", `APPLY RUN ${literal(runId)}`, again);
    again();
  }

  /** @returns {Promise<void>} */
  async function askAbort() {
    const answer = await confirm({
      title: `Abort run ${runId}?`,
      text: ["It is given up for good. Chunks that are in the sink stay there."],
      action: "Abort run", isDangerous: true, act: () => new StatementRun().run(`ABORT RUN ${literal(runId)}`, 1),
    });
    if (answer) ended.replaceChildren(answered(answer));
    again();
  }

  /** @returns {void} */
  function showWork() {
    const work = workOf(runId);
    const isRunning = work?.isRunning ?? false;
    cancel.hidden = !isRunning;
    working.hidden = !isRunning;
    if (work && isRunning) setText(working, `This page is ${work.what} the run.`);
    if (!work || isRunning || work === shown) return;
    shown = work;
    ended.replaceChildren(work.error ? problem(work.error) : answered(work.answer));
    announce(`${work.what} the run has ${work.error ? "failed" : "ended"}`, Boolean(work.error));
  }

  return {
    buttons: el("div", { class: "buttons" }, apply, abort, cancel),
    said: el("div", {}, working, ended),
    show(run) {
      current = run;
      showWork();
      const isRunning = workOf(runId)?.isRunning ?? false;
      apply.disabled = !run || isRunning || !canApply(run.state);
      abort.disabled = !run || !canAbort(run.state);
    },
  };
}

/**
 * @param {Run} run
 * @returns {string[]}
 */
function applyText(run) {
  if (run.state !== "PLANNED") {
    return ["It continues where it stands. Rows that are in the sink are not written again."];
  }
  const rows = run.emit === "CHANGED"
    ? `${count(run.changed)} changed, ${count(run.new)} new and ${count(run.unknown)} unknown rows are published.`
    : "All its rows are published, also those that are published as they are.";
  return [rows, "It is refused, with the difference, if what the plan rests on has moved since."];
}

/**
 * @param {Answer | null} answer
 * @returns {HTMLElement}
 */
function answered(answer) {
  if (!answer) return el("div", {});
  if (isStatus(answer)) return el("p", { class: "said", text: answer.rows.map(([line]) => String(line)).join("\n") });
  return el("div", {}, ...answer.warnings.map((warning) => el("p", { class: "note", text: warning })), items(answer));
}
