// Owns the actions on a job: pause, resume and rewind. Each asks first.

import { confirm } from "../page/dialog.js";
import { el, setText } from "../page/dom.js";
import { announce } from "../page/notices.js";
import { count } from "../pure/format.js";
import { canResume } from "../pure/job-state.js";
import { path } from "../pure/route.js";
import { post } from "../server/api.js";
import { rewindQuestion } from "./rewind-question.js";

/** @import { Question } from "../page/dialog.js" */
/** @import { Job } from "../pure/wire.js" */

/**
 * The buttons of a job. `show` makes them those of its state; without a job they are disabled.
 *
 * @param {string} name
 * @param {string} below the address of the job
 * @param {() => void} again refreshes the view at once
 * @returns {{ node: HTMLElement, show: (job: Job | null) => void }}
 */
export function jobActions(name, below, again) {
  /** @type {Job | null} */
  let current = null;
  const toggle = el("button", { type: "button", text: "Pause", on: { click: pauseOrResume } });
  const rewind = el("button", { type: "button", text: "Rewind…", on: { click: askRewind } });

  /**
   * @param {string} action
   * @param {object} body
   * @returns {Promise<string>} what the server said
   */
  async function act(action, body = {}) {
    const { said } = await post(`${below}/${action}`, body);
    return said || "done";
  }

  /**
   * @param {Question<string>} question
   * @returns {Promise<void>}
   */
  async function ask(question) {
    const said = await confirm(question);
    if (said) announce(said);
    again();
  }

  /** @returns {void} */
  function pauseOrResume() {
    if (!current) return;
    if (canResume(current.state)) ask(resumeQuestion(name, current, () => act("resume")));
    else ask(pauseQuestion(name, () => act("pause")));
  }

  /** @returns {void} */
  function askRewind() {
    if (current) ask(rewindQuestion(name, current.batch, (batch) => act("rewind", { batch })));
  }

  return {
    node: el("div", { class: "buttons" }, toggle, rewind,
      el("a", { class: "button", href: `#/reprocess${path(name)}`, text: "Reprocess…" })),
    show(job) {
      current = job;
      toggle.disabled = !job;
      rewind.disabled = !job || job.batch === 0;
      if (job) setText(toggle, canResume(job.state) ? "Resume" : "Pause");
    },
  };
}

/**
 * @param {string} name
 * @param {Job} job
 * @param {() => Promise<string>} act
 * @returns {Question<string>}
 */
function resumeQuestion(name, job, act) {
  const text = [`It continues after batch ${count(job.batch)}, where it stands.`];
  if (job.state === "FAILED") text.push("It fails again if the cause is not fixed.");
  return { title: `Resume job ${name}?`, text, action: "Resume job", act };
}

/**
 * @param {string} name
 * @param {() => Promise<string>} act
 * @returns {Question<string>}
 */
function pauseQuestion(name, act) {
  return {
    title: `Pause job ${name}?`,
    text: [
      "It stops after the current batch, and reads and writes nothing until it is resumed.",
      "Nothing is lost: it continues where it stands.",
    ],
    action: "Pause job",
    act,
  };
}
