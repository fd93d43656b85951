// Owns the question before a rewind: to which batch, and the name of the job to confirm it.

import { el, setText } from "../page/dom.js";
import { consequence } from "../pure/rewind.js";

/** @import { Question } from "../page/dialog.js" */

const EFFECT =
  "State and offsets become those of after the batch. A Delta table loses the rows of the batches behind it, in one " +
  "commit; what was published to a topic stays there.";

/**
 * @param {string} name of the job
 * @param {number} newest its newest batch
 * @param {(batch: number) => Promise<string>} act
 * @returns {Question<string>}
 */
export function rewindQuestion(name, newest, act) {
  const number = el("input", {
    id: "rewind-batch", type: "number", inputmode: "numeric", min: "0", max: String(newest), step: "1", required: true,
    value: String(Math.max(0, newest - 1)), "aria-describedby": "rewind-what",
  });
  const typed = el("input", { id: "rewind-name", autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
  const what = el("p", { id: "rewind-what", class: "consequence", "aria-live": "polite" });
  const isNumber = () => number.value !== "" && number.checkValidity();
  const say = () => setText(what, consequence(isNumber() ? Number(number.value) : null, newest));
  number.addEventListener("input", say);
  say();
  return {
    title: `Rewind job ${name}?`,
    text: [EFFECT],
    fields: [
      el("label", { for: "rewind-batch", text: "To batch" }), number, what,
      el("label", { for: "rewind-name", text: `Type ${name} to confirm` }), typed,
    ],
    action: "Rewind job",
    isDangerous: true,
    isReady: () => isNumber() && typed.value === name,
    act: () => act(Number(number.value)),
  };
}
