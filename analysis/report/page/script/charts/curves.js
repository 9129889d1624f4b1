// Error-budget curves: a metric of every policy against the budget or against bytes.
import {numbers} from '../data.js';
import {inUnit} from '../format.js';
import {lineChart} from '../specs/line_chart.js';

import {boundsTitle, metricOf, policySeries, titled} from './policies.js';

/// Rows of one metric: {p, b, share, bytes, value, low, high, front}.
export function curveRows(run, metricName, against) {
  const metric = metricOf(run, metricName);
  const values = numbers(metric.values);
  const low = numbers(metric.low);
  const high = numbers(metric.high);
  const bytes = numbers(metricOf(run, 'kept_bytes')?.values ?? null);
  const front = numbers(run.fronts?.[metricName]?.[against] ?? null);
  const behind = numbers(run.behind);
  const within = numbers(run.within);
  const rows = [];
  run.policies.forEach((_, p) => run.budgets.forEach((budget, b) => {
    if (!(behind.at(p, b) > 0)) return;
    rows.push({
      p,
      b,
      share: budget.share,
      bytes: bytes?.at(p, b) ?? null,
      value: values.at(p, b),
      low: low?.at(p, b) ?? null,
      high: high?.at(p, b) ?? null,
      front: front?.at(p, b) === 1,
      over: within?.at(p, b) === 0,
    });
  }));
  return rows;
}

function tip(run, metric, row) {
  const policy = run.policies[row.p];
  const lines = [['budget', run.budgets[row.b].text], [metric.title, inUnit(row.value, metric.unit)]];
  if (row.low !== null && row.high !== null)
    lines.push([boundsTitle(metric), `${inUnit(row.low, '')} to ${inUnit(row.high, '')}`]);
  if (row.bytes !== null) lines.push(['kept in HBM', inUnit(row.bytes, 'bytes')]);
  if (row.over) lines.push(['keeps more than its budget', 'yes']);
  if (row.front) lines.push(['Pareto front', 'yes']);
  return {title: policy.shown, lines};
}

/// choice: {metric, against: 'budget'|'bytes', xLog, yLog, chosen: [p], onlyChosen, bands}; null when there is nothing
/// to draw.
export function curvesSpec(run, choice, {theme, width, paper}) {
  const metric = metricOf(run, choice.metric);
  const against = choice.against;
  const shown =
      curveRows(run, choice.metric, against).filter((row) => !choice.onlyChosen || choice.chosen.includes(row.p));
  const rows =
      shown
          .map((row) => ({
                 s: row.p,
                 x: against === 'bytes' ? row.bytes : row.share,
                 y: row.value,
                 low: choice.bands ? row.low : null,
                 high: choice.bands ? row.high : null,
                 star: row.front,
                 over: against === 'budget' && row.over,
                 tip: tip(run, metric, row),
               }))
          .filter(
              (row) => row.x !== null && row.y !== null && (!choice.yLog || row.y > 0) && (!choice.xLog || row.x > 0));
  rows.sort((a, b) => a.s - b.s || a.x - b.x);
  const front = rows.filter((row) => row.star).map(({x, y}) => ({x, y})).sort((one, other) => one.x - other.x);
  const shares = [...new Set(run.budgets.map((budget) => budget.share))];
  return lineChart({
    rows,
    front,
    series: policySeries(run, choice.chosen, theme),
    width,
    height: width < 480 ? 300 : 400,
    theme,
    paper,
    x: against === 'bytes' ? {title: 'bytes kept in HBM', log: choice.xLog, format: '.3~s'} : {
      title: 'budget: share of the prompt kept',
      log: choice.xLog,
      format: '~p',
      values: shares.length <= 12 ? shares : undefined
    },
    y: {title: titled(metric), log: choice.yLog, format: choice.yLog ? '~g' : '.3~g', zero: metric.minimum === 0},
  });
}

export function curvesCsv(run, metricName) {
  return {
    columns: [
      'policy', 'budget', 'budget_share', 'kept_bytes', metricName, `${metricName}_low`, `${metricName}_high`,
      'pareto_front', 'over_budget'
    ],
    rows: curveRows(run, metricName, 'budget')
              .map(
                  (row) =>
                      [run.policies[row.p].name, run.budgets[row.b].text, row.share, row.bytes, row.value, row.low,
                       row.high, Number(row.front), Number(row.over)]),
  };
}

/// Whether values of the metric are better read on a logarithmic axis: positive, over more than a factor of 30.
export function readsBetterInLog(run, metricName) {
  const metric = metricOf(run, metricName);
  if (metric.better !== 'lower' || metric.maximum !== null) return false;
  const positive = numbers(metric.values).values.filter((value) => value > 0).sort();
  return positive.length > 1 &&
      positive[Math.floor(0.95 * (positive.length - 1))] > 30 * positive[Math.floor(0.05 * (positive.length - 1))];
}
