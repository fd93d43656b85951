// Owns the mark at the part of a text that is wrong, and at the number of its line, until the text changes.

import {
  Decoration, EditorView, gutterLineClass, GutterMarker, RangeSet, StateEffect, StateField,
} from "../vendor/codemirror.js";

/** @import { EditorState, Extension, StateEffectType, TransactionSpec } from "../vendor/codemirror.js" */
/** @import { Part } from "../pure/place.js" */

/** @typedef {{ from: number, to: number }} Wrong */

/** A marker that only gives the line number its class. */
class WrongLine extends GutterMarker {
  /** @override */
  elementClass = "wrong";
}

const WRONG_LINE = new WrongLine();
const WRONG_PART = Decoration.mark({ class: "wrong-part" });

/** @type {StateEffectType<Wrong | null>} */
const setWrong = StateEffect.define();

/** @type {StateField<Wrong | null>} */
const wrongPart = StateField.define({
  create: () => /** @type {Wrong | null} */ (null),
  update(part, transaction) {
    const set = transaction.effects.find((effect) => effect.is(setWrong));
    if (set) return set.value;
    return transaction.docChanged ? null : part;
  },
  provide: (field) => [
    EditorView.decorations.from(field, (part) =>
      part ? Decoration.set(WRONG_PART.range(part.from, part.to)) : Decoration.none),
    gutterLineClass.compute([field], (state) => {
      const part = state.field(field);
      return part ? RangeSet.of(WRONG_LINE.range(state.doc.lineAt(part.from).from)) : RangeSet.empty;
    }),
  ],
});

/**
 * @returns {Extension}
 */
export function wrongMark() {
  return wrongPart;
}

/**
 * The change that marks a part, or removes the mark.
 *
 * @param {EditorState} state
 * @param {Part | null} part
 * @returns {TransactionSpec}
 */
export function showWrong({ doc }, part) {
  const from = part ? Math.min(part.start, doc.length) : 0;
  const to = part ? Math.min(part.end, doc.length) : 0;
  return { effects: setWrong.of(from < to ? { from, to } : null) };
}
