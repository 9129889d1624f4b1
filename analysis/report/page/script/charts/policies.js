// Which policies stand out in a chart, and how they look.
import {numbers} from '../data.js';
import {look} from '../palette.js';

const most = 6;
const few = 3;

/// Indices of policies that are on the metric's Pareto front, those with the most points there first.
export function frontPolicies(run, metric, against = 'budget') {
  const front = numbers(run.fronts?.[metric]?.[against] ?? null);
  if (!front) return [];
  const points = run.policies.map((_, p) => [p, front.row(p).filter((on) => on === 1).length]);
  return points.filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]).map(([p]) => p);
}

/// What stands out while nothing is picked: the front, then the best and the next best; all, when there are few.
export function standingOut(run, metric = defaultMetric(run), against = 'budget') {
  if (run.policies.length <= most) return run.policies.map((_, p) => p);
  const chosen = frontPolicies(run, metric, against).slice(0, most);
  for (const key of ['policy', 'next']) {
    for (const best of run.best?.[metric] ?? []) {
      if (chosen.length < most && best[key] !== null && !chosen.includes(best[key])) chosen.push(best[key]);
    }
  }
  for (let p = 0; p < run.policies.length && chosen.length < few; ++p) {
    if (run.policies[p].kind === 'policy' && !chosen.includes(p)) chosen.push(p);
  }
  return chosen;
}

/// Series for a line chart: all policies, with a look for those that stand out.
export function policySeries(run, chosen, theme) {
  return run.policies.map((policy, p) => {
    const place = chosen.indexOf(p);
    return {name: policy.shown, look: place < 0 ? null : look(place, theme)};
  });
}

export const metricOf = (run, name) => run.metrics.find((metric) => metric.name === name) ?? null;

/// Metrics of a group that hold at least one number.
export function metricsWithValues(run, group) {
  return run.metrics.filter(
      (metric) => metric.group === group && numbers(metric.values).values.some((value) => !Number.isNaN(value)));
}

/// The budget that tables and maps begin with: the one nearest to a fifth of the prompt.
export function usualBudget(run, among = run.budgets.map((_, b) => b)) {
  return among.reduce(
      (best, b) => (Math.abs(run.budgets[b].share - 0.2) < Math.abs(run.budgets[best].share - 0.2) ? b : best),
      among[0]);
}

/// What policies are judged by until the reader says otherwise; null where no metric has a value.
export function defaultMetric(run) {
  const names = metricsWithValues(run, 'quality').map((metric) => metric.name);
  return names.includes(run.default_metric) ? run.default_metric : names[0] ?? null;
}

/// What lies between a metric's bounds.
export const boundsTitle = (metric) => (metric.interval === 'calibration' ? 'band of the prediction' : '95 % interval');

/// The policy that maps begin with: the best at that budget, else the first.
export function usualPolicy(run, b) {
  return run.best?.[defaultMetric(run)]?.find((entry) => entry.budget === b)?.policy ?? 0;
}

/// Rows of a table over all points: policy and budget before each of the rows that `rows(p, b)` gives.
export const pointRows = (run, rows) => run.policies.flatMap(
    (policy, p) => run.budgets.flatMap((budget, b) => rows(p, b).map((row) => [policy.name, budget.text, ...row])));

/// A unit that is worth writing behind a title.
export const titled = (metric) =>
    (metric.unit && metric.unit !== 'share' ? `${metric.title} (${metric.unit})` : metric.title);
