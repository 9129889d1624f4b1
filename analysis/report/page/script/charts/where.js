// Where it hurts: by layer and head, by decode step, by position.
import {numbers} from '../data.js';
import {number, percent} from '../format.js';
import {heatMap} from '../specs/heat_map.js';
import {lineChart} from '../specs/line_chart.js';

import {pointRows, policySeries} from './policies.js';

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
  const heads = Array.from({length: where.heads}, (_, head) => head);
  return {
    columns: ['policy', 'budget', 'layer', 'head', metricName],
    rows: pointRows(
        run,
        (p, b) => where.layers.flatMap((layer, l) => heads.map((head) => [layer, head, values.at(p, b, l, head)]))
                      .filter((row) => row[2] !== null))
  };
}

/// Lines of the chosen policies; `points(p)` gives [{x, y, lines: of the tip}].
function policyLines(run, chosen, points, options) {
  return lineChart({
    rows: chosen.flatMap(
        (p) => points(p).map(({x, y, lines}) => ({s: p, x, y, tip: {title: run.policies[p].shown, lines}}))),
    series: policySeries(run, chosen, options.theme),
    height: 260,
    ...options,
  });
}

/// choice: {metric, b, chosen}.
export function stepsSpec(run, choice, options) {
  const {steps, metrics} = run.where.by_step;
  const metric = named(metrics, choice.metric);
  const values = numbers(metric.values);
  const points = (p) => steps.map((step, s) => {
    const y = values.at(p, choice.b, s);
    return {x: step, y, lines: [['decode step', String(step)], [metric.title, number(y)]]};
  });
  return policyLines(run, choice.chosen, points, {
    points: steps.length <= 40,
    x: {title: 'decode step', nice: false},
    y: {title: metric.title, zero: true, format: '.3~g'},
    ...options
  });
}

export function stepsCsv(run, metricName) {
  const {steps, metrics} = run.where.by_step;
  const values = numbers(named(metrics, metricName).values);
  return {
    columns: ['policy', 'budget', 'step', metricName],
    rows: pointRows(run, (p, b) => steps.map((step, s) => [step, values.at(p, b, s)]).filter((row) => row[1] !== null))
  };
}

/// choice: {what: 'evicted'|'lost', b, chosen}.
export function positionsSpec(run, choice, options) {
  const {edges} = run.where.by_position;
  const values = numbers(run.where.by_position[choice.what]);
  const title = choice.what === 'lost' ? 'attention lost' : 'share of entries evicted';
  // The last bin's value again at its end, for the last step of the line.
  const points = (p) => edges.map((edge, k) => {
    const bin = Math.min(k, edges.length - 2);
    const y = values.at(p, choice.b, bin);
    return {x: edge, y, lines: [['tokens', `${edges[bin]} to ${edges[bin + 1] - 1}`], [title, percent(y)]]};
  });
  return policyLines(run, choice.chosen, points, {
    step: true,
    points: false,
    x: {title: 'position in the prompt', nice: false},
    y: {title, zero: true, format: '~p'},
    ...options
  });
}

export function positionsCsv(run) {
  const {edges} = run.where.by_position;
  const evicted = numbers(run.where.by_position.evicted);
  const lost = numbers(run.where.by_position.lost);
  return {
    columns: ['policy', 'budget', 'from', 'to', 'evicted', 'lost'],
    rows: pointRows(
        run,
        (p, b) => edges.slice(1)
                      .map((end, k) => [edges[k], end, evicted.at(p, b, k), lost?.at(p, b, k) ?? null])
                      .filter((row) => row[2] !== null))
  };
}
