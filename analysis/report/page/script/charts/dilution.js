// Where attention falls before and after eviction.
import {numbers} from '../data.js';
import {percent} from '../format.js';
import {look} from '../palette.js';
import {bars} from '../specs/bars.js';

import {pointRows} from './policies.js';

const before = 'full cache (before)';

// Useful first, so that its bars share a beginning; sets that are not known here come in between.
const firstSets = ['useful', 'distractor', 'rest'];
const lastSets = ['sink', 'decoded'];

const orderOf = (sets) =>
    [...firstSets.filter((set) => sets.includes(set)),
     ...sets.filter((set) => !firstSets.includes(set) && !lastSets.includes(set)),
     ...lastSets.filter((set) => sets.includes(set))];

/// Policies at a budget, most useful mass first: {p, masses: one per set}.
export function dilutionRows(run, b) {
  const after = numbers(run.dilution.after);
  const useful = Math.max(0, run.dilution.sets.indexOf('useful'));
  return run.policies.map((_, p) => ({p, masses: after.row(p, b)}))
      .filter((row) => row.masses.every((mass) => mass !== null))
      .sort((x, y) => y.masses[useful] - x.masses[useful]);
}

/// choice: {b, limit}.
export function dilutionSpec(run, choice, {theme, width}) {
  const {sets, full} = run.dilution;
  const shown = dilutionRows(run, choice.b).slice(0, choice.limit ?? Infinity);
  if (shown.length === 0) return null;
  const all =
      [{name: before, masses: full}, ...shown.map((row) => ({name: run.policies[row.p].shown, masses: row.masses}))];
  const order = orderOf(sets);
  return bars({
    rows: all.flatMap(
        ({name, masses}) => order.map((set) => ({
                                        name,
                                        part: set,
                                        value: masses[sets.indexOf(set)],
                                        tip: {title: name, lines: sets.map((one, i) => [one, percent(masses[i])])}
                                      }))),
    parts: order.map((set, i) => ({name: set, colour: theme.sets[set] ?? look(i, theme).colour})),
    title: 'share of attention',
    format: '~p',
    domain: [0, 1],
    width,
  });
}

export function dilutionCsv(run) {
  const {sets, full} = run.dilution;
  const after = numbers(run.dilution.after);
  const rows = pointRows(run, (p, b) => [after.row(p, b)].filter((masses) => masses.some((mass) => mass !== null)));
  return {columns: ['policy', 'budget', ...sets], rows: [[before, null, ...full], ...rows]};
}
