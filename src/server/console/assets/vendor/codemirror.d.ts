// Owns the list of what the console uses of CodeMirror: README.md says how codemirror.js is made from it.

export { autocompletion, closeCompletion, completionKeymap } from "@codemirror/autocomplete";
export { history, historyKeymap, standardKeymap, toggleComment } from "@codemirror/commands";
export { bracketMatching, HighlightStyle, StreamLanguage, syntaxHighlighting } from "@codemirror/language";
export { EditorState, RangeSet, StateEffect, StateField } from "@codemirror/state";
export { Decoration, EditorView, gutterLineClass, GutterMarker, keymap, lineNumbers } from "@codemirror/view";
export { tags } from "@lezer/highlight";

export type { CompletionContext, CompletionResult } from "@codemirror/autocomplete";
export type { StreamParser } from "@codemirror/language";
export type { Extension, StateEffectType, TransactionSpec } from "@codemirror/state";
