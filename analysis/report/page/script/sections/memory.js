// 6. Bytes per tier, recall and churn.
import {barPolicies, hasTiers, memoryCsv, tierBarsSpec, tierStepsCsv, tierStepsSpec, trafficMetrics, trafficSpec} from '../charts/memory.js';
import {metricOf, metricsWithValues, usualBudget, usualPolicy} from '../charts/policies.js';
import {numbers, whyMissing} from '../data.js';
import {chooser, element, notice, slider} from '../elements.js';
import {figure} from '../figure.js';
import {inUnit, sentence} from '../format.js';
import {tableCard} from '../table.js';

const few = 16;

function memoryTable(run, b) {
  const metrics =
      metricsWithValues(run, 'memory').filter((metric) => numbers(metric.values).values.some((value) => value > 0));
  const rows =
      run.policies.map((policy, p) => [policy.shown, ...metrics.map((metric) => numbers(metric.values).at(p, b))])
          .filter((row) => row.slice(1).some((value) => value !== null));
  return tableCard({
    name: 'memory',
    title: `Memory and traffic at ${run.budgets[b].text}`,
    rows,
    columns: [
      {name: 'policy', long: true},
      ...metrics.map((metric) => ({
                       name: metric.title,
                       csv: metric.name,
                       number: true,
                       show: (value) => inUnit(value, metric.unit === 'bytes' ? 'bytes' : '')
                     }))
    ],
  });
}

export function memorySection(report, run, r) {
  const why = (part) => whyMissing(report, 'memory', part, r);
  const traffic = trafficMetrics(run);
  if (!metricOf(run, 'kept_bytes') && traffic.length === 0) return [notice(why(null) ?? 'The run holds no bytes.')];
  const choice = {b: usualBudget(run)};
  choice.p = hasTiers(run) ?
      barPolicies(run, choice.b)
              .find((p) => numbers(metricOf(run, 'host_bytes')?.values ?? null)?.at(p, choice.b) > 0) ??
          usualPolicy(run, 'output_error', choice.b) :
      usualPolicy(run, 'output_error', choice.b);
  const charts = [];
  const table = element('div', {}, memoryTable(run, choice.b));
  const at = () => `at ${run.budgets[choice.b].text}`;
  const tiersChart = figure({
    name: 'bytes_per_tier',
    title: 'Bytes per tier',
    note:
        'At rest after the prompt\'s cut, all layers. Policies with a placement, and those on the front of error against bytes.',
    build: (options) => tierBarsSpec(run, {b: choice.b, policies: barPolicies(run, choice.b)}, options),
    describe: () => `Bytes per tier ${at()}.`,
    csv: () => memoryCsv(run),
  });
  charts.push(tiersChart);
  let steps = null;
  if (run.memory?.steps && run.memory.hbm) {
    steps = figure({
      name: 'bytes_over_steps',
      title: 'Bytes per tier over decode steps',
      controls: [chooser(
          'Policy', run.policies.map((policy, p) => ({value: p, label: policy.shown})), choice.p,
          (p) => {
            choice.p = p;
            steps.redraw();
          },
          {'data-control': 'memory-policy'})],
      build: (options) => tierStepsSpec(run, choice, options),
      describe: () => `Bytes of ${run.policies[choice.p].shown} over decode steps ${at()}.`,
      csv: () => tierStepsCsv(run),
    });
    charts.push(steps);
  }
  for (const metric of traffic.filter((one) => one.group === 'memory').slice(0, 3)) {
    charts.push(figure({
      name: metric.name,
      title: metric.name === 'evictions_per_step' ? 'Churn: entries cut per step' : sentence(metric.title),
      note: `The ${few} policies with the most; those without any are left out.`,
      build: (options) => trafficSpec(run, {metric: metric.name, b: choice.b, limit: few}, options),
      describe: () => `${metric.title} ${at()}.`,
      csv: () => memoryCsv(run),
    }));
  }
  return [
    run.budgets.length > 1 ? element(
                                 'div', {class: 'card'},
                                 element(
                                     'div', {class: 'controls'},
                                     slider(
                                         'Budget', run.budgets.map((budget) => budget.text), choice.b,
                                         (place) => {
                                           choice.b = place;
                                           charts.forEach((chart) => chart.redraw());
                                           table.replaceChildren(memoryTable(run, choice.b));
                                         }))) :
                             null,
    element('div', {class: 'pair'}, charts.map((chart) => chart.root)),
    table,
    steps ? null : notice(why('steps') ?? 'The run holds no bytes by step.'),
    hasTiers(run) ? null :
                    notice(why('tiers') ?? 'No policy of this run keeps anything below HBM: what is cut is dropped.'),
    why('recall') ? notice(why('recall')) : null,
  ];
}
