// Owns when the view is refreshed: every few seconds while the page is seen, and less often if that takes long.

/** Milliseconds between two refreshes. */
const EVERY = 2_000;
/** The pause after a refresh, as a multiple of the time that it took. */
const EASE = 5;

/**
 * What the loop works with. `later` calls a function after some milliseconds and gives a function that prevents it.
 *
 * @typedef {{
 *   refresh: () => Promise<unknown>, succeeded: () => void, failed: (error: unknown) => void,
 *   isHidden: () => boolean, isGone: () => boolean, now: () => number,
 *   later: (action: () => void, milliseconds: number) => () => void,
 * }} Surroundings
 */

/**
 * How long to wait after a refresh, in milliseconds. A server that does not answer is asked again soon.
 *
 * @param {number} took
 * @param {boolean} isGone
 * @returns {number}
 */
export function waitAfter(took, isGone) {
  return isGone ? EVERY : Math.max(EVERY, took * EASE);
}

/**
 * A function that refreshes now and continues from there; only its last call counts. It stops while the page is hidden.
 *
 * @param {Surroundings} surroundings
 * @returns {() => Promise<void>}
 */
export function refreshLoop({ refresh, succeeded, failed, isHidden, isGone, now, later }) {
  let prevent = () => {};
  let calls = 0;
  return async function look() {
    prevent();
    const mine = ++calls;
    if (isHidden()) return;
    const began = now();
    try {
      await refresh();
      if (mine === calls) succeeded();
    } catch (error) {
      if (mine === calls) failed(error);
    }
    if (mine === calls) prevent = later(look, waitAfter(now() - began, isGone()));
  };
}
