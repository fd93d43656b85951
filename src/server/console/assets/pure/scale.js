// Owns the arithmetic of axes.

/**
 * About five round numbers from `low` to `high`.
 *
 * @param {number} low
 * @param {number} high
 * @returns {number[]}
 */
export function ticks(low, high) {
  const rough = (high - low || Math.abs(high) || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? 10 * power;
  const found = [];
  // Adding 0 turns -0 into 0.
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step + 0);
  return found;
}

/**
 * A function from values between `low` and `high` to places between `from` and `to`.
 *
 * @param {number} low
 * @param {number} high
 * @param {number} from
 * @param {number} to
 * @returns {(value: number) => number}
 */
export function linear(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

/**
 * The ends of the axis of a line: those of its values, and zero if that is near.
 *
 * @param {number[]} values at least one
 * @returns {[number, number]}
 */
export function lineBounds(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = low === high ? Math.abs(low) / 2 || 1 : 0;
  return [low > 0 && low < high / 2 ? 0 : low - margin, high + margin];
}

/**
 * At most `room` of the items, at even distances; the first and the last are among them.
 *
 * @template T
 * @param {T[]} items
 * @param {number} room at least 2
 * @returns {T[]}
 */
export function spread(items, room) {
  const number = Math.min(room, items.length);
  const step = (items.length - 1) / Math.max(number - 1, 1);
  return Array.from({ length: number }, (_, part) => items[Math.round(part * step)]);
}
