// Owns how often costly data is read: when something is new, and only for a small part of the time.

/** The pause after a reading, as a multiple of the time that it took. */
const EASE = 10;

/** The mark of a reading that is wanted at once. */
export const AT_ONCE = "at once";

/**
 * A function that calls `read` if its mark differs from the last one, and the pause after the last reading is over.
 *
 * @param {() => Promise<void>} read
 * @param {() => number} now milliseconds of a clock
 * @returns {(mark: string) => Promise<void>}
 */
export function eased(read, now) {
  /** @type {string | null} */
  let seen = null;
  let next = 0;
  return async (mark) => {
    const began = now();
    if (mark === seen || (mark !== AT_ONCE && began < next)) return;
    await read();
    if (mark !== AT_ONCE) seen = mark;
    next = began + (now() - began) * EASE;
  };
}
