// Bytes per tier, what moves between tiers, and churn.
import {numbers} from '../data.js';
import {bytes, inUnit} from '../format.js';
import {areas} from '../specs/areas.js';
import {bars} from '../specs/bars.js';

import {defaultMetric, metricOf, pointRows, standingOut} from './policies.js';

export const tiers = [
  {key: 'hbm', name: 'HBM', metric: 'kept_bytes'}, {key: 'host', name: 'host', metric: 'host_bytes'},
  {key: 'disk', name: 'disk', metric: 'disk_bytes'}
];

const valueOf = (run, metric, p, b) => numbers(metricOf(run, metric)?.values ?? null)?.at(p, b) ?? null;
const behind = (run, p, b) => numbers(run.behind).at(p, b) > 0;

const mostBars = 16;

/// Policies worth a bar: the full cache, those on the front against bytes, and those that keep something below
/// HBM.
export function barPolicies(run, b) {
  const placed = run.policies.map((_, p) => p)
                     .filter((p) => ['host_bytes', 'disk_bytes'].some((name) => valueOf(run, name, p, b) > 0));
  const full = run.policies.findIndex((policy) => policy.kind === 'full');
  return [
    ...new Set([...(full >= 0 ? [full] : []), ...standingOut(run, defaultMetric(run), 'bytes'), ...placed])
  ].slice(0, mostBars);
}

/// Metrics of what moves, is cut or is scored, where any policy has some.
export function trafficMetrics(run) {
  return [
    'recall_bytes_per_step', 'evictions_per_step', 'written_bytes_per_step', 'scanned_bytes_per_step',
    'scored_entries_per_step'
  ].map((name) => metricOf(run, name))
      .filter((metric) => metric && numbers(metric.values).values.some((value) => value > 0));
}

/// Bars of bytes at rest per tier; choice: {b, policies: [p]}.
export function tierBarsSpec(run, {b, policies}, {theme, width}) {
  const used = tiers.filter((tier) => tier.key === 'hbm' || policies.some((p) => valueOf(run, tier.metric, p, b) > 0));
  const rows = policies.filter((p) => behind(run, p, b)).flatMap((p) => {
    const name = run.policies[p].shown;
    const values = used.map((tier) => valueOf(run, tier.metric, p, b));
    if (values.every((value) => value === null)) return [];
    const tip = {title: name, lines: used.map((tier, i) => [tier.name, bytes(values[i])])};
    return used.map((tier, i) => ({name, part: tier.name, value: values[i], tip}));
  });
  return bars({
    rows,
    parts: used.map((tier) => ({name: tier.name, colour: theme.tiers[tier.key]})),
    title: 'bytes at rest after the prompt\'s cut',
    format: '.3~s',
    width,
    legend: true,
  });
}

/// Bars of one metric of group memory or work; policies with the largest first. choice: {metric, b, limit}.
export function trafficSpec(run, {metric: name, b, limit}, {theme, width}) {
  const metric = metricOf(run, name);
  const rows =
      run.policies
          .map((policy, p) => ({p, name: policy.shown, value: behind(run, p, b) ? valueOf(run, name, p, b) : null}))
          .filter((row) => row.value !== null && row.value > 0)
          .sort((x, y) => y.value - x.value)
          .slice(0, limit);
  return bars({
    rows: rows.map((row) => ({
                     name: row.name,
                     part: metric.title,
                     value: row.value,
                     tip: {title: row.name, lines: [[metric.title, inUnit(row.value, metric.unit)]]}
                   })),
    parts: [{name: metric.title, colour: theme.accent}],
    title: metric.title,
    width,
  });
}

/// Bytes per tier over decode steps of one policy and budget.
export function tierStepsSpec(run, {p, b}, {theme, width}) {
  const {steps} = run.memory;
  const arrays = tiers.map((tier) => numbers(run.memory[tier.key]));
  const used =
      tiers.map((tier, i) => ({...tier, values: arrays[i]?.row(p, b) ?? null}))
          .filter((tier) => tier.values !== null && (tier.key === 'hbm' || tier.values.some((value) => value > 0)));
  const rows = used.flatMap((tier, order) => steps.map((step, s) => ({
                                                         part: tier.name,
                                                         order,
                                                         x: step,
                                                         value: tier.values[s],
                                                         tip: {
                                                           title: `${tier.name} of ${run.policies[p].shown}`,
                                                           lines: [
                                                             ['at the first step', bytes(tier.values[0])],
                                                             ['at the last step', bytes(tier.values[steps.length - 1])]
                                                           ]
                                                         },
                                                       })));
  return areas({
    rows,
    parts: used.map((tier) => ({name: tier.name, colour: theme.tiers[tier.key]})),
    xTitle: 'decode step',
    yTitle: 'bytes',
    width,
  });
}

export function memoryCsv(run) {
  const metrics = run.metrics.filter((metric) => metric.group === 'memory' || metric.group === 'work');
  return {
    columns: ['policy', 'budget', ...metrics.map((metric) => metric.name)],
    rows:
        pointRows(run, (p, b) => (behind(run, p, b) ? [metrics.map((metric) => numbers(metric.values).at(p, b))] : []))
  };
}

export function tierStepsCsv(run) {
  const arrays = tiers.map((tier) => numbers(run.memory[tier.key]));
  return {
    columns: ['policy', 'budget', 'step', 'hbm_bytes', 'host_bytes', 'disk_bytes'],
    rows: pointRows(
        run,
        (p, b) => run.memory.steps.map((step, s) => [step, ...arrays.map((array) => array?.at(p, b, s) ?? null)])
                      .filter((row) => row.slice(1).some((value) => value !== null)))
  };
}
