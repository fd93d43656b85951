// Owns the list of names that the editor offers while a statement is typed.

import { optionsFor, wantedAt } from "../pure/completion.js";
import { quoted } from "../pure/statement.js";
import { namesFor } from "../server/names.js";

/** @import { CompletionContext, CompletionResult } from "../vendor/codemirror.js" */

/**
 * The names that may stand where the user types; none where nothing was typed, unless the user asks for them.
 *
 * @param {CompletionContext} context
 * @returns {Promise<CompletionResult | null>}
 */
export async function complete({ state, pos, explicit }) {
  const wanted = wantedAt(state.doc.toString(), pos);
  if (!wanted || (wanted.typed === "" && !explicit && !isOwned(wanted.place))) return null;
  const options = optionsFor(wanted, await namesFor(wanted));
  const isQuoted = wanted.typed.startsWith('"');
  return {
    from: wanted.start,
    // A name that begins with a quote is compared with names in quotes.
    options: isQuoted ? options.map((option) => ({ ...option, label: quoted(option.label) })) : options,
    validFor: isQuoted ? /^"[^"]*$/ : /^[\p{L}_][\p{L}\p{N}_]*$/u,
  };
}

/**
 * Whether the place is behind a point: then there are few names, and each is offered at once.
 *
 * @param {string} place
 * @returns {boolean}
 */
function isOwned(place) {
  return place === "column" || place === "system";
}
