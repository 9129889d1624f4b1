// Where it hurts: by layer and head, by decode step, by position.
import {numbers} from '../data.js';
import {number, percent} from '../format.js';
import {heatMap} from '../specs/heat_map.js';
import {lineChart} from '../specs/line_chart.js';

import {policySeries} from './policies.js';

// The colours of a logarithmic map end four decades below the largest value.
const mostDecades = 1e4;

const named = (list, name) => list.find((metric) => metric.name === name);

/// Cells of the map of one policy and budget.
export function headCells(run, metricName, p, b) {
  const where = run.where;
  const metric = named(where.by_head, metricName);
  const values = numbers(metric.values);
  return where.layers
      .flatMap(
          (layer, l) => Array.from(
              {length: where.heads},
              (_, head) => {
                const value = values.at(p, b, l, head);
                return {
                  column: head,
                  row: layer,
                  value,
                  tip: {title: `layer ${layer}, head ${head}`, lines: [[metric.title, number(value)]]}
                };
              }))
      .filter((cell) => cell.value !== null);
}

/// The colours' range: over all budgets of the policy, so that they mean the same while the slider moves. Errors that
/// span more than a factor of 30 are read in logarithms, from the smallest that is not zero.
function colours(metric, p, budgets) {
  const values = numbers(metric.values);
  const each = values.values.length / (values.shape[0] * values.shape[1]);
  const own = values.values.subarray(p * budgets * each, (p + 1) * budgets * each);
  let [low, high, lowestPositive] = [Infinity, -Infinity, Infinity];
  for (const value of own) {
    if (value < low) low = value;
    if (value > high) high = value;
    if (value > 0 && value < lowestPositive) lowestPositive = value;
  }
  if (!(low <= high)) return null;
  if (metric.better === 'lower' && low >= 0 && high > 30 * lowestPositive) {
    return {domain: [Math.max(lowestPositive, high / mostDecades), high], log: true};
  }
  if (low < high) return {domain: [low, high], log: false};
  return {domain: low === 0 ? [0, 1] : [Math.min(0, low), Math.max(0, low)], log: false};
}

export function headMapSpec(run, {metric: metricName, p, b}, {theme, width}) {
  const where = run.where;
  const metric = named(where.by_head, metricName);
  const range = colours(metric, p, run.budgets.length);
  if (range === null) return null;
  return heatMap({
    cells: headCells(run, metricName, p, b),
    columns: Array.from({length: where.heads}, (_, head) => head),
    rows: where.layers,
    ...range,
    columnTitle: 'query head',
    rowTitle: 'layer',
    valueTitle: metric.title,
    reverse: metric.better === 'higher',
    width,
    theme,
    cellHeight: Math.min(26, Math.max(5, Math.round(420 / where.layers.length))),
  });
}

export function headsCsv(run, metricName) {
  const where = run.where;
  const values = numbers(named(where.by_head, metricName).values);
  const rows = [];
  run.policies.forEach((policy, p) => run.budgets.forEach((budget, b) => where.layers.forEach((layer, l) => {
    for (let head = 0; head < where.heads; ++head) {
      const value = values.at(p, b, l, head);
      if (value !== null) rows.push([policy.name, budget.text, layer, head, value]);
    }
  })));
  return {columns: ['policy', 'budget', 'layer', 'head', metricName], rows};
}

/// choice: {metric, b, chosen}.
export function stepsSpec(run, choice, {theme, width, paper}) {
  const {steps, metrics} = run.where.by_step;
  const metric = named(metrics, choice.metric);
  const values = numbers(metric.values);
  const rows =
      choice.chosen
          .flatMap((p) => steps.map((step, s) => {
            const y = values.at(p, choice.b, s);
            return {
              s: p,
              x: step,
              y,
              low: null,
              high: null,
              star: false,
              tip: {title: run.policies[p].shown, lines: [['decode step', String(step)], [metric.title, number(y)]]}
            };
          }))
          .filter((row) => row.y !== null);
  if (rows.length === 0) return null;
  return lineChart({
    rows,
    series: policySeries(run, choice.chosen, theme),
    width,
    height: 260,
    theme,
    paper,
    points: steps.length <= 40,
    x: {title: 'decode step', nice: false},
    y: {title: metric.title, zero: true, format: '.3~g'},
  });
}

export function stepsCsv(run, metricName) {
  const {steps, metrics} = run.where.by_step;
  const values = numbers(named(metrics, metricName).values);
  const rows = [];
  run.policies.forEach((policy, p) => run.budgets.forEach((budget, b) => steps.forEach((step, s) => {
    const value = values.at(p, b, s);
    if (value !== null) rows.push([policy.name, budget.text, step, value]);
  })));
  return {columns: ['policy', 'budget', 'step', metricName], rows};
}

/// choice: {what: 'evicted'|'lost', b, chosen}.
export function positionsSpec(run, choice, {theme, width, paper}) {
  const {edges} = run.where.by_position;
  const values = numbers(run.where.by_position[choice.what]);
  const title = choice.what === 'lost' ? 'attention lost' : 'share of entries evicted';
  const rows = choice.chosen
                   .flatMap((p) => edges.slice(1).flatMap((end, k) => {
                     const y = values.at(p, choice.b, k);
                     const tip = {
                       title: run.policies[p].shown,
                       lines: [['tokens', `${edges[k]} to ${end - 1}`], [title, percent(y)]]
                     };
                     const one = {s: p, y, low: null, high: null, star: false, tip};
                     return [{...one, x: edges[k]}, ...(k + 2 === edges.length ? [{...one, x: end}] : [])];
                   }))
                   .filter((row) => row.y !== null);
  if (rows.length === 0) return null;
  return lineChart({
    rows,
    series: policySeries(run, choice.chosen, theme),
    width,
    height: 260,
    theme,
    paper,
    step: true,
    points: false,
    x: {title: 'position in the prompt', nice: false},
    y: {title, zero: true, format: '~p'},
  });
}

export function positionsCsv(run) {
  const {edges} = run.where.by_position;
  const evicted = numbers(run.where.by_position.evicted);
  const lost = numbers(run.where.by_position.lost);
  const rows = [];
  run.policies.forEach((policy, p) => run.budgets.forEach((budget, b) => edges.slice(1).forEach((end, k) => {
    const share = evicted.at(p, b, k);
    if (share !== null) rows.push([policy.name, budget.text, edges[k], end, share, lost?.at(p, b, k) ?? null]);
  })));
  return {columns: ['policy', 'budget', 'from', 'to', 'evicted', 'lost'], rows};
}
